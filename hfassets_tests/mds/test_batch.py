"""All recipes of a catalog in one go: what fails costs only what needs it."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from hfassets.catalog.load import load_catalog
from hfassets.catalog.lock import Lock, partitions
from hfassets.errors import PartialFailureError, UsageError
from hfassets.mds.batch import Batch, make_all
from hfassets.mds.from_catalog import Recipes
from hfassets_tests.mds.pipeline import corpus, write_jsonl

CATALOG = """\
mds:
  - {name: one, source: {files: one}, tokenizer: {file: TOKENIZER}, chunks: &rule {size: 128}}
  - {name: two, source: {files: two}, tokenizer: {file: TOKENIZER}, chunks: *rule}
  - {name: bad, source: {files: bad}, tokenizer: {file: TOKENIZER}, chunks: *rule}
mixtures:
  - {name: good, members: {one: 0.5, two: 0.5}}
  - {name: lame, members: {one: 0.5, bad: 0.5}}
extensions:
  - {name: long, domains: {one: 1.0}, tokens: 2000, chunks: {size: 256}}
"""


@pytest.fixture
def make(tmp_path: Path, tokenizer: Path):
    """Make what is named."""
    rows = corpus(120)
    write_jsonl(tmp_path / "one", rows[:60])
    write_jsonl(tmp_path / "two", rows[60:])
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.jsonl").write_bytes(orjson.dumps({"body": "x"}) + b"\n")
    (tmp_path / "catalog.yaml").write_text(CATALOG.replace("TOKENIZER", str(tokenizer)))
    catalog = load_catalog(tmp_path / "catalog.yaml")
    known = partitions(catalog, Lock(()))

    def call(*names: str, last: str = "sample") -> Batch:
        return make_all(Recipes(catalog), known, names, last)

    return call


def _ready(batch: Batch) -> set[tuple[str, str]]:
    return {(key, stage) for key, stage, made in batch.made if not made.reused}


def test_a_failure_costs_what_needs_it_and_nothing_else(make) -> None:
    """Each is named with its reason; a second run makes nothing anew."""
    batch = make()
    everything = {("one", stage) for stage in ("text", "tokens", "chunks", "sample")}
    everything |= {("two", stage) for _, stage in everything} | {("good", "set"), ("long", "set")}
    assert _ready(batch) == everything
    with pytest.raises(
        PartialFailureError, match=r"2 of 6 recipes failed: bad: .*no column 'text'.*; lame: its members bad failed"
    ):
        batch.check()
    assert not _ready(make())


def test_what_is_named_brings_what_it_is_made_of(make) -> None:
    """And no more; a stage may be the last."""
    assert _ready(make("one", last="tokens")) == {("one", "text"), ("one", "tokens")}
    assert _ready(make("good")) == {
        ("one", "chunks"), ("one", "sample"), *(("two", stage) for stage in ("text", "tokens", "chunks", "sample")),
        ("good", "set"),
    }  # fmt: skip
    with pytest.raises(UsageError, match="did you mean 'good'"):
        make("goood")
