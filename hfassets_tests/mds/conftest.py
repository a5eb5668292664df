"""A tokenizer, and the stages of a corpus."""

from __future__ import annotations

from pathlib import Path

import pytest

from hfassets.demo.hub_model import write_tokenizer
from hfassets_tests.mds.pipeline import COUNT, Pipeline, corpus, write_jsonl


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample Hub's tokenizer: byte-level, an end token, nothing around sequences."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Pipeline:
    """The stages of a corpus, made by one process."""
    pipeline = Pipeline(tmp_path_factory.mktemp("pipeline"), tokenizer)
    write_jsonl(pipeline.root / "source", corpus(COUNT))
    pipeline.text()
    pipeline.tokens()
    pipeline.chunks()
    return pipeline
