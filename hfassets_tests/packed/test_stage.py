"""Files of text as packed Parquet: every token in a row or a count, whatever kills it, with any number of workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import orjson
import pyarrow.parquet as pq
import pytest

from hfassets.demo.hub_model import write_tokenizer
from hfassets.errors import DataError, UsageError
from hfassets.mds.inputs import Cut
from hfassets.mds.origins import Target, from_files
from hfassets.mds.stage import StageOutput, StageRun, make_stage
from hfassets.packed.stage import Packing
from hfassets.storage.state import StateDir
from hfassets.tokens import read_packed
from hfassets.tokens.engine import Engine, TokenizerSource
from hfassets_tests.mds.pipeline import corpus, write_jsonl

TEXTS = [row["text"] for row in corpus(120)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus and a tokenizer."""
    root = tmp_path_factory.mktemp("packed")
    write_jsonl(root / "source", corpus(120))
    (root / "tokenizer").mkdir()
    write_tokenizer(root / "tokenizer")
    return root


def pack(place: Path, out: Path, workers: int = 1, **given: Any) -> StageOutput:
    """The corpus, in some parts."""
    tokenizer = TokenizerSource.read(place / "tokenizer")
    state = StateDir(out.parent / "state")
    found = from_files(place / "source", Target(out, state, cut=Cut(20_000)))
    given = {"size": 256, "shard_bytes": 60_000, **given}
    return make_stage(Packing(out, found, tokenizer, place / "tokenizer", **given).stage(), StageRun(state, workers))


def shards(out: Path) -> dict[str, bytes]:
    """By name."""
    return {path.name: path.read_bytes() for path in sorted(out.glob("shard_*.parquet"))}


def _texts(place: Path, rows: Sequence[Any]) -> list[str]:
    """What the rows say, document by document, in the order of their names' first pieces."""
    engine = Engine(TokenizerSource.read(place / "tokenizer"), "tokenizers")
    pieces: dict[str, list[tuple[int, list[int]]]] = {}
    for row in rows:
        at = 0
        for span in row["spans"]:
            ids = [int(one) for one in row["input_ids"][at : at + span["length"]]]
            pieces.setdefault(span["id"], []).append((int(span["offset"]), ids))
            at += span["length"]
    return [
        engine.decode([one for _, some in sorted(found) for one in some][:-1]) for _, found in sorted(pieces.items())
    ]


@pytest.mark.parametrize("mode", ["concat", "best_fit"])
@pytest.mark.parametrize("size", [1, 7, 1024, 8192, 32768])
def test_every_document_comes_back(place: Path, tmp_path: Path, mode: str, size: int) -> None:
    """Whole, with an end behind it, whatever the size of a row; the account closes; other tools read the files."""
    made = pack(place, tmp_path / "out", size=size, mode=mode, shard_bytes=4_000_000)
    found = read_packed(tmp_path / "out")
    rows = [row for path in sorted((tmp_path / "out").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert sorted(_texts(place, rows)) == sorted(text for text in TEXTS if text)
    account = made.account
    assert account["documents_in"] == len(TEXTS) and account["documents_empty"] == TEXTS.count("")
    assert account["tokens_in"] + account["eos_added"] + account["padding"] == account["content_written"]
    assert account["content_written"] == len(found) * size
    stats = orjson.loads((tmp_path / "out_stats.json").read_bytes())
    assert stats["total_sequences"] == len(found) and stats["shards_created"] == len(shards(tmp_path / "out"))
    assert stats["total_samples"] == len(TEXTS) - TEXTS.count("")
    field = pq.read_schema(tmp_path / "out/shard_0000.parquet").field("labels")
    assert str(field.type) == f"fixed_size_list<element: int32>[{size}]"


def test_workers_and_a_second_run_change_nothing(place: Path, tmp_path: Path) -> None:
    """The same shards with 1 and 2 processes, none over its limit; done is done."""
    pack(place, tmp_path / "one")
    made = pack(place, tmp_path / "two", workers=2)
    assert shards(tmp_path / "one") == shards(tmp_path / "two") and len(shards(tmp_path / "one")) > 3
    assert all(len(data) <= 60_000 for data in shards(tmp_path / "one").values())
    assert not made.reused and pack(place, tmp_path / "two").reused


_SCRIPT = """
import sys
from pathlib import Path
from hfassets_tests.packed.test_stage import pack
if __name__ == "__main__":
    pack(Path(sys.argv[1]), Path(sys.argv[2]), 2)
"""


def test_killed_it_goes_on(place: Path, tmp_path: Path) -> None:
    """SIGKILL when some parts are there: in the end the bytes are those of a quiet run."""
    pack(place, tmp_path / "quiet")
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, str(script), str(place), str(tmp_path / "out")], env=environment, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob(".parts/part_*/manifest.json")) and time.monotonic() < deadline:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out/.parts/manifest.json").exists()
    pack(place, tmp_path / "out", 2)
    assert shards(tmp_path / "out") == shards(tmp_path / "quiet")


def test_begin_tokens_and_labels_as_asked(place: Path, tmp_path: Path) -> None:
    """In front of each document; labels shifted or not; what the tokenizer lacks is told."""
    pack(place, tmp_path / "plain", shifted=False)
    row = read_packed(tmp_path / "plain")[0]
    assert row["labels"].tolist() == row["input_ids"].tolist()
    with pytest.raises(UsageError, match="from 1 to 131,072"):
        pack(place, tmp_path / "x", size=0)
    made = pack(place, tmp_path / "bos", add_bos=True)
    assert made.account["specials_added"] == len(TEXTS) - TEXTS.count("")
    assert made.account["special_ids_in_text"] == made.account["specials_added"]


@pytest.mark.parametrize("shifted", [True, False])
def test_rationales_are_masked(place: Path, tmp_path: Path, shifted: bool) -> None:
    """Those that the metadata names: what is left to learn says what the texts say without them, with every end."""
    texts = [f"user: what is {n} + {n}?\nassistant: It is {n} and {n}, so {2 * n}.\n#### {2 * n}" for n in range(40)]
    spans = [None if n % 4 == 0 else [text.index("It is"), text.index("\n####")] for n, text in enumerate(texts)]
    rows = [
        {"id": str(n), "text": text, "metadata": {} if span is None else {"rationale_span": span}}
        for n, (text, span) in enumerate(zip(texts, spans, strict=True))
    ]
    write_jsonl(tmp_path / "source", [*rows, {"id": "x", "text": "short", "metadata": {"rationale_span": [0, 9]}}], 2)
    (tmp_path / "tokenizer").symlink_to(place / "tokenizer")
    made = pack(tmp_path, tmp_path / "out", size=64, mode="best_fit", loss_mask=True, shifted=shifted)
    engine = Engine(TokenizerSource.read(place / "tokenizer"), "tokenizers")
    end = engine.decode([engine.specials.eos])
    learnt: list[str] = []
    for row in read_packed(tmp_path / "out"):
        content = int(row["attention_mask"].sum())
        assert set(row["loss_mask"].tolist()) <= {0, 1} and not row["loss_mask"][content:].any()
        # The first token of a row is no label where labels are shifted.
        first = row["input_ids"][:1].tolist() if shifted else []
        learnt += engine.decode([*first, *row["labels"][row["loss_mask"] == 1].tolist()]).split(end)
    named = zip(texts, spans, strict=True)
    expected = [text if span is None else text[: span[0]].rstrip() + text[span[1] :] for text, span in named]
    assert sorted(filter(None, learnt)) == sorted(expected)
    assert made.details["read"]["refused_bad_span"] == 1 and made.details["not_learnt"] > 0


def test_datasets_reads_the_shards(place: Path, tmp_path: Path) -> None:
    """As any Parquet, and nothing else that lies in the folder."""
    pack(place, tmp_path / "out")
    found = datasets.load_dataset(
        "parquet", data_dir=str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "c")
    )
    assert len(found) == len(read_packed(tmp_path / "out"))
    assert set(found.column_names) == {"input_ids", "attention_mask", "labels", "spans"}


def test_nothing_to_pack_is_told(place: Path, tmp_path: Path) -> None:
    """And leaves no folder that looks finished."""
    write_jsonl(tmp_path / "source", [{"text": ""}], files=1)
    (tmp_path / "tokenizer").symlink_to(place / "tokenizer")
    with pytest.raises(DataError, match="no row came out of 1 rows of text"):
        pack(tmp_path, tmp_path / "out")
    assert not shards(tmp_path / "out")
