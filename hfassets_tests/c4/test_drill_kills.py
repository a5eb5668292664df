"""The long drill of shard sets: killed at any moment, with S3 going away, made by one process or many."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hfassets.demo.hub_faults import Fault
from hfassets_tests.c4.conftest import C4, files_of, keys_of, lines, sources
from hfassets_tests.conftest import ClientEnvironment
from hfassets_tests.s3 import BUCKET, S3Server

pytestmark = [pytest.mark.drill, pytest.mark.timeout(900)]

ROWS = 12_000
KINDS = {
    "streamed": ["--streaming"],
    "whole": ["--no-streaming"],
    "by three processes": ["--no-streaming", "--workers", "3"],
    "a sample": ["--seed", "5", "--workers", "2"],
    "zstd": ["--streaming", "--compression", "zstd"],
}


def command(*words: str | Path) -> list[str]:
    """`hfassets c4` as a process."""
    return [sys.executable, "-m", "hfassets.cli.main", "c4", *(str(word) for word in words)]


@pytest.fixture
def big(c4: C4, hub_env: ClientEnvironment) -> C4:
    """Twelve thousand rows in five files, with bad lines among them."""
    rows = lines(0, ROWS)
    c4.all_lines = rows
    c4.republish(sources([*rows[:4000], b"{\n", b"\n", *rows[4000:9000], b"[]\n", *rows[9000:]], files=5))
    return c4


@pytest.mark.parametrize("to_s3", [False, True], ids=["folder", "s3"])
@pytest.mark.parametrize("kind", KINDS)
def test_kills_at_any_moment_change_nothing(
    big: C4, hub_env: ClientEnvironment, s3: S3Server, tmp_path: Path, kind: str, to_s3: bool
) -> None:
    """After many SIGKILLs of the whole process group and one run to the end: the bytes of a calm run, nothing left."""
    words = ["--num-samples", str(ROWS), "--max-lines-per-file", "333", *KINDS[kind]]
    hub_env.run(*command(*words, "--output-dir", tmp_path / "calm", "--state-dir", tmp_path / "state-calm"))
    wild = [*words, "--output-dir", str(tmp_path / "wild"), "--state-dir", str(tmp_path / "state")]
    wild += ["--cache-dir", str(tmp_path / "cache")]
    wild += ["--s3-path", f"s3://{BUCKET}/c4"] if to_s3 else []
    big.hub.set_faults(Fault("slow", path="*c4-train*", rate=400_000), Fault("cut", every=5, after=30_000))
    moments = random.Random(len(kind) + to_s3)
    environment = {**hub_env.variables, **s3.variables}
    for _ in range(12):
        process = subprocess.Popen(
            command(*wild), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        time.sleep(moments.uniform(0.2, 3.0))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    big.hub.set_faults()
    done = json.loads(hub_env.run(*command(*wild, "--json"), **s3.variables).stdout)
    calm = files_of(tmp_path / "calm")
    assert len(done["files"]) == len(calm) == 37
    if to_s3:
        assert {key.rpartition("/")[2]: s3.read(key) for key in keys_of(s3)} == calm
        assert not list((tmp_path / "wild").rglob("*")), "nothing is left here"
    else:
        assert files_of(tmp_path / "wild") == calm
    assert not [path for path in (tmp_path / "state" / "work").rglob("*") if path.is_file()]
    verified = hub_env.run(*command("verify", f"s3://{BUCKET}/c4" if to_s3 else tmp_path / "wild"), **s3.variables)
    assert "intact" in verified.stdout


def test_an_s3_that_comes_and_goes_costs_no_part_twice(
    big: C4, hub_env: ClientEnvironment, s3: S3Server, tmp_path: Path
) -> None:
    """Each run that meets a dead server fails; together they send every part once; the end is whole."""
    words = ["--num-samples", str(ROWS), "--max-lines-per-file", "500", "--s3-path", f"s3://{BUCKET}/c4"]
    words += ["--output-dir", str(tmp_path / "out"), "--state-dir", str(tmp_path / "state"), "--streaming"]
    big.hub.set_faults(Fault("slow", path="*c4-train*", rate=300_000))
    written: dict[str, object] = {}
    for wanted in (3, 9, 15):
        process = subprocess.Popen(
            command(*words), env={**hub_env.variables, **s3.variables}, stderr=subprocess.PIPE, text=True
        )
        while len(keys_of(s3)) < wanted:
            assert process.poll() is None
            time.sleep(0.02)
        s3.stop()
        _, said = process.communicate(timeout=180)
        assert process.returncode == 1 and len([one for one in said.splitlines() if "hfassets: error" in one]) == 1
        s3.start()
        now = {key: s3.client.head_object(Bucket=BUCKET, Key=key)["LastModified"] for key in keys_of(s3)}
        assert {key: now[key] for key in written} == written, "what was proven is not sent again"
        written = now
    big.hub.set_faults()
    hub_env.run(*command(*words), **s3.variables)
    assert b"".join(s3.read(key) for key in sorted(keys_of(s3))) == big.expect(ROWS)
