"""A staging recipe against the plain pipeline of `datasets`: the same rows, every token, whoever makes it."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from benchmarks.bench_mds import write_tokenizer_to
from hfassets.errors import DataError, IntegrityError, UsageError
from hfassets.mds.stage import StageOutput, StageRun
from hfassets.staging.preprocess import Preprocessing, TokenRule, preprocess
from hfassets.staging.saved import close_account, verify_folder
from hfassets.staging.source import ArrowSource, from_mirror
from hfassets.staging.splits import plan_splits
from hfassets.storage.state import StateDir
from hfassets.tokens.engine import TokenizerSource

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "seven",
    "dogs",
    "ran",
    "<|endoftext|>",
    "déjà",
    "日本",
    "away\n",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer that puts a token in front of a sequence and one behind it."""
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    write_tokenizer_to(folder)
    found = Tokenizer.from_file(str(folder / "tokenizer.json"))
    found.add_special_tokens(["<s>", "</s>"])
    pair = [(name, found.token_to_id(name)) for name in ("<s>", "</s>")]
    found.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=pair)
    found.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSON lines in two files of one split and one of another, with empty and missing texts."""
    folder, draw = tmp_path_factory.mktemp("mirror"), random.Random(11)
    for name, rows in (("train-0", 1700), ("train-1", 900), ("test", 1100)):
        lines = [{"text": " ".join(draw.choices(WORDS, k=draw.randrange(30)))} for _ in range(rows)]
        lines[5]["text"], lines[7] = "", {"text": None}  # type: ignore[dict-item]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def source_of(mirror: Path, root: Path, num_proc: int = 1) -> ArrowSource:
    """The mirror's files, prepared."""
    return from_mirror(mirror, None, root / "datasets", StateDir(root / "state"), num_proc)


def made(source: ArrowSource, root: Path, tokenizer: Path, workers: int = 1, **given: Any) -> StageOutput:
    """A recipe's folder `root/out`, with small parts and shards."""
    shares = given.pop("shares", {})
    rule = TokenRule(TokenizerSource.read(tokenizer), tokenizer, given.pop("block", 48), **given)
    splits = plan_splits(list(source.splits), {}, shares, 3, source.name)
    wanted = Preprocessing(root / "out", root / "work", source, splits, rule, 100_000, 20_000)
    return preprocess(wanted, StageRun(StateDir(root / "state"), workers))


def plainly(mirror: Path, tokenizer: Path, split: str, size: int) -> list[list[int]]:
    """Tokenised and grouped in batches by the library, as the older scripts did it."""
    reference = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    data = datasets.load_dataset(str(mirror), split=split, cache_dir=str(mirror.parent / "plain"))

    def tokenised(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {"input_ids": [reference.encode(text or "").ids for text in batch["text"]]}

    def grouped(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = [token for row in batch["input_ids"] for token in row]
        total = len(joined) // size * size if len(joined) >= size else len(joined)
        return {"input_ids": [joined[place : place + size] for place in range(0, total, size)]}

    data = data.map(tokenised, batched=True, remove_columns=["text"])
    return list(data.map(grouped, batched=True)["input_ids"])


def content(root: Path) -> dict[str, bytes]:
    """All of a folder but its manifest, which has the time and the host."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.mark.parametrize("split", ["train", "test"])
def test_by_the_older_rule_rows_are_those_of_the_older_pipeline(
    tmp_path: Path, mirror: Path, tokenizer: Path, split: str
) -> None:
    """Row for row; mask and labels with them, in the library's own types."""
    found = made(source_of(mirror, tmp_path), tmp_path, tokenizer, remainders="drop")
    data = datasets.load_from_disk(str(found.root))[split]
    assert list(data["input_ids"]) == plainly(mirror, tokenizer, split, 48)
    assert list(data["labels"]) == list(data["input_ids"])
    assert all(set(row) == {1} for row in data["attention_mask"])
    assert {name: str(one) for name, one in data.features.items()} == {
        "input_ids": "List(Value('int32'))", "attention_mask": "List(Value('int8'))", "labels": "List(Value('int32'))",
    }  # fmt: skip


def test_carried_over_every_token_is_in_a_row_but_for_the_tail(tmp_path: Path, mirror: Path, tokenizer: Path) -> None:
    """In order, all rows of one size, and the account says so."""
    found = made(source_of(mirror, tmp_path), tmp_path, tokenizer)
    reference = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    everything = 0
    for split in ("train", "test"):
        texts = datasets.load_dataset(str(mirror), split=split, cache_dir=str(tmp_path / "plain"))["text"]
        tokens = [token for text in texts for token in reference.encode(text or "").ids]
        rows = list(datasets.load_from_disk(str(found.root))[split]["input_ids"])
        assert [token for row in rows for token in row] == tokens[: len(tokens) // 48 * 48]
        everything += len(tokens)
    account = found.account
    assert account["tokens_in"] + account["specials_added"] == everything
    assert account["tokens_written"] + account["tokens_dropped"] == everything
    assert account["documents_in"] == 3700 and account["documents_empty"] >= 6
    assert not (tmp_path / "work").exists()
    again = made(source_of(mirror, tmp_path), tmp_path, tokenizer)
    assert again.reused
    with pytest.raises(IntegrityError, match="does not close"):
        close_account({**account, "tokens_dropped": account["tokens_dropped"] + 1})


def test_the_folder_is_the_same_whoever_makes_it(tmp_path: Path, mirror: Path, tokenizer: Path) -> None:
    """One process or two, and another number of Arrow files: byte for byte, fingerprints of the library included."""
    folders = []
    for name, workers, num_proc in (("one", 1, 1), ("two", 2, 2)):
        root = tmp_path / name
        source = source_of(mirror, root, num_proc)
        found = made(source, root, tokenizer, workers, shares={"validation": 0.2}, add_eos=False)
        assert verify_folder(found.root).faults == ()
        folders.append(content(found.root))
    assert len({len(source.splits["train"]) for source in (source_of(mirror, tmp_path / "two", 2),)} | {1}) == 2
    assert folders[0] == folders[1]
    data = datasets.load_from_disk(str(tmp_path / "one" / "out"))
    assert set(data) == {"train", "validation", "test"}
    assert 0.1 < len(data["validation"]) / (len(data["train"]) + len(data["validation"])) < 0.3


def test_drawn_splits_have_the_rows_that_the_rule_says(tmp_path: Path, mirror: Path, tokenizer: Path) -> None:
    """Both of them, also when rows are not tokenized: then by their numbers."""
    source = source_of(mirror, tmp_path)
    alone = ArrowSource(source.name, {"train": source.splits["train"]}, source.inputs)
    shares = {"validation": 0.2, "test": 0.3}
    found = made(alone, tmp_path, tokenizer, shares=shares)
    splits = plan_splits(["train"], {}, shares, 3, "x")
    texts = datasets.load_dataset(str(mirror), split="train", cache_dir=str(tmp_path / "plain"))["text"]
    sides = splits.sides([(text or "").encode() for text in texts])
    documents = {name: int((sides == place).sum()) for place, name in enumerate(("train", "validation", "test"))}
    assert found.details["documents"] == documents
    wanted = Preprocessing(tmp_path / "rows", tmp_path / "work", alone, splits, None, 1 << 20, 20_000)
    rows = preprocess(wanted, StageRun(StateDir(tmp_path / "state"))).details["rows"]
    sides = splits.sides([b"%d" % number for number in range(len(texts))])
    assert rows == {name: int((sides == place).sum()) for place, name in enumerate(("train", "validation", "test"))}


KILLED = """\
import os, signal, sys
from hfassets.staging import tokens
real, made = getattr(tokens, sys.argv[1]), []
def dying(part, folder):
    if len(made) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    made.append(part)
    return real(part, folder)
dying.__module__, dying.__qualname__ = real.__module__, real.__qualname__
setattr(tokens, sys.argv[1], dying)
from hfassets.staging import preprocess
setattr(preprocess, sys.argv[1], dying)
from pathlib import Path
from hfassets_tests.staging.test_preprocess import made as make, source_of
root, mirror, tokenizer = (Path(one) for one in sys.argv[2:])
make(source_of(mirror, root), root, tokenizer)
"""


@pytest.mark.parametrize("step", ["tokenize_part", "block_part"])
def test_a_killed_recipe_goes_on_and_gives_the_same(tmp_path: Path, mirror: Path, tokenizer: Path, step: str) -> None:
    """SIGKILL in either step: what was made stays, and the folder is that of an undisturbed run."""
    root = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, step, str(root), str(mirror), str(tokenizer)]
    died = subprocess.run(command, check=False, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not (root / "out").exists()
    found = made(source_of(mirror, root), root, tokenizer)
    assert found.parts_reused >= 2
    undisturbed = made(source_of(mirror, tmp_path / "plain"), tmp_path / "plain", tokenizer)
    assert content(found.root) == content(undisturbed.root)


def test_an_end_token_is_put_behind_each_document_that_lacks_it(tmp_path: Path, mirror: Path, tokenizer: Path) -> None:
    """Inside of the special ones; a tokenizer without one is refused."""
    folder = tmp_path / "ending"
    shutil.copytree(tokenizer, folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>", "model_max_length": 32}))
    found = made(source_of(mirror, tmp_path), tmp_path, folder, add_eos=True, block=None)
    assert found.details["block"] == 32
    assert 0 < found.account["eos_added"] <= found.account["documents_in"]
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    with pytest.raises(UsageError, match="has no end token"):
        made(source_of(mirror, tmp_path), tmp_path, folder, add_eos=True)


def test_images_are_in_the_rows_and_the_folder_stands_alone(tmp_path: Path) -> None:
    """The files that they were read from can go; a row that lost its file is named."""
    mirror, root = tmp_path / "pictures", tmp_path / "root"
    for split, number in (("train", 1040), ("test", 3)):
        for place in range(number):
            path = mirror / split / ("cat" if place % 2 else "dog") / f"{place} of all.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (2, 2), (place % 256, place // 256, 0)).save(path)
    source = source_of(mirror, root)
    splits = plan_splits(list(source.splits), {}, {"validation": 0.3}, 1, "pictures")
    wanted = Preprocessing(root / "out", root / "work", source, splits, None, 1 << 20, 1 << 20)
    found = preprocess(wanted, StageRun(StateDir(root / "state")))
    moved = tmp_path / "elsewhere"
    found.root.rename(moved)
    shutil.rmtree(root / "datasets")
    (mirror / "train" / "cat" / "1 of all.png").rename(tmp_path / "kept.png")
    shutil.rmtree(mirror)
    data = datasets.load_from_disk(str(moved))
    assert sum(found.details["rows"].values()) == 1043 and len(data["train"]) + len(data["validation"]) == 1040
    pixels = [row["image"].getpixel((0, 0)) for split in ("train", "validation") for row in data[split]]
    assert sorted(red + 256 * green for red, green, _ in pixels) == list(range(1040))
    assert len(data["train"].cache_files) == 2
    assert data["train"].features["label"].names == ["cat", "dog"]


def test_what_cannot_be_made_is_told_in_one_line(tmp_path: Path, mirror: Path, tokenizer: Path) -> None:
    """A column that is not there, one that is no text, a folder without data, files that are none."""
    source = source_of(mirror, tmp_path)
    with pytest.raises(DataError, match="no column 'body'; it has text"):
        made(source, tmp_path, tokenizer, column="body")
    numbers = tmp_path / "numbers"
    numbers.mkdir()
    (numbers / "train.jsonl").write_text('{"n": 1, "title": "a"}\n' * 3)
    with pytest.raises(DataError, match="column 'n' is int64, not text; name one of title"):
        made(source_of(numbers, tmp_path), tmp_path, tokenizer, column="n")
    for name, data in (("empty", None), ("broken", "{ not json\n")):
        folder = tmp_path / name
        folder.mkdir()
        if data:
            (folder / "train.jsonl").write_text(data)
        with pytest.raises(DataError, match="cannot be read as a dataset") as refusal:
            source_of(folder, tmp_path)
        assert "\n" not in str(refusal.value)
    with pytest.raises(DataError, match="no such folder"):
        source_of(tmp_path / "gone", tmp_path)
