"""Parts on job arrays of a real cluster: what fails is named, what is killed goes on, and there is one array in all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from hfassets.arrays import ArrayPool
from hfassets.errors import PartialFailureError
from hfassets.parts import PartsResult, Plan
from hfassets.parts import run as run_parts
from hfassets.slurm.resources import parse_resources
from hfassets.slurm.settings import parse_settings
from hfassets_tests.arrays.workers import work
from hfassets_tests.cluster import Cluster, missing_commands
from hfassets_tests.conftest import ClientEnvironment
from hfassets_tests.dagster_service import wait_for
from hfassets_tests.mds.pipeline import corpus, write_jsonl

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes."""
    missing = missing_commands()
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (make test installs them as root)")
    with Cluster(tmp_path_factory.mktemp("cluster"), accounting=False) as cluster:
        yield cluster


class Place:
    """A folder for plans on a cluster."""

    def __init__(self, root: Path, cluster: Cluster) -> None:
        self.root = root
        self.cluster = cluster
        self.said: list[str] = []
        (root / "stones").mkdir(exist_ok=True)

    def plan(self, count: int, **context: Any) -> Plan:
        """So many parts."""
        places = {"stones": str(self.root / "stones"), "log": str(self.root / "log")}
        names = [{"name": f"p{number:05}"} for number in range(count)]
        return Plan("trial", 1, {}, {}, names, {**places, **context})

    def pool(self, **given: Any) -> ArrayPool:
        """Tasks of one CPU."""
        asked = {"cpus": "1", "memory": "300M", "time": "00:05:00", **given.pop("asked", {})}
        request = parse_resources(asked, "")
        settings = parse_settings({"export": ["PYTHONPATH"]}, self.root)
        return ArrayPool(settings, request, say=self.said.append, **given)

    def run(self, count: int, pool: ArrayPool | None = None, **context: Any) -> PartsResult:
        """Make them."""
        return run_parts(self.plan(count, **context), work, pool or self.pool(part_seconds=600.0), self.root / "out")

    @property
    def made(self) -> list[list[str]]:
        """Name, array and node of each part that was made."""
        log = self.root / "log"
        return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture
def place(tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Commands of this process talk to the cluster."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    return Place(tmp_path, cluster)


def test_what_fails_is_named_and_made_by_the_next_run(place: Place) -> None:
    """20 tasks, 3 of which fail, are tried once more by themselves and then named; the next run makes just these."""
    for number in (0, 7, 11):
        (place.root / "stones" / f"p{number:05}").touch()
    with pytest.raises(PartialFailureError) as failed:
        place.run(20)
    assert [name for name, _ in failed.value.failures] == ["p00000", "p00007", "p00011"]
    assert "a stone: p00000" in str(failed.value)
    assert len(place.made) == 17 and len({array for _, array, _ in place.made}) == 1
    assert [line.split(": ", 1)[1] for line in place.said] == [
        "20 parts in 20 tasks",
        "3 parts once more, each by itself",
    ]
    for stone in (place.root / "stones").iterdir():
        stone.unlink()
    place.said.clear()
    result = place.run(20)
    assert len(result.made) == 3 and len(result.reused) == 17 and len(place.made) == 20
    # What tasks of the first run said is not taken for what these say.
    assert [line.split(": ", 1)[1] for line in place.said] == ["3 parts in 3 tasks"]
    left = (place.root / "out/.array").iterdir()
    assert {path.suffix for path in left} == {".log"}


_SCRIPT = """
import sys
from pathlib import Path
from hfassets_tests.arrays.test_pool import Place
if __name__ == "__main__":
    Place(Path(sys.argv[1]), None).run(8, seconds=1.5)
"""


@pytest.mark.parametrize("answered", [pytest.param(True, marks=pytest.mark.drill), False])
def test_a_coordinator_that_is_killed_finds_its_array_again(place: Place, answered: bool) -> None:
    """SIGKILL in mid-array: the next run waits for the array that lives, and submits none; also when sbatch's answer
    was never written down.
    """
    script = place.root / "script.py"
    script.write_text(_SCRIPT)
    process = subprocess.Popen([sys.executable, str(script), str(place.root)])
    wait_for("some parts", lambda: len(place.made) >= 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(place.made) < 8
    (record,) = (place.root / "out/.array").glob("*.json")
    if not answered:
        record.write_bytes(orjson.dumps({**orjson.loads(record.read_bytes()), "job": None}))
    result = place.run(8, seconds=1.5)
    assert len(result.manifests) == 8 and len(place.made) == 8
    assert len({array for _, array, _ in place.made}) == 1
    assert "of an earlier run" in place.said[0]


def test_an_interrupt_cancels_the_array(place: Place) -> None:
    """Nothing of it is left in the queue."""
    script = place.root / "script.py"
    script.write_text(_SCRIPT.replace("seconds=1.5", "seconds=60"))
    process = subprocess.Popen([sys.executable, str(script), str(place.root)], start_new_session=True)
    wait_for("tasks", lambda: len(place.cluster.jobs("RUNNING")) >= 2)
    process.send_signal(signal.SIGINT)
    process.wait()
    wait_for("an empty queue", lambda: not place.cluster.jobs("RUNNING", "PENDING"))
    assert process.returncode != 0 and not list((place.root / "out/.array").glob("*.json"))


@pytest.mark.drill
def test_who_cancels_the_array_ends_the_run(place: Place) -> None:
    """scancel means it: what ran and what waited is named, and no other array is submitted."""
    script = place.root / "script.py"
    script.write_text(_SCRIPT.replace("seconds=1.5", "seconds=60"))
    process = subprocess.Popen([sys.executable, str(script), str(place.root)], stderr=subprocess.PIPE, text=True)
    wait_for("tasks", lambda: len(place.cluster.jobs("RUNNING")) >= 2)
    place.cluster.cancel_all()
    _, told = process.communicate()
    assert process.returncode != 0 and "was cancelled; run again to go on" in told
    assert not place.cluster.jobs("RUNNING", "PENDING")


def test_many_parts_take_few_tasks(place: Place) -> None:
    """A task gets so many parts that it is worth its while, in as few arrays as the cluster takes."""
    result = place.run(300, place.pool(max_tasks=6, processes=2, part_seconds=0.01))
    assert len(result.made) == 300
    assert place.said[0].endswith("300 parts in 1 tasks")


@pytest.mark.drill
def test_a_whole_node_makes_as_many_parts_at_once_as_it_has_cpus(place: Place) -> None:
    """One task, though each part alone would be worth a task of one process."""
    began = time.monotonic()
    place.run(4, place.pool(part_seconds=300.0, asked={"exclusive": "true", "time": "01:00:00"}), seconds=4)
    assert place.said[0].endswith("4 parts in 1 tasks")
    # One after the other they would take 16 s.
    assert time.monotonic() - began < 16


@pytest.mark.drill
@pytest.mark.timeout(1200)
def test_jobs_of_one_minute_finish_five_minutes_of_parts(place: Place) -> None:
    """One task gets all, for it is not known how long they take; other jobs go on, and no part is made twice."""
    result = place.run(60, place.pool(part_seconds=0.01, asked={"time": "00:01:00"}), seconds=5)
    assert len(result.made) == 60 and len(place.made) == 60
    assert 5 <= len({array for _, array, _ in place.made}) <= 10
    assert "60 parts in 1 tasks" in place.said[0]


@pytest.mark.drill
def test_a_part_that_needs_more_than_the_limit_is_named(place: Place) -> None:
    """After three jobs, with the limit; the others are made."""
    (place.root / "slow").write_text("p00003")
    with pytest.raises(PartialFailureError, match=r"p00003: its task ended 3 times .*time limit of 00:01:00"):
        place.run(6, place.pool(part_seconds=0.01, asked={"time": "00:01:00"}), slow=str(place.root / "slow"))
    assert len(place.made) == 5


@pytest.mark.drill
def test_no_more_arrays_follow_than_may(place: Place) -> None:
    """What is left then is named; the next run goes on."""
    with pytest.raises(PartialFailureError, match="no time was left for it in 2 arrays"):
        place.run(40, place.pool(part_seconds=0.01, asked={"time": "00:01:00"}, continuations=1), seconds=6)
    assert 8 <= len(place.made) < 40
    assert len(place.run(40, seconds=0.1).reused) >= 8


@pytest.mark.drill
def test_a_node_that_dies_leaves_its_parts_to_others(place: Place) -> None:
    """In mid-array: its parts are made elsewhere, once each, by a second array."""
    script = place.root / "script.py"
    script.write_text(_SCRIPT.replace("run(8, seconds=1.5)", "run(12, seconds=6)"))
    process = subprocess.Popen([sys.executable, str(script), str(place.root)])
    wait_for("tasks on both nodes", lambda: len(place.cluster.jobs("RUNNING")) >= 4)
    place.cluster.kill_node("n2")
    assert process.wait(300) == 0
    place.cluster.start_node("n2")
    made = place.made
    assert sorted(name for name, _, _ in made) == [f"p{number:05}" for number in range(12)]
    assert len({array for _, array, _ in made}) == 2


@pytest.mark.drill
def test_200_tasks_with_5_that_fail(place: Place) -> None:
    """195 are done, 5 named, and the next run does 5."""
    stones = [place.root / "stones" / f"p{number:05}" for number in (1, 50, 99, 150, 199)]
    for stone in stones:
        stone.touch()
    with pytest.raises(PartialFailureError) as failed:
        place.run(200)
    assert [name for name, _ in failed.value.failures] == [stone.name for stone in stones]
    assert len(place.made) == 195
    for stone in stones:
        stone.unlink()
    result = place.run(200)
    assert (len(result.made), len(result.reused)) == (5, 195)


def test_a_command_makes_its_parts_on_the_cluster(place: Place) -> None:
    """The same bytes as here; what is wrong with a request is one line."""
    write_jsonl(place.root / "source", corpus(60))
    (place.root / "site.yaml").write_text("export: [PYTHONPATH]\nresources: {memory: 900M, time: '00:05:00'}\n")

    def convert(output: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hfassets.cli.main", "mds", "jsonl_to_mds", "-i", "source"]
        command += ["-o", output, "--part-size", "20kB"]
        return subprocess.run([*command, *words], cwd=place.root, capture_output=True, text=True, check=False)

    slurm = ("--backend", "slurm", "--site", "site.yaml")
    refused = convert("there", *slurm, "--resource", "cpus=many")
    assert refused.returncode == 2 and "cpus" in refused.stderr and "Traceback" not in refused.stderr
    done = convert("there", *slurm, "--resource", "cpus=1", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "job array" in done.stderr
    assert convert("here").returncode == 0

    def shards(name: str) -> dict[str, bytes]:
        folder = place.root / name
        return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.mds*"))}

    assert shards("there") == shards("here") and len(shards("here")) > 2
    nowhere = convert("again", *slurm, "--resource", "partition=nowhere")
    assert nowhere.returncode == 1 and "parts as a job array" in nowhere.stderr and "Traceback" not in nowhere.stderr


@pytest.mark.drill
def test_a_shard_set_is_counted_and_written_on_the_cluster(place: Place, hub_env: ClientEnvironment) -> None:
    """Its sources are fetched here; the parts have the same bytes as those of one process."""
    (place.root / "site.yaml").write_text("export: [PYTHONPATH]\nresources: {memory: 900M, time: '00:05:00'}\n")

    def make(output: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hfassets.cli.main", "c4", "--num-samples", "1500", "--output-dir", output]
        command += ["--max-lines-per-file", "100", "--no-streaming", "--state-dir", f"{output}-state"]
        return subprocess.run([*command, *words], cwd=place.root, capture_output=True, text=True, check=False)

    there = make("there", "--backend", "slurm", "--site", "site.yaml")
    assert there.returncode == 0, there.stderr
    assert there.stderr.count("job array") >= 2
    assert make("here").returncode == 0

    def parts(name: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (place.root / name).glob("*.jsonl")}

    assert len(parts("here")) == 15 and parts("there") == parts("here")
