"""`hfassets c4` end to end: real processes against the sample Hub and a real S3 server."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hfassets.demo.hub_faults import Fault
from hfassets_tests.c4.conftest import C4, ROWS, files_of, keys_of, lines, sources
from hfassets_tests.c4.conftest import c4 as c4
from hfassets_tests.conftest import ClientEnvironment
from hfassets_tests.s3 import BUCKET, S3Server, s3, s3_server

__all__ = ["s3", "s3_server"]
pytestmark = pytest.mark.hub

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(c4: C4, hub_env: ClientEnvironment, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `hfassets c4 ...` in a folder of its own and hold it to the rules that every command keeps."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def call(*words: str | Path, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hfassets.cli.main", "c4", *words]
        done = hub_env.run(*command, check=False, **{**s3.variables, **variables})
        assert done.returncode == code, f"{done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        assert "Traceback" not in done.stdout + done.stderr
        errors = [line for line in done.stderr.splitlines() if line.startswith("hfassets:")]
        assert len(errors) == (code != 0)
        return done

    return call


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that says what went wrong."""
    return done.stderr.splitlines()[-1].removeprefix("hfassets: error: ")


def test_without_flags_a_thousand_rows_go_to_the_folder_that_users_know(c4: C4, run: Run) -> None:
    """./data/c4_subset; samples, files, mean length and the first 200 characters at the end."""
    done = run()
    assert files_of(Path("data/c4_subset")) == {"c4_train_1000.jsonl": c4.expect(1000)}
    texts = [json.loads(line)["text"] for line in c4.all_lines[:1000]]
    assert "Samples: 1,000" in done.stdout and "Files: 1," in done.stdout
    assert f"Mean text length: {sum(map(len, texts)) / 1000:,.1f} characters" in done.stdout
    assert f"First 200 characters:\n  {' '.join(texts[0][:200].split())}" in done.stdout
    assert "was there already" in run().stdout


def test_the_old_flags_mean_what_they_did(c4: C4, run: Run, tmp_path: Path) -> None:
    """--no-streaming is honoured below 10,000; parts, split and cache go where they are sent."""
    cache = tmp_path / "raw"
    done = run("--no-streaming", "--num-samples", "1000", "--cache-dir", cache, "--output-dir", "out", "--json")
    assert json.loads(done.stdout)["samples"] == 1000
    assert files_of(Path("out")) == {"c4_train_1000.jsonl": c4.expect(1000)}
    assert len(list(cache.rglob("snapshots/*/en/c4-train*"))) == 4
    run("--split", "validation", "--num-samples", "100", "--max-lines-per-file", "60", "--streaming")
    assert files_of(Path("data/c4_subset")) == {
        "c4_validation_100_part001.jsonl": b"".join(lines(9000, 9060)),
        "c4_validation_100_part002.jsonl": b"".join(lines(9060, 9100)),
    }


def test_to_s3_and_back(c4: C4, run: Run, s3: S3Server) -> None:
    """Nothing is left here; fetched back the bytes are the same; verify reads them in both places."""
    place = f"s3://{BUCKET}/c4/"
    run("--num-samples", "1000", "--max-lines-per-file", "250", "--s3-path", place, "--cleanup-local")
    assert len(keys_of(s3)) == 4 and not Path("data/c4_subset").exists()
    run("fetch", place, "--output-dir", "back")
    assert b"".join(path.read_bytes() for path in sorted(Path("back").glob("*.jsonl"))) == c4.expect(1000)
    assert "intact" in run("verify", place).stdout and "intact" in run("verify", "back").stdout
    (Path("back") / "c4_train_1000_part002.jsonl").write_text("x\n")
    assert "c4_train_1000_part002.jsonl: 2 B instead of" in error_of(run("verify", "back", code=1))
    report = json.loads(run("verify", place, "--json").stdout)
    assert report["intact"] and report["sets"][0]["parts"] == 4


def test_a_server_that_is_down_is_exit_code_1_and_a_second_run_sends_the_rest(
    c4: C4, run: Run, hub_env: ClientEnvironment, s3: S3Server
) -> None:
    """Stopped while the Hub is slow, after two parts: their objects stay as they are, two more are uploaded."""
    words = ["--num-samples", "1500", "--max-lines-per-file", "375", "--s3-path", f"s3://{BUCKET}/c4"]
    hub_env.hub.set_faults(Fault("slow", path="*c4-train.00001*", rate=15_000))
    command = [sys.executable, "-m", "hfassets.cli.main", "c4", *words, "--backoff-factor", "0.01"]
    process = subprocess.Popen(command, env={**hub_env.variables, **s3.variables}, stderr=subprocess.PIPE, text=True)
    while len(keys_of(s3)) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    s3.stop()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1 and "is the address right, and S3 up?" in said
    s3.start()
    hub_env.hub.set_faults()
    assert len(keys_of(s3)) == 2
    done = json.loads(run(*words, "--json").stdout)
    assert done["made"] == 2
    assert b"".join(s3.read(key) for key in sorted(keys_of(s3))) == c4.expect(1500)


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["--s3-path", "s3://"], 2, "names no bucket"),
        (["--s3-path", "bucket/prefix"], 2, "it looks like s3://bucket/prefix"),
        (["--s3-path", "s3://not-there/x"], 1, "s3://not-there: there is no such bucket"),
        (["--cleanup-local"], 2, "would remove the only copy"),
        (["--cleanup-local", "--no-cleanup", "--s3-path", "s3://b-c-d"], 2, "contradict each other"),
        (["--num-samples", "0"], 2, "--num-samples"),
        (["--split", "nope"], 1, "has no split 'nope'; it has train, validation"),
        (["--config", "nope"], 1, "has no config 'nope'"),
        (["--repo", "allenai/c5"], 1, "allenai/c5"),
        (["--num-samples", "5000", "--streaming"], 1, "3,000 rows of the 5,000 asked for"),
        (["fetch", f"s3://{BUCKET}/nothing"], 1, "no shard set is there"),
        (["verify", "nowhere"], 1, "no finished shard set"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_clear_line(run: Run, words: list[str], code: int, line: str) -> None:
    assert line in error_of(run(*words, code=code))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_a_folder_that_cannot_be_written_is_said_before_anything_is_fetched(run: Run, c4: C4, tmp_path: Path) -> None:
    """A read-only file system."""
    out = tmp_path / "readonly"
    out.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(out)], check=True)
    try:
        c4.hub.reset_log()
        assert error_of(run("--output-dir", out, code=1)).startswith(
            f"{out}: cannot be written (Read-only file system)"
        )
        assert c4.hub.bytes_sent("*c4-train*") == 0
    finally:
        subprocess.run(["umount", str(out)], check=True)


def test_bad_lines_are_told(run: Run, c4: C4) -> None:
    good = lines(0, 20)
    c4.republish(sources([*good[:5], b"{broken\n", *good[5:]], files=1))
    done = run("--num-samples", "20")
    assert "Kept out: 1 malformed line, 0 blank" in done.stdout
    assert "en/c4-train.00000-of-00001.json.gz, line 6:" in done.stdout


def test_the_sets_of_a_catalog_are_made_by_name(run: Run, c4: C4, hub_env: ClientEnvironment) -> None:
    """Those named, else all; one that fails does not stop the others, and is named."""
    Path("catalog.yaml").write_text(
        "c4:\n  - {name: one, num_samples: 30}\n  - {name: two, num_samples: 4000, streaming: true}\n"
        "  - {name: three, num_samples: 20, split: validation, destination: here}\n"
    )
    hub_env.run(sys.executable, "-m", "hfassets.cli.main", "catalog", "sync")
    assert "ok" in run("make", "one").stdout
    assert files_of(Path("data/c4/one")) == {"c4_train_30.jsonl": c4.expect(30)}
    done = run("make", code=1)
    assert "1 of 3 shard sets failed: two:" in error_of(done) and "was ready" in done.stdout
    assert files_of(Path("here")) == {"c4_validation_20.jsonl": b"".join(lines(9000, 9020))}
    assert "is no synchronised shard set" in error_of(run("make", "four", code=2))


def journal_size() -> int:
    """Bytes in the journal of the run in this folder: it grows with each finished part."""
    return sum(path.stat().st_size for path in Path("data/.hfassets/work").rglob("journal.jsonl"))


def kill_again_and_again(command: list[str], env: dict[str, str], kills: int, seed: int) -> None:
    """Start a command and kill it some moment after it has finished one more part, `kills` times."""
    moments = random.Random(seed)
    for _ in range(kills):
        before = journal_size()
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while journal_size() <= before and process.poll() is None:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("to_s3", [False, True], ids=["folder", "s3"])
def test_killed_and_run_again_the_result_is_that_of_one_run(
    c4: C4, run: Run, hub_env: ClientEnvironment, s3: S3Server, to_s3: bool
) -> None:
    """SIGKILL at random moments; no finished part is made twice, the bytes are the same, nothing is left over."""
    words = ["--num-samples", str(ROWS), "--max-lines-per-file", "130", "--streaming", "--output-dir", "out"]
    words += ["--s3-path", f"s3://{BUCKET}/c4"] if to_s3 else []
    command = [sys.executable, "-m", "hfassets.cli.main", "c4", *words]
    hub_env.hub.set_faults(Fault("slow", path="*c4-train*", rate=60_000))
    kill_again_and_again(command, {**hub_env.variables, **s3.variables}, 3, 5)
    hub_env.hub.set_faults()
    done = json.loads(run(*words, "--json").stdout)
    assert done["samples"] == ROWS and done["made"] < len(done["files"])
    if to_s3:
        assert b"".join(s3.read(key) for key in sorted(keys_of(s3))) == c4.expect(ROWS)
        assert not list(Path("out").rglob("*"))
    else:
        assert b"".join(path.read_bytes() for path in sorted(Path("out").glob("*.jsonl"))) == c4.expect(ROWS)
        assert len(list(Path("out").iterdir())) == len(done["files"]) + 1
    assert not [path for path in Path("data/.hfassets/work").rglob("*") if path.is_file()]
    assert "intact" in run("verify", f"s3://{BUCKET}/c4" if to_s3 else "out").stdout
