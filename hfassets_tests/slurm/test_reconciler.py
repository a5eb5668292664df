"""Ticks of the reconciler over runs in a real database, with a recorded queue: the endings that a small cluster cannot
have, and what is concluded from silence."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.utils import make_new_run_id

from hfassets.slurm.attempts import Intent, job_comment
from hfassets.slurm.launcher import SlurmRunLauncher
from hfassets.slurm.reconciler import Memory, Reconciler, Report
from hfassets.slurm.tags import RunRecord

pytestmark = [pytest.mark.unit, pytest.mark.dagster]


@dataclass
class Site:
    """An instance, and a cluster that says what is recorded in `folder`: `queue`, `show-<job>`, `cancelled`."""

    folder: Path
    instance: DagsterInstance
    memory: Memory = field(default_factory=Memory)

    @property
    def launcher(self) -> SlurmRunLauncher:
        launcher = self.instance.run_launcher
        assert isinstance(launcher, SlurmRunLauncher)
        return launcher

    def run(self, status: str, job: str | None, **tags: str) -> DagsterRun:
        """A run in the database, with its intent and, given a job, its record."""
        run_id = make_new_run_id()
        own = RunRecord(run_id, job, None, 1).as_tag()
        run = DagsterRun("job", run_id, status=DagsterRunStatus(status), tags={**own, **tags})
        self.instance.add_run(run)
        comment = job_comment(self.launcher.storage_id, run_id, 1)
        self.launcher.attempts.record_intent(Intent(run_id, 1, comment, "name", None, time.time()), "#!/bin/bash\n")
        return run

    def queue(self, *jobs: tuple[str, str, str, DagsterRun | str]) -> None:
        """What squeue says: (job, state, reason, run or comment)."""
        now = int(time.time())
        lines = []
        for job, state, reason, run in jobs:
            comment = run if isinstance(run, str) else job_comment(self.launcher.storage_id, run.run_id, 1)
            ended = now - 100 if state not in ("PENDING", "RUNNING") else "N/A"
            lines.append(f"{job}|{state}|{reason}|{now}|{ended}|{now}|0:10|10:00|n1|normal|{comment}\n")
            (self.folder / f"show-{job}").write_text(
                f"JobId={job} JobState={state} Reason={reason} ExitCode=0:0 RunTime=00:00:10 TimeLimit=00:10:00"
                " NodeList=n1 MinMemoryNode=300M\n"
            )
        (self.folder / "queue").write_text("".join(lines))

    def tick(self) -> Report:
        return Reconciler(self.instance, self.launcher, self.memory).tick()

    def status(self, run: DagsterRun) -> str:
        found = self.instance.get_run_by_id(run.run_id)
        assert found is not None
        return found.status.value

    def tags(self, run: DagsterRun) -> Any:
        found = self.instance.get_run_by_id(run.run_id)
        assert found is not None
        return found.tags

    def said(self, run: DagsterRun) -> str:
        return "\n".join(
            entry.dagster_event.message or "" for entry in self.instance.all_logs(run.run_id) if entry.dagster_event
        )

    @property
    def cancelled(self) -> list[str]:
        file = self.folder / "cancelled"
        return file.read_text().split() if file.exists() else []


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A cluster of recorded answers, without accounting."""
    commands = {
        "squeue": f"cat {tmp_path}/queue 2>/dev/null || {{ echo 'Unable to contact slurm controller' >&2; exit 1; }}",
        "scontrol": f'case "$*" in *config*) echo "AccountingStorageType = accounting_storage/none";;'
        f' *"show job"*) cat {tmp_path}/show-${{@: -1}};; esac',
        "scancel": f"for a; do case $a in -*) ;; *) echo $a >> {tmp_path}/cancelled;; esac; done",
        "sinfo": "echo 'n1|idle'",
    }
    (tmp_path / "bin").mkdir()
    for name, body in commands.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monitoring = {"enabled": True, "start_timeout_seconds": 10**9, "max_resume_run_attempts": 5}
    launcher = {"module": "hfassets.slurm", "class": "SlurmRunLauncher", "config": {}}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({"run_launcher": launcher, "run_monitoring": monitoring}))
    environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "SLURM_CONF": str(tmp_path)}
    with (
        patch.dict(os.environ, environment),
        DagsterInstance.from_config(str(tmp_path)) as instance,
    ):
        found = Site(tmp_path, instance)
        found.launcher.queue._ttl_s = 0.0
        yield found


@pytest.mark.parametrize(
    "state", ["TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED", "CANCELLED", "BOOT_FAIL", "DEADLINE"]
)
def test_a_job_that_ends_before_its_worker_started_fails_its_run_with_the_state(site: Site, state: str) -> None:
    run = site.run("STARTING", "7")
    site.queue(("7", state, "None", run))
    site.tick()
    assert site.status(run) == "FAILURE"
    assert state in site.said(run) and "before its worker had started" in site.said(run)


@pytest.mark.parametrize(
    ("state", "after"),
    [
        ("TIMEOUT", "STARTED"),
        ("NODE_FAIL", "STARTED"),
        ("BOOT_FAIL", "STARTED"),
        ("PREEMPTED", "STARTED"),
        ("OUT_OF_MEMORY", "FAILURE"),
        ("CANCELLED", "FAILURE"),
        ("DEADLINE", "FAILURE"),
    ],
)
def test_each_ending_has_one_owner(site: Site, state: str, after: str) -> None:
    """What may go on is left to the launcher's health answer, which says FAILED; the rest is failed here."""
    run = site.run("STARTED", "7")
    site.queue(("7", state, "None", run))
    site.tick()
    assert site.status(run) == after
    found = site.instance.get_run_by_id(run.run_id)
    assert found is not None
    health = site.launcher.check_run_worker_health(found)
    assert health.status.value == ("FAILED" if after == "STARTED" else "RUNNING")
    assert state in (health.msg or site.said(run))
    assert site.tags(run)["slurm-status/state"] == state


def test_silence_of_the_controller_concludes_nothing(site: Site) -> None:
    run = site.run("STARTED", "7")
    for _ in range(3):
        assert "nothing concluded" in str(site.tick())
    site.memory.absent[run.run_id] = 1.0
    site.tick()
    assert site.status(run) == "STARTED"
    found = site.instance.get_run_by_id(run.run_id)
    assert found is not None and site.launcher.check_run_worker_health(found).status.value == "RUNNING"


def test_a_job_that_has_vanished_is_given_up_only_after_a_while(site: Site) -> None:
    run = site.run("STARTING", "7")
    site.queue()
    site.tick()
    assert site.status(run) == "STARTING"
    site.memory.absent[run.run_id] -= 61
    site.tick()
    assert site.status(run) == "FAILURE" and "gone from the queue" in site.said(run)


def test_a_job_that_waits_for_days_is_no_failure_and_says_why(site: Site) -> None:
    run = site.run("STARTING", "7")
    site.queue(("7", "PENDING", "QOSMaxJobsPerUserLimit", run))
    report = site.tick()
    assert site.status(run) == "STARTING"
    assert site.tags(run)["slurm-status/reason"] == "QOSMaxJobsPerUserLimit"
    assert "1 pending (1 QOSMaxJobsPerUserLimit)" in str(report)


def test_jobs_without_a_run_are_cancelled_and_others_left_alone(site: Site) -> None:
    over, alive = site.run("CANCELED", "1"), site.run("STARTED", "2")
    deleted = job_comment(site.launcher.storage_id, make_new_run_id(), 1)
    foreign = job_comment("0" * 32, make_new_run_id(), 1)
    site.queue(
        ("1", "RUNNING", "None", over),
        ("2", "RUNNING", "None", alive),
        ("3", "RUNNING", "None", deleted),
        ("4", "RUNNING", "None", foreign),
        ("5", "RUNNING", "None", "somebody's"),
    )
    site.tick()
    assert site.cancelled == ["1"]
    site.tick()
    assert sorted(set(site.cancelled)) == ["1", "3"]


def test_of_two_jobs_of_one_attempt_the_unrecorded_one_is_cancelled(site: Site) -> None:
    """sbatch's answer was lost and the controller had taken it all the same."""
    run = site.run("STARTED", "8")
    site.queue(("7", "PENDING", "Priority", run), ("8", "RUNNING", "None", run))
    site.tick()
    assert site.cancelled == ["7"]


def test_an_unrecorded_job_is_adopted(site: Site) -> None:
    run = site.run("STARTING", None)
    site.queue(("7", "PENDING", "Priority", run))
    assert "adopted job 7" in str(site.tick())
    assert '"job_id":"7"' in site.tags(run)[".slurm/run"]
    assert "Adopted SLURM job 7" in site.said(run)


def test_a_run_whose_step_the_kernel_killed_is_told_why_afterwards(site: Site) -> None:
    run = site.run("FAILURE", "7")
    site.queue(("7", "OUT_OF_MEMORY", "OutOfMemory", run))
    for _ in range(3):
        site.tick()
    assert site.said(run).count("OUT_OF_MEMORY") == 1
    assert site.tags(run)["slurm-status/state"] == "OUT_OF_MEMORY"


def test_a_finished_run_does_not_go_on_saying_that_it_waits(site: Site) -> None:
    run = site.run("SUCCESS", "7", **{"slurm-status/state": "PENDING"})
    site.queue(("7", "COMPLETED", "None", run))
    site.tick()
    assert site.tags(run)["slurm-status/state"] == "COMPLETED"
    forgotten = site.run("SUCCESS", "9", **{"slurm-status/state": "RUNNING"})
    site.tick()
    assert site.tags(forgotten)["slurm-status/state"] == "GONE"


def test_a_completed_job_whose_run_goes_on_is_resumed_after_a_minute(site: Site) -> None:
    run = site.run("STARTED", "7")
    site.queue(("7", "COMPLETED", "None", run))
    site.tick()
    assert site.status(run) == "STARTED"
    found = site.instance.get_run_by_id(run.run_id)
    assert found is not None and site.launcher.check_run_worker_health(found).status.value == "FAILED"


@pytest.mark.parametrize("waiting", ["PENDING", "RUNNING"])
def test_a_run_that_is_being_cancelled_ends_with_its_job(site: Site, waiting: str) -> None:
    run = site.run("CANCELING", "7")
    site.queue(("7", waiting, "None", run))
    site.tick()
    assert site.cancelled == (["7"] if waiting == "PENDING" else [])
    site.memory.canceling[run.run_id] = time.time() - 31
    site.tick()
    assert "7" in site.cancelled
    site.queue(("7", "CANCELLED", "None", run))
    site.tick()
    assert site.status(run) == "CANCELED"


def test_one_broken_run_does_not_keep_the_others_waiting(site: Site) -> None:
    first = site.run("STARTING", None)
    for file in site.launcher.attempts.attempt_folder(first.run_id, 1).iterdir():
        file.unlink()
    good = site.run("STARTING", "7")
    site.queue(("7", "RUNNING", "None", good))
    site.tick()
    assert site.status(first) == "FAILURE" and "launch the run again" in site.said(first)
    assert site.tags(good)["slurm-status/state"] == "RUNNING"
