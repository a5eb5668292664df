"""A cache shared by unprivileged users of one group, and runs that meet on one partition."""

from __future__ import annotations

import os
import shutil
import site
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from hfassets.demo.hub_faults import Fault
from hfassets.errors import LeaseHeldError
from hfassets.hub.acquire import SnapshotRequest, take_snapshot
from hfassets.hub.layout import RepoCache
from hfassets.hub.session import HubClient, hub_options
from hfassets.storage import StateDir
from hfassets_tests.conftest import ClientEnvironment

pytestmark = pytest.mark.hub

GROUP, ALICE, BOB = 20000, 20001, 20002
REPO = "ibm-research/duorc"


def become(user: int) -> list[str]:
    """What runs a command as a user of the group, without any right of root."""
    return ["setpriv", "--reuid", str(user), "--regid", str(GROUP), "--clear-groups", "--inh-caps=-all"]


def _interpreter() -> list[str]:
    """A Python that others may run: ours, or the system's with our packages (ours may lie in root's home)."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return []
    packages = os.pathsep.join([str(Path(__file__).parents[2]), *site.getsitepackages()])
    for candidate in ([sys.executable], ["env", f"PYTHONPATH={packages}", "/usr/bin/python3"]):
        probe = [*become(ALICE), *candidate, "-c", "import hfassets.cli.main, datasets"]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return candidate
    return []


INTERPRETER = _interpreter()
needs_users = pytest.mark.skipif(
    not INTERPRETER, reason="becoming two other users takes root, setpriv, and a Python outside root's home"
)


class Team:
    """Two users in one group, a setgid folder, and a catalog that sets umask 0002."""

    def __init__(self, folder: Path, environment: ClientEnvironment) -> None:
        self.folder, self.environment = folder, environment
        folder.mkdir()
        os.chown(folder, 0, GROUP)
        folder.chmod(0o2775)
        (folder / "catalog.yaml").write_text("storage: {hub_cache: hub, datasets_cache: datasets, umask: 0002}\n")

    def start(self, user: int, *words: str | Path) -> subprocess.Popen[str]:
        """Start `hfassets` as a user whose own umask is strict."""
        home = self.folder.parent / f"home-{user}"
        home.mkdir(exist_ok=True)
        os.chown(home, user, GROUP)
        env = {
            **self.environment.variables,
            "HOME": str(home),
            "HF_HOME": str(home / "hf"),
            "HFASSETS_CATALOG": str(self.folder / "catalog.yaml"),
        }
        command = [*become(user), *INTERPRETER, "-m", "hfassets.cli.main", *map(str, words)]
        return subprocess.Popen(
            command, env=env, cwd=home, umask=0o077, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self, user: int, *words: str | Path) -> str:
        """Run `hfassets` as a user; it has to succeed."""
        process = self.start(user, *words)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, f"{user}: {err}\n{out}"
        return out

    def download(self, *more: str) -> Sequence[str | Path]:
        """The words of a download into the shared caches."""
        return ["hub", "download", "--dataset-name", REPO, "--cache-dir", self.folder / "datasets", *more]


@pytest.fixture
def team(hub_env: ClientEnvironment) -> Iterator[Team]:
    # Not below pytest's folder, which is root's alone, and which each new session closes again.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Team(Path(folder) / "team", hub_env)


@needs_users
def test_two_users_download_one_after_the_other(team: Team) -> None:
    """What one user made the other can use, verify, move aside and make again; all of it belongs to the group."""
    team.run(ALICE, *team.download("--subset-name", "SelfRC"))
    team.environment.hub.reset_log()
    team.run(BOB, *team.download("--subset-name", "SelfRC"))
    assert not [one for one in team.environment.hub.requests if "parquet" in one.path and one.sent]
    blob = next((team.folder / "hub").rglob("blobs/" + "?" * 64))
    assert blob.stat().st_uid == ALICE
    data = bytearray(blob.read_bytes())
    data[100] ^= 1
    blob.write_bytes(data)
    team.run(BOB, "hub", "verify", "--cache-dir", team.folder / "hub", "--repair")
    assert blob.stat().st_uid == BOB
    team.run(ALICE, *team.download())
    for path in team.folder.rglob("*"):
        if not path.is_symlink() and path.name != "catalog.yaml":
            mode = path.stat().st_mode
            assert path.stat().st_gid == GROUP, path
            assert mode & stat.S_IWGRP and mode & stat.S_IRGRP, f"{path}: {oct(mode)}"


@needs_users
def test_two_users_download_at_once(team: Team) -> None:
    """Neither blocks the other: both end well, and what lies there is proven."""
    team.environment.hub.set_faults(Fault("slow", path=f"{REPO}/*", rate=400_000))
    processes = [team.start(user, *team.download("--raw-only")) for user in (ALICE, BOB)]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, f"{err}\n{out}"
    team.run(ALICE, "hub", "verify", "--cache-dir", team.folder / "hub", "--full")


def test_second_run_of_a_partition_fails_naming_the_first(tmp_path: Path, hub_env: ClientEnvironment) -> None:
    """A run that does not wait is told who holds the partition; the first one ends well."""
    hub_env.hub.set_faults(Fault("hang", path=f"{REPO}/SelfRC/*", after=1000))
    words = ["hub", "download", "--dataset-name", REPO, "--subset-name", "SelfRC", "--raw-only"]
    command = [sys.executable, "-m", "hfassets.cli.main", *words, "--state-dir", str(tmp_path / "state")]
    with subprocess.Popen(command, env=hub_env.variables, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as first:
        wait_until(lambda: any(one.path.endswith(".parquet") for one in hub_env.hub.requests))
        repo = RepoCache(hub_env.hub_cache, REPO)
        request = SnapshotRequest(repo, hub_env.hub.commit(REPO), StateDir(tmp_path / "state"), "SelfRC")
        with HubClient(hub_options()) as client, pytest.raises(LeaseHeldError, match=f"process {first.pid} on "):
            take_snapshot(client, request)
        hub_env.hub.set_faults()
        assert first.wait(60) == 0
    with HubClient(hub_options()) as client:
        assert take_snapshot(client, request).reused


def wait_until(condition: Callable[[], bool], timeout: float = 60.0) -> None:
    """Look every 10 ms until it holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.01)
