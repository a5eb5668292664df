"""Snapshots beside others: killed runs, other writers of the same blob, other users of the same cache."""

from __future__ import annotations

import fcntl
import os
import shutil
import site
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from hfassets.demo.hub_faults import Fault
from hfassets.demo.hub_server import SampleHub
from hfassets.hub.layout import RepoCache
from hfassets.hub.memory import VerifyMemory
from hfassets.hub.session import HubClient, hub_options
from hfassets.hub.snapshot import SnapshotResult, fetch_snapshot, plan_snapshot
from hfassets.storage import StateDir

pytestmark = pytest.mark.hub

REPO = "team/shared"
CONTENT = bytes(range(256)) * 8000

PROGRAM = """
import os, sys
from pathlib import Path
from hfassets.hub.layout import RepoCache
from hfassets.hub.memory import VerifyMemory
from hfassets.hub.session import HubClient, hub_options
from hfassets.hub.snapshot import fetch_snapshot, plan_snapshot
from hfassets.storage import StateDir
url, name, commit, folder, state = sys.argv[1:6]
repo = RepoCache(Path(folder), name)
with HubClient(hub_options(endpoint=url, backoff_factor=0.05, environment={"HF_HOME": "/nonexistent"})) as client:
    memory = VerifyMemory.open(StateDir(Path(state)), repo)
    plan = plan_snapshot(client.list_files(name, commit), repo, memory)
    result = fetch_snapshot(client, plan, repo, memory, revision="main")
print(result.bytes_fetched)
"""


def start(url: str, commit: str, cache: Path, state: Path) -> subprocess.Popen[str]:
    """A download in a process of its own."""
    command = [sys.executable, "-c", PROGRAM, url, REPO, commit, str(cache), str(state)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def fetch(hub: SampleHub, commit: str, folder: Path) -> SnapshotResult:
    """A download in this process."""
    repo = RepoCache(folder / "cache", REPO)
    options = hub_options(endpoint=hub.url, backoff_factor=0.02, environment={"HF_HOME": "/nonexistent"})
    with HubClient(options) as client:
        memory = VerifyMemory.open(StateDir(folder / "state"), repo)
        plan = plan_snapshot(client.list_files(REPO, commit), repo, memory)
        return fetch_snapshot(client, plan, repo, memory)


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Poll until something has happened."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not happen in {seconds} s")
        time.sleep(0.01)


def blob_names(folder: Path) -> list[str]:
    """What lies in blobs/."""
    return sorted(entry.name for entry in (RepoCache(folder / "cache", REPO).folder / "blobs").iterdir())


def etag_of(hub: SampleHub, commit: str) -> str:
    """The etag of the one file."""
    with HubClient(hub_options(endpoint=hub.url, environment={"HF_HOME": "/nonexistent"})) as client:
        return client.list_files(REPO, commit).files[0].etag


def test_after_kill_9_only_the_rest_is_fetched(sample_hub: SampleHub, tmp_path: Path) -> None:
    """Killed in the middle of a 300 MB file and run again: the server sends the missing bytes, no more."""
    source = tmp_path / "source.bin"
    with source.open("wb") as file:
        for index in range(300):
            file.write(index.to_bytes(4, "big") * 250_000)
    commit = sample_hub.add_repo(REPO, {"big.bin": source})
    sample_hub.set_faults(Fault("slow", path="*/big.bin", rate=150e6))
    cache = tmp_path / "cache"
    running = start(sample_hub.url, commit, cache, tmp_path / "state")
    wait_for(lambda: sample_hub.bytes_sent("/cdn/*") > 120e6, "120 MB sent")
    running.kill()
    running.wait()
    (partial,) = (RepoCache(cache, REPO).folder / "blobs").iterdir()
    have = partial.stat().st_size
    assert 80e6 < have < 300e6
    sample_hub.set_faults()
    sample_hub.reset_log()
    result = fetch(sample_hub, commit, tmp_path)
    (request,) = [request for request in sample_hub.requests if request.path.startswith("/cdn/")]
    assert request.range == f"bytes={have}-"
    assert request.sent == result.bytes_fetched == 300_000_000 - have
    done = RepoCache(cache, REPO).snapshot(commit) / "big.bin"
    assert subprocess.run(["cmp", done, source], check=False).returncode == 0


@pytest.mark.parametrize("held", ["library lock", "partial file"])
def test_a_blob_that_another_writes_is_neither_waited_for_nor_touched(
    sample_hub: SampleHub, tmp_path: Path, held: str
) -> None:
    """While another holds the library's lock, or the partial file, ours goes to a private file beside it."""
    commit = sample_hub.add_repo(REPO, {"a.bin": CONTENT})
    repo = RepoCache(tmp_path / "cache", REPO)
    etag = etag_of(sample_hub, commit)
    partial = repo.blob(etag).with_name(f"{etag}.incomplete")
    partial.parent.mkdir(parents=True)
    repo.lock(etag).parent.mkdir(parents=True)
    partial.write_bytes(CONTENT[:1000])
    if held == "library lock":
        with FileLock(repo.lock(etag)):
            fetch(sample_hub, commit, tmp_path)
            assert repo.lock(etag).exists()
    else:
        with partial.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            fetch(sample_hub, commit, tmp_path)
    assert partial.read_bytes() == CONTENT[:1000]
    assert (repo.snapshot(commit) / "a.bin").read_bytes() == CONTENT
    assert blob_names(tmp_path) == [etag, f"{etag}.incomplete"]
    fetch(sample_hub, commit, tmp_path)
    assert blob_names(tmp_path) == [etag]
    assert not repo.lock(etag).exists()


def test_writers_at_once_all_succeed(sample_hub: SampleHub, tmp_path: Path) -> None:
    """Two of ours and an unmodified huggingface_hub on one cache: all end well, one right blob, nothing left."""
    commit = sample_hub.add_repo(REPO, {f"{index}.bin": CONTENT + bytes([index]) for index in range(4)})
    sample_hub.set_faults(Fault("slow", rate=4e6))
    cache = tmp_path / "cache"
    library = (
        "import sys; from huggingface_hub import snapshot_download\n"
        "snapshot_download(sys.argv[1], repo_type='dataset', cache_dir=sys.argv[2], endpoint=sys.argv[3])"
    )
    env = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    theirs = subprocess.Popen([sys.executable, "-c", library, REPO, cache, sample_hub.url], env=env)
    ours = [start(sample_hub.url, commit, cache, tmp_path / f"state{index}") for index in range(2)]
    for process in ours:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert theirs.wait(60) == 0
    for index in range(4):
        assert (RepoCache(cache, REPO).snapshot(commit) / f"{index}.bin").read_bytes() == CONTENT + bytes([index])
    sample_hub.set_faults()
    fetch(sample_hub, commit, tmp_path)
    assert [len(name) for name in blob_names(tmp_path)] == [64] * 4


def test_locks_are_removed_only_when_nobody_holds_them(sample_hub: SampleHub, tmp_path: Path) -> None:
    """Lock files of dead processes go; one that is locked, and one that names a living or a distant holder, stay."""
    commit = sample_hub.add_repo(REPO, {"a.bin": CONTENT})
    locks = RepoCache(tmp_path / "cache", REPO).lock("0" * 40).parent
    locks.mkdir(parents=True)
    host = os.uname().nodename
    dead = subprocess.Popen(["true"])
    dead.wait()
    (locks / f"{'1' * 64}.lock").write_text("")
    (locks / f"{'2' * 64}.lock").write_text(f"{dead.pid}\n{host}\n")
    (locks / f"{'3' * 64}.lock").write_text(f"{os.getpid()}\n{host}\n")
    (locks / f"{'4' * 64}.lock").write_text("17\nanother-host\n")
    with FileLock(locks / f"{'5' * 64}.lock"):
        fetch(sample_hub, commit, tmp_path)
        assert sorted(path.name[0] for path in locks.iterdir()) == ["3", "4", "5"]


def test_abandoned_private_files_are_removed(sample_hub: SampleHub, tmp_path: Path) -> None:
    """What a killed run has left under a private name goes after an hour, once its blob is in place."""
    commit = sample_hub.add_repo(REPO, {"a.bin": CONTENT})
    etag = etag_of(sample_hub, commit)
    blob = RepoCache(tmp_path / "cache", REPO).blob(etag)
    blob.parent.mkdir(parents=True)
    old, young = (blob.with_name(f"{etag}.0000000{index}.incomplete") for index in (1, 2))
    for path in (old, young):
        path.write_bytes(b"x")
    os.utime(old, (1, 1))
    fetch(sample_hub, commit, tmp_path)
    assert blob_names(tmp_path) == sorted([etag, young.name])


def test_modes_follow_the_umask(sample_hub: SampleHub, tmp_path: Path) -> None:
    """With umask 002 everything in the cache is writable by the group, lock and partial files included."""
    commit = sample_hub.add_repo(REPO, {"deep/a.bin": CONTENT, "b.txt": "b"})
    faults = Fault("cut", path="*/a.bin", after=5000, times=1), Fault("cut", path="*/a.bin", after=0, skip=1)
    sample_hub.set_faults(*faults)
    before = os.umask(0o002)
    try:
        with pytest.raises(Exception, match=r"deep/a\.bin"):
            fetch(sample_hub, commit, tmp_path)
        paths = list((tmp_path / "cache").rglob("*"))
        assert any(path.name.endswith(".incomplete") for path in paths)
        assert any(path.name.endswith(".lock") for path in paths)
        sample_hub.set_faults()
        fetch(sample_hub, commit, tmp_path)
        paths = [path for path in [*paths, *(tmp_path / "cache").rglob("*")] if path.exists() and not path.is_symlink()]
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in paths}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o775}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o664}


def python_of(user: int) -> list[str]:
    """Python as a user of group 61000: ours, or the system's with our packages (ours may lie in root's home)."""
    become = ["setpriv", f"--reuid={user}", "--regid=61000", "--clear-groups"]
    packages = os.pathsep.join([str(Path(__file__).parents[2]), *site.getsitepackages()])
    for python in ([sys.executable], ["env", f"PYTHONPATH={packages}", "/usr/bin/python3"]):
        probe = [*become, *python, "-c", "import hfassets.hub.snapshot"]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return [*become, *python]
    pytest.skip("needs a Python outside root's home")


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
def test_two_users_of_a_group_share_a_cache(sample_hub: SampleHub, tmp_path: Path) -> None:
    """One leaves half a file that the other may not write; the other downloads all the same, and so does the first."""
    commit = sample_hub.add_repo(REPO, {"a.bin": CONTENT, "b.bin": CONTENT[1:]})
    etag = etag_of(sample_hub, commit)
    shared = Path("/tmp") / f"hfassets-test-{os.getpid()}"  # pytest's own folders admit only their owner
    try:
        shared.mkdir()
        cache = shared / "cache"
        blobs = RepoCache(cache, REPO).folder / "blobs"
        blobs.mkdir(parents=True)
        for folder in (cache, *cache.rglob("*")):
            os.chown(folder, 61001, 61000)
            folder.chmod(0o2775)
        partial = blobs / f"{etag}.incomplete"
        partial.write_bytes(CONTENT[:1000])
        partial.chmod(0o600)
        os.chown(partial, 61001, 61000)
        running = []
        for user in (61001, 61002):
            state = shared / f"state{user}"
            state.mkdir()
            os.chown(state, user, 61000)
            words = (*python_of(user), "-c", PROGRAM, sample_hub.url, REPO, commit, str(cache), str(state))
            env = {**os.environ, "TMPDIR": str(state)}
            running.append(subprocess.Popen(words, umask=0o002, env=env, stderr=subprocess.PIPE, text=True))
        for process in running:
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
        snapshot = RepoCache(cache, REPO).snapshot(commit)
        assert (snapshot / "a.bin").read_bytes() == CONTENT
        assert (snapshot / "b.bin").read_bytes() == CONTENT[1:]
    finally:
        shutil.rmtree(shared)
