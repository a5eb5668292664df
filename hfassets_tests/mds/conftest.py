"""mosaicml-streaming as it is installed, made importable beside a CPU build of torch."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from hfassets.demo.hub_model import write_tokenizer
from hfassets_tests.mds.pipeline import COUNT, Pipeline, corpus, write_jsonl


@pytest.fixture(scope="session")
def streaming() -> Any:
    """The unmodified library. Its torchvision is built for CUDA and asks for two operators that a CPU torch lacks."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    found = importlib.import_module("streaming")
    found._library = library
    return found


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
