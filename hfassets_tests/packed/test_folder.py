"""A folder of files, a split each: what the older reader asks for, and one that fails beside those that do not."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest

from hfassets.demo.hub_model import write_tokenizer
from hfassets_tests.conftest import ClientEnvironment
from hfassets_tests.mds.pipeline import corpus

pytestmark = pytest.mark.hub

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(hub_env: ClientEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`hfassets distill tokenize` in a folder with a mix and a tokenizer."""
    work = tmp_path / "work"
    rows = [orjson.dumps(row) + b"\n" for row in corpus(90)]
    (work / "mix/math").mkdir(parents=True)
    (work / "mix/chat").mkdir()
    (work / "tokenizer").mkdir()
    write_tokenizer(work / "tokenizer")
    (work / "mix/math/gsm8k.jsonl").write_bytes(b"".join(rows[:40]))
    (work / "mix/math/gsm8k.stats.json").write_text("{}")
    (work / "mix/chat/talk.jsonl.gz").write_bytes(gzip.compress(b"".join(rows[40:])))
    (work / "mix/download_summary.json").write_text("{}")
    monkeypatch.chdir(work)

    def call(*words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = hub_env.run(sys.executable, "-m", "hfassets.cli.main", "distill", "tokenize", *words, check=False)
        assert done.returncode == code, f"{done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        assert "Traceback" not in done.stdout + done.stderr
        return done

    return call


WORDS = ("--input-dir", "mix", "--output", "packed", "--tokenizer", "tokenizer", "--max-seq-length", "64")


def test_each_file_is_a_split_of_the_manifest(run: Run) -> None:
    """With the older keys, and shards by name; the second time nothing is made; one with other settings is refused."""
    assert "--recursive looks below it" in run(*WORDS, code=1).stderr
    run(*WORDS, "--recursive", "--workers", "2")
    manifest = json.loads(Path("packed/manifest.json").read_text())
    assert {"tokenizer", "max_seq_length", "shard_size_gb", "input_path", "output_path", "files_processed"} <= set(
        manifest
    )
    assert set(manifest["splits"]) == {"gsm8k", "talk"} and manifest["files_processed"] == 2
    for name, split in manifest["splits"].items():
        paths = sorted(Path("packed", split["path"]).glob("shard_*.parquet"))
        assert [path.name for path in paths] == [f"shard_{one:04}.parquet" for one in range(split["shards"])]
        assert sum(pq.read_metadata(path).num_rows for path in paths) == split["sequences"]
        stats = json.loads(Path(f"packed/{name}_stats.json").read_text())
        assert stats["total_tokens"] == split["tokens"] and stats["total_samples"] == split["samples"]
    before = {path: path.stat().st_mtime_ns for path in Path("packed").rglob("*.parquet")}
    assert run(*WORDS, "--recursive").stdout.count("was ready") == 2
    other = (*WORDS[:-1], "128", "--recursive")
    assert "replace it by force" in run(*other, code=1).stderr
    assert run(*other, "--skip-existing").stdout.count("skipped") == 2
    assert before == {path: path.stat().st_mtime_ns for path in Path("packed").rglob("*.parquet")}
    run(*other, "--force")
    assert json.loads(Path("packed/manifest.json").read_text())["splits"]["talk"]["max_seq_length"] == 128


def test_a_file_that_fails_is_named_and_the_others_are_made(run: Run) -> None:
    """Exit code 1; the manifest has those that are there; later the missing one joins them."""
    bad = Path("mix/math/bad.jsonl")
    bad.write_text('{"content": "x"}\n')
    told = run(*WORDS, "--recursive", code=1).stderr
    assert "1 of 3 files failed: bad: " in told and "no column 'text' for the text; there are content" in told
    assert set(json.loads(Path("packed/manifest.json").read_text())["splits"]) == {"gsm8k", "talk"}
    bad.write_text('{"text": "it is mended"}\n')
    run(*WORDS, "--recursive")
    assert set(json.loads(Path("packed/manifest.json").read_text())["splits"]) == {"gsm8k", "talk", "bad"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--input", "nowhere"), "nowhere: not there"),
        (("--tokenizer", "no-such/tokenizer"), "no-such/tokenizer"),
        (("--input", "two"), "would both be the split a"),
        (("--max-seq-length", "200000", "--input", "mix/math"), "from 1 to 131,072"),
    ],
)
def test_what_cannot_be_is_one_line(run: Run, words: tuple[str, ...], message: str) -> None:
    """That says what is wrong."""
    Path("two").mkdir()
    for name in ("a.jsonl", "a.jsonl.gz"):
        Path("two", name).write_bytes(b"")
    assert message in run(*WORDS, *words, code=1).stderr
