"""Real documents through the stages: nothing lost, nothing twice, whoever works on it and however it is interrupted."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hfassets.errors import DataError, IntegrityError, PartialFailureError, UsageError
from hfassets.mds.documents import Columns
from hfassets.mds.index import collect, read_index, write_merged
from hfassets.mds.inputs import Cut
from hfassets.mds.sides import ValidationRule
from hfassets.mds.verify import verify_mds
from hfassets.tokens.rules import ChunkRule
from hfassets_tests.mds.pipeline import COUNT, RULE, VALIDATION, Pipeline, corpus, samples, tree, write_jsonl


def expected_ids(rows: list[dict[str, Any]], files: int = 3) -> list[str]:
    """Those given, and for others the file and the row."""
    each = -(-len(rows) // files)
    return [row.get("id") or f"f{number // each}.jsonl#{number % each}" for number, row in enumerate(rows)]


def is_validation(text: str) -> bool:
    """RULES.md on validation, read aloud."""
    digest = hashlib.sha256(b"1\0" + text.encode()).digest()
    return int.from_bytes(digest[:8], "big") < VALIDATION.fraction * 2**64


def test_text_is_every_row_on_its_side(made: Pipeline) -> None:
    """Texts and ids as they were, in order; a side is decided by the text alone."""
    rows = corpus(COUNT)
    parts = sorted(path for path in (made.root / "text").glob("part_*"))
    assert len(parts) > 5
    train = [one for part in parts for one in samples(part / "train")]
    validation = [one for part in parts if (part / "validation").exists() for one in samples(part / "validation")]
    whole = list(zip(expected_ids(rows), [row["text"] for row in rows], strict=True))
    assert [(one["id"], one["text"]) for one in train] == [one for one in whole if not is_validation(one[1])]
    assert [(one["id"], one["text"]) for one in validation] == [one for one in whole if is_validation(one[1])]
    assert len(samples(made.root / "text")) == COUNT
    assert not {one["text"] for one in train} & {one["text"] for one in validation}


def test_tokens_are_the_references(made: Pipeline) -> None:
    """Each document's tokens, its id and its length; empty ones are counted."""
    texts = {one["id"]: one["text"] for one in samples(made.root / "text")}
    found = samples(made.root / "tokens")
    reference = made.engine._reference
    for one in found:
        assert one["input_ids"].tolist() == reference.encode(texts[one["id"]], add_special_tokens=False).ids
        assert one["len"] == len(one["input_ids"]) and one["input_ids"].dtype == np.uint16
    empty = sum(not text for text in texts.values())
    output = made.tokens()
    assert output.reused and output.account["documents_empty"] == empty > 0
    told = orjson.loads((made.root / "tokens/num_tokens.json").read_bytes())
    assert told["num_tokens"] == sum(one["len"] for one in found)
    assert told["num_truncated_tokens"] == sum(min(1024, one["len"]) for one in found)


@pytest.mark.parametrize("mode", ["per_document", "concat", "best_fit"])
def test_chunks_give_back_the_documents(made: Pipeline, mode: Any, streaming: Any) -> None:
    """Their contents by document and place are its tokens and an end token, and its text; none is over the size; the
    unmodified library reads them all."""
    rule = ChunkRule(RULE.size, mode, add_eos=True) if mode != "per_document" else ChunkRule(RULE.size, add_eos=True)
    output = made.chunks(rule, mode)
    texts = {one["id"]: one["text"] for one in samples(made.root / "text")}
    tokens = {one["id"]: one["input_ids"].tolist() for one in samples(made.root / "tokens")}
    pieces: dict[str, list[tuple[int, list[int]]]] = {}
    dataset = streaming.StreamingDataset(local=str(made.root / mode), batch_size=1)
    assert len(dataset) == output.account["rows"]
    # By number: its iterator takes milliseconds for each sample, and is tried on a small set elsewhere.
    for one in map(dataset.__getitem__, range(len(dataset))):
        assert len(one["input_ids"]) <= RULE.size
        content = one["input_ids"].tolist()
        spans = orjson.loads(one["spans"]) if "spans" in one else [[one["id"], one["offset"], len(content)]]
        for document, offset, length in spans:
            pieces.setdefault(document, []).append((offset, content[:length]))
            content = content[length:]
        assert not content
    engine = made.engine
    for document, expected in tokens.items():
        joined: list[int] = []
        for offset, found in sorted(pieces[document]):
            assert offset == len(joined)
            joined += found
        assert joined[:-1] == expected and joined[-1] == engine.specials.eos
        assert engine.decode(joined[:-1]) == texts[document]
    assert output.account["tokens_in"] == sum(map(len, tokens.values()))
    assert output.account["eos_added"] == len(tokens)


def test_the_old_fields_of_stats_are_there(made: Pipeline) -> None:
    """Written with specials, skipped, duplicated, percentiles by their old names."""
    output = made.chunks()
    stats = orjson.loads((made.root / "chunks/stats.json").read_bytes())
    lengths = [len(one["input_ids"]) for one in samples(made.root / "chunks")]
    assert stats["total_tokens_written"] == sum(lengths)
    assert stats["total_tokens_skipped"] == output.account["skipped"] > 0
    assert stats["total_duplicated_tokens"] == 0
    for name, value in stats["percentiles"].items():
        assert value == pytest.approx(np.percentile(lengths, int(name.removesuffix("th"))))
    assert sum(stats["sides"][side]["account"]["rows"] for side in stats["sides"]) == len(lengths)


@pytest.mark.parametrize("rule", [RULE, ChunkRule(RULE.size, "best_fit", add_eos=True)])
def test_one_go_writes_what_the_stages_write(made: Pipeline, rule: ChunkRule) -> None:
    """The same shards and indexes, byte for byte, and the same account, with the text's counts besides."""
    staged, fused = made.chunks(rule, f"staged-{rule.mode}"), made.fused(rule, f"fused-{rule.mode}")
    ours, theirs = (tree(made.root / f"{name}-{rule.mode}") for name in ("fused", "staged"))
    assert {name: data for name, data in ours.items() if name != "stats.json"} == {
        name: data for name, data in theirs.items() if name != "stats.json"
    }
    assert fused.account == staged.account
    text = made.text().account
    assert fused.details["text"] == {
        **{name: count for name, count in text.items() if not name.startswith("bytes")},
        "documents_empty": made.tokens().account["documents_empty"],
    }


@pytest.mark.parametrize("workers", [2, 8])
def test_more_workers_make_the_same_bytes(made: Pipeline, tmp_path: Path, workers: int) -> None:
    """Of every stage."""
    other = Pipeline(tmp_path, made.tokenizer, workers)
    write_jsonl(other.root / "source", corpus(COUNT))
    other.text()
    other.tokens()
    other.chunks()
    for stage in ("text", "tokens", "chunks"):
        assert tree(other.root / stage) == tree(made.root / stage)


_SCRIPT = """
import sys
from pathlib import Path
from hfassets_tests.mds.pipeline import Pipeline
if __name__ == "__main__":
    getattr(Pipeline(Path(sys.argv[1]), Path(sys.argv[2]), 2), sys.argv[3])()
"""


@pytest.mark.parametrize("stage", ["text", "tokens", "chunks"])
def test_a_killed_stage_goes_on(made: Pipeline, tmp_path: Path, stage: str) -> None:
    """SIGKILL when some parts are done: nothing looks finished, no part is made twice, the bytes are the same."""
    other = Pipeline(tmp_path, made.tokenizer, 2)
    write_jsonl(other.root / "source", corpus(COUNT))
    for before in ("text", "tokens", "chunks"):
        if before == stage:
            break
        getattr(other, before)()
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), str(other.root), str(other.tokenizer), stage],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list((other.root / stage).glob("part_*/manifest.json")) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (other.root / stage / "manifest.json").exists() or process.returncode == 0
    done = {path: path.stat().st_mtime_ns for path in (other.root / stage).glob("part_*/manifest.json")}
    output = getattr(other, stage)()
    assert output.reused or output.parts_reused >= 1
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    assert tree(other.root / stage) == tree(made.root / stage)


def test_sides_are_those_of_the_texts_in_every_recipe(tmp_path: Path, tokenizer: Path) -> None:
    """A smaller share of a recipe leaves the rest out; what is validation there is validation everywhere."""
    whole, less = Pipeline(tmp_path / "a", tokenizer), Pipeline(tmp_path / "b", tokenizer)
    for pipeline in (whole, less):
        write_jsonl(pipeline.root / "source", corpus(400))
    whole.text()
    output = less.text(validation=ValidationRule(1, 0.1, 0.04))
    sides = {}
    for name, pipeline in (("whole", whole), ("less", less)):
        found = sorted((pipeline.root / "text").glob("part_*/validation"))
        sides[name] = {one["text"] for part in found for one in samples(part)}
    assert sides["less"] < sides["whole"]
    assert (
        output.account["documents_held_out"]
        == len([row for row in corpus(400) if is_validation(row["text"])]) - (output.account["documents_validation"])
    )
    with pytest.raises(UsageError, match="never more"):
        ValidationRule(1, 0.1, 0.2)


def test_the_rows_of_a_part_can_be_said(tmp_path: Path, tokenizer: Path) -> None:
    """As the older script's --shard-size: so many rows a part, made ids as in any other sharding."""
    pipeline = Pipeline(tmp_path, tokenizer)
    rows = corpus(100)
    write_jsonl(pipeline.root / "source", rows, files=1)
    pipeline.text(Cut(rows=30), validation=ValidationRule())
    parts = sorted((pipeline.root / "text").glob("part_*"))
    assert [len(samples(part / "train")) for part in parts] == [30, 30, 30, 10]
    assert [one["id"] for part in parts for one in samples(part / "train")] == expected_ids(rows, 1)


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([{"text": "a"}], Columns("content"), r"f0\.jsonl: no column 'content' for the text; there are text"),
        ([{"text": 1}, {"text": None}], Columns(), r"no document in 2 rows"),
        ([], Columns(), r"no document in 0 rows"),
    ],
)
def test_what_cannot_be_converted_is_one_line(
    tmp_path: Path, tokenizer: Path, rows: Any, columns: Columns, message: str
) -> None:
    """A column that is not there, with those that are; nothing that is text."""
    pipeline = Pipeline(tmp_path, tokenizer)
    write_jsonl(pipeline.root / "source", rows, files=1)
    with pytest.raises((DataError, PartialFailureError), match=message) as failure:
        pipeline.text(columns=columns)
    assert "\n" not in str(failure.value)
    assert not (tmp_path / "text/manifest.json").exists()


def test_a_column_that_a_parquet_file_lacks_is_said_with_those_that_it_has(tmp_path: Path, tokenizer: Path) -> None:
    """All of them, though only the wanted ones are read."""
    (tmp_path / "source").mkdir()
    pq.write_table(pa.table({"content": ["a"], "url": ["u"]}), tmp_path / "source/a.parquet")
    with pytest.raises(PartialFailureError, match=r"a\.parquet: no column 'text' for the text; there are content, url"):
        Pipeline(tmp_path, tokenizer).text()


def test_rows_that_are_no_documents_are_counted(tmp_path: Path, tokenizer: Path) -> None:
    """Broken lines, other JSON, no text: each by its name, and the account closes."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.jsonl").write_bytes(
        b'{"text":"one"}\n{"text":\n[1]\n\n{"text":null}\n{"id":7,"text":"two"}\n{"id":"x"}\n'
    )
    output = Pipeline(tmp_path, tokenizer).text(validation=ValidationRule())
    account = {name: count for name, count in output.account.items() if not name.startswith("bytes")}
    assert account == {"documents_train": 2, "rows_read": 6, "refused_malformed": 2, "refused_no_text": 2}
    assert [(one["id"], one["text"]) for one in samples(tmp_path / "text")] == [("a.jsonl#0", "one"), ("7", "two")]


def test_verification_finds_what_is_wrong(made: Pipeline, tmp_path: Path) -> None:
    """A whole folder is proven with what it was made from; a changed byte and a missing file are told."""
    found = verify_mds(made.root / "chunks")
    assert not found.faults and found.samples == len(samples(made.root / "chunks"))
    assert [one.split()[0] for one in found.chain] == ["chunked_mds", "tokenized_mds", "text_mds", "3"]
    copy = tmp_path / "copy"
    shutil.copytree(made.root / "chunks", copy)
    shard = sorted(copy.glob("part_*/train/*.mds"))[1]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    sorted(copy.glob("part_*/train/*.mds"))[3].unlink()
    faults = verify_mds(copy).faults
    assert any("part_00001/train/shard.00000.mds: its SHA-256" in one for one in faults)
    assert any("part_00003/train/shard.00000.mds: gone" in one for one in faults)
    with pytest.raises(IntegrityError, match="and 1 more"):
        verify_mds(copy).check()
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="no finished MDS"):
        verify_mds(tmp_path / "nothing")


def test_an_unfinished_stage_is_no_input(made: Pipeline, tmp_path: Path) -> None:
    """Its parts are there, its manifest is not."""
    other = Pipeline(tmp_path, made.tokenizer)
    write_jsonl(other.root / "source", corpus(50))
    other.text()
    (tmp_path / "text/manifest.json").unlink()
    with pytest.raises(DataError, match="not finished"):
        other.tokens()


def test_merging_is_sorted_and_may_be_repeated(made: Pipeline, tmp_path: Path, streaming: Any) -> None:
    """Any depth, every shard once, hashes kept; the second time nothing changes, also beside a merged index."""
    shutil.copytree(made.root / "chunks/part_00001/train", tmp_path / "x/deep/b")
    shutil.copytree(made.root / "chunks/part_00000/train", tmp_path / "x/a")
    (tmp_path / "x/empty").mkdir()
    write_merged(tmp_path / "x/deep")
    shards = write_merged(tmp_path / "x")
    first = (tmp_path / "x/index.json").read_bytes()
    assert [shard.raw for shard in shards] == ["a/shard.00000.mds", "deep/b/shard.00000.mds"]
    assert all(shard.entry["raw_data"]["hashes"] for shard in shards)
    write_merged(tmp_path / "x")
    assert (tmp_path / "x/index.json").read_bytes() == first
    assert len(streaming.StreamingDataset(local=str(tmp_path / "x"), batch_size=1)) == sum(
        shard.samples for shard in read_index(tmp_path / "x")
    )
    shutil.copytree(made.root / "text/part_00000/train", tmp_path / "x/other")
    with pytest.raises(DataError, match="has the columns"):
        write_merged(tmp_path / "x")
    assert len(collect(tmp_path / "x")) == 3


def test_another_plan_is_not_mixed_in(made: Pipeline, tmp_path: Path) -> None:
    """A folder keeps what it holds until it is replaced by force; a full disk leaves nothing that looks finished."""
    other = Pipeline(tmp_path, made.tokenizer)
    write_jsonl(other.root / "source", corpus(60))
    other.text()
    before = tree(tmp_path / "text")
    with pytest.raises(DataError, match="holds another plan"):
        other.text(validation=ValidationRule(2, 0.3))
    assert tree(tmp_path / "text") == before
    assert other.text().reused


def test_a_full_disk_is_said_and_leaves_nothing_that_looks_finished(made: Pipeline, tmp_path: Path) -> None:
    """A small tmpfs in each stage's place: the folder is named; with room again, the bytes are those of other runs."""
    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    other = Pipeline(tmp_path, made.tokenizer)
    write_jsonl(other.root / "source", corpus(COUNT))
    for stage in ("text", "tokens", "chunks"):
        folder = tmp_path / stage
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)], check=True)
        try:
            with pytest.raises(PartialFailureError, match=f"no room left on the disk of {folder}; free some and run"):
                getattr(other, stage)()
            assert not (folder / "manifest.json").exists() and not (folder / "index.json").exists()
            assert list(folder.glob("part_*/manifest.json"))
        finally:
            subprocess.run(["umount", str(folder)], check=True)
        getattr(other, stage)()
        assert tree(folder) == tree(made.root / stage)


def test_a_corrupt_shard_is_named_by_the_stage_that_reads_it(made: Pipeline, tmp_path: Path) -> None:
    """One part fails, the others are made; put right, only that part is left to do."""
    other = Pipeline(tmp_path, made.tokenizer)
    shutil.copytree(made.root / "text", tmp_path / "text")
    shard = tmp_path / "text/part_00002/train/shard.00000.mds.zstd"
    good = shard.read_bytes()
    shard.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(
        PartialFailureError, match=r"1 of \d+ parts failed: part_00002: .*shard\.00000\.mds\.zstd"
    ) as caught:
        other.tokens()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "tokens/manifest.json").exists()
    shard.write_bytes(good)
    output = other.tokens()
    assert output.parts_made == 1
    assert tree(tmp_path / "tokens") == tree(made.root / "tokens")


def test_an_end_token_that_is_needed_and_not_there_is_said(made: Pipeline, tmp_path: Path) -> None:
    """Before any part is tried."""
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(made.tokenizer / "tokenizer.json", bare / "tokenizer.json")
    other = Pipeline(tmp_path, bare)
    write_jsonl(other.root / "source", corpus(30))
    other.text()
    other.tokens()
    with pytest.raises(UsageError, match="128-concat puts an end token behind documents, and the tokenizer has none"):
        other.chunks(ChunkRule(128, "concat"))
    assert other.chunks(ChunkRule(128), "without").account["rows"] > 0
