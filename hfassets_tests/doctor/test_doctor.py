"""What the doctor finds without a cluster: homes, file systems, secrets, tokens, daemons."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dagster._daemon.types import DaemonHeartbeat

from hfassets.demo.hub_server import SampleHub
from hfassets.doctor.credentials import examine_literals, examine_secret_file, examine_token
from hfassets.doctor.deployment import environment_problem, examine_heartbeats, examine_home
from hfassets.doctor.finding import Finding, Level
from hfassets.doctor.places import FileSystem, Place, examine_place, file_system

pytestmark = pytest.mark.unit

MOUNTS = r"""
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 21 0:40 / /shared rw - nfs4 server:/export rw
31 30 0:41 / /shared/fast rw - lustre mgs@tcp:/fs rw
32 21 0:42 / /with\040space rw - beegfs beegfs_nodev rw
33 21 0:43 / /cover rw - ext4 /dev/sdb rw
34 21 0:44 / /cover rw - tmpfs tmpfs rw
malformed
"""


@pytest.mark.parametrize(
    ("path", "kind", "network"),
    [
        ("/home/me", "ext4", False),
        ("/shared", "nfs4", True),
        ("/shared/home", "nfs4", True),
        ("/shared/fast/x", "lustre", True),
        ("/shared/fastest", "nfs4", True),
        ("/sharedness", "ext4", False),
        ("/with space/x", "beegfs", True),
        ("/cover/x", "tmpfs", False),
    ],
)
def test_the_file_system_of_a_path_is_that_of_its_nearest_mount(path: str, kind: str, network: bool) -> None:
    found = file_system(Path(path), MOUNTS)
    assert (found.kind, found.network) == (kind, network)


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "lustre", "gpfs", "ceph", "fuse.sshfs", "beegfs", "cifs", "9p"])
def test_sqlite_on_a_network_file_system_is_refused_with_the_reason(kind: str) -> None:
    found = list(examine_home(Path("/shared/dagster"), FileSystem(kind, Path("/shared")), sqlite=True, slurm=True))
    assert [finding.level for finding in found] == [Level.PROBLEM]
    assert kind in found[0].text and "locks" in found[0].text and "Postgres" in found[0].advice
    postgres = examine_home(Path("/shared/dagster"), FileSystem(kind, Path("/shared")), sqlite=False, slurm=True)
    assert [finding.level for finding in postgres] == [Level.OK]


def test_dagster_home_itself_is_looked_at_first(tmp_path: Path) -> None:
    assert environment_problem({"DAGSTER_HOME": str(tmp_path)}) is None
    for given, said in (
        ({}, "is not set"),
        ({"DAGSTER_HOME": "x"}, "absolute"),
        ({"DAGSTER_HOME": "/no/x"}, "no folder"),
    ):
        found = environment_problem(given)
        assert found is not None and said in found.text


def levels(findings: object) -> list[Level]:
    return [finding.level for finding in findings]  # type: ignore[attr-defined]


def test_a_place_is_there_or_can_be_made_and_nothing_is_left_in_it(tmp_path: Path) -> None:
    assert Level.PROBLEM not in levels(examine_place(Place("x", tmp_path)))
    missing = list(examine_place(Place("x", tmp_path / "a" / "b")))
    assert "will be made" in missing[0].text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else")
def test_a_place_that_this_user_may_not_write_is_a_problem(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from hfassets.doctor.places import *\n"
        "print([found.level.value for found in examine_place(Place('x', Path(sys.argv[1])))])"
    )
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    tmp_path.chmod(0o755)
    command = ["setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-c", code, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "['problem']\n"


def test_a_file_in_the_way_of_a_folder_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = list(examine_place(Place("x", tmp_path / "file" / "below")))
    assert levels(found) == [Level.PROBLEM] and "is no folder" in found[0].text


def test_a_readable_secret_is_a_problem_and_can_be_put_right(tmp_path: Path) -> None:
    file = tmp_path / "token"
    assert list(examine_secret_file("login file", file, fix=False)) == []
    assert levels(examine_secret_file("secrets_file", file, fix=False)) == [Level.PROBLEM]
    file.write_text("hidden")
    file.chmod(0o644)
    (found,) = examine_secret_file("login file", file, fix=False)
    assert (found.level, found.advice) == (Level.PROBLEM, f"chmod 600 {file}") and "hidden" not in str(found)
    assert levels(examine_secret_file("login file", file, fix=True)) == [Level.FIXED]
    assert levels(examine_secret_file("login file", file, fix=False)) == [Level.OK]


@pytest.mark.parametrize(
    ("document", "names"),
    [
        ({"storage": {"postgres": {"postgres_db": {"password": "x"}}}}, ["password"]),
        ({"storage": {"postgres": {"postgres_db": {"password": {"env": "X"}}}}}, []),
        ({"a": [{"postgres_url": "postgresql://u:p@h/d"}]}, ["postgres_url"]),
        ({"run_launcher": {"config": {"notices": {"webhook": "https://h/x"}}}}, ["webhook"]),
        ({"a": {"password": ""}, "b": "https://host/a@b"}, []),
        (None, []),
    ],
)
def test_a_password_that_stands_in_dagster_yaml_is_a_problem(document: object, names: list[str]) -> None:
    found = list(examine_literals(document, Path("/d")))
    assert [finding.text.split()[0] for finding in found] == names
    assert all(finding.level is Level.PROBLEM and ":p@" not in finding.text for finding in found)


def test_a_token_is_tried_at_the_hub_and_never_shown(sample_hub: SampleHub, tmp_path: Path) -> None:
    def look(**variables: str) -> Finding:
        (found,) = examine_token(sample_hub.url, {"HF_HOME": str(tmp_path), **variables})
        assert sample_hub.token not in str(found) and "hf_wrongToken" not in str(found)
        return found

    assert look().level is Level.NOTE
    assert look(HF_TOKEN=sample_hub.token).level is Level.OK
    assert look(HF_TOKEN="hf_wrongToken").level is Level.PROBLEM
    assert look(HF_TOKEN="hf_wrongToken", HF_HUB_OFFLINE="1").level is Level.NOTE
    (down,) = examine_token("http://127.0.0.1:1", {"HF_TOKEN": "hf_wrongToken"})
    assert down.level is Level.WARNING and "does not answer" in down.text


def beat(kind: str, daemon: str, age: float) -> DaemonHeartbeat:
    return DaemonHeartbeat(time.time() - age, kind, daemon, [])


def test_heartbeats_tell_no_daemon_one_and_two() -> None:
    now = time.time()
    (none,) = examine_heartbeats([], now)
    assert none.level is Level.WARNING and "ever" in none.text
    (old,) = examine_heartbeats([beat("SENSOR", "a", 600)], now)
    assert old.level is Level.WARNING and "10 min" in old.text
    (one,) = examine_heartbeats([beat("SENSOR", "a", 5), beat("SCHEDULER", "a", 8)], now)
    assert one.level is Level.OK
    (two,) = examine_heartbeats([beat("SENSOR", "a", 5), beat("SCHEDULER", "b", 8)], now)
    assert two.level is Level.PROBLEM and "twice" in two.text
    (restarted,) = examine_heartbeats([beat("SENSOR", "a", 5), beat("SCHEDULER", "b", 300)], now)
    assert restarted.level is Level.OK
