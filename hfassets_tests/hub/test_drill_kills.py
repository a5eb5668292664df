"""The long drill of promise one: killed at any moment, again and again, the result is that of an uninterrupted run."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hfassets.demo.hub_faults import Fault
from hfassets_tests.conftest import ClientEnvironment

pytestmark = [pytest.mark.drill, pytest.mark.timeout(900)]

REPOS = ("ibm-research/duorc", "bigcode/the-stack-smol-xs", "AI-Lab-Makerere/beans")
LEFT_BY_LIBRARIES = (".lock", ".gitignore", "CACHEDIR.TAG")


def words(repo: str, home: Path) -> list[str]:
    """A download into a home of its own."""
    places = [
        "--hub-cache",
        str(home / "hub"),
        "--cache-dir",
        str(home / "datasets"),
        "--state-dir",
        str(home / "state"),
    ]
    return [sys.executable, "-m", "hfassets.cli.main", "hub", "download", "--dataset-name", repo, *places]


def tree(home: Path) -> dict[str, str]:
    """Every file and link of both caches: link text, or SHA-256; locks of the libraries aside."""
    found = {}
    for root in ("hub", "datasets"):
        for path in sorted((home / root).rglob("*")):
            name = path.relative_to(home).as_posix()
            if path.is_symlink():
                found[name] = f"-> {path.readlink()}"
            elif path.is_file() and not path.name.endswith(LEFT_BY_LIBRARIES):
                # Image folders keep absolute paths of the raw files in their Arrow files.
                data = path.read_bytes().replace(str(home).encode(), b"<home>")
                found[name] = hashlib.sha256(data).hexdigest()
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_kills_at_any_moment_change_nothing(tmp_path: Path, hub_env: ClientEnvironment, seed: int) -> None:
    """After many SIGKILLs and one run to the end: the same files, byte for byte, and nothing left over."""
    calm, stormy = tmp_path / "calm", tmp_path / "wild"  # of equal length: paths stand in Arrow files
    stormy.mkdir()
    for repo in REPOS:
        hub_env.run(*words(repo, calm))
    hub_env.hub.set_faults(Fault("slow", path="*", rate=150_000), Fault("cut", every=7, after=20_000))
    moments = random.Random(seed)
    kills = 0
    for repo in REPOS:
        for _ in range(8):
            process = subprocess.Popen(
                words(repo, stormy), env=hub_env.variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            deadline = time.monotonic() + moments.uniform(0.2, 2.5)
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            kills += process.poll() is None
            process.kill()
            process.wait()
    hub_env.hub.set_faults()
    for repo in REPOS:
        hub_env.run(*words(repo, stormy))
    assert kills > 5, "the storm was too mild to say anything"
    assert tree(stormy) == tree(calm)
    hub_env.hub.reset_log()
    for repo in REPOS:
        hub_env.run(*words(repo, stormy))
    assert hub_env.hub.bytes_sent("*/resolve/*") == 0, "what is done is not fetched again"
    hub_env.run(sys.executable, "-m", "hfassets.cli.main", "hub", "verify", "--full", "--cache-dir", stormy / "hub")
