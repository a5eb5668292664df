"""A thousand live runs: what they cost the controller and the daemon, and how long a launch takes.

    python -m benchmarks.bench_slurm [--runs 1000]

The comparison is what a launcher does that asks SLURM about each run by itself: one `squeue --job` a health check. The
queue of a thousand jobs is a recorded one (an `squeue` that prints it, and counts how often it is called); launches go
to a real SLURM. Targets: one squeue a poll for all processes of the host, a tick under 2 s when little changed, 5 ms
a health answer, 0.5 s from `launch_run` to a submitted job.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import yaml
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.launcher import LaunchRunContext
from dagster._core.utils import make_new_run_id
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from rich.console import Console

from hfassets.report.tables import build_table
from hfassets.slurm.attempts import job_comment
from hfassets.slurm.client import SlurmClient
from hfassets.slurm.launcher import SlurmRunLauncher
from hfassets.slurm.queue import SharedQueue
from hfassets.slurm.reconciler import Memory, Reconciler
from hfassets.slurm.tags import RunRecord, record, status
from hfassets_tests.cluster import Cluster, missing_commands

TICK_TARGET, HEALTH_TARGET, LAUNCH_TARGET = 2.0, 0.005, 0.5
PROCESSES = 8
POLL = """
import sys, time
from hfassets.slurm.client import SlurmClient
from hfassets.slurm.queue import SharedQueue
queue = SharedQueue(SlurmClient(), ttl_s=600)
for _ in range(20):
    assert len(queue.snapshot().jobs) == int(sys.argv[1])
"""


@contextmanager
def instance_in(folder: Path) -> Iterator[DagsterInstance]:
    """A Dagster instance with the launcher, on SQLite."""
    monitoring = {"enabled": True, "start_timeout_seconds": 10**9, "max_resume_run_attempts": 5}
    config = {"resources": {"memory": "100M", "time": "00:05:00"}, "submissions_per_second": 1000.0}
    launcher = {"module": "hfassets.slurm", "class": "SlurmRunLauncher", "config": config}
    folder.mkdir()
    (folder / "dagster.yaml").write_text(yaml.safe_dump({"run_launcher": launcher, "run_monitoring": monitoring}))
    with DagsterInstance.from_config(str(folder)) as instance:
        yield instance


def launcher_of(instance: DagsterInstance) -> SlurmRunLauncher:
    """The instance's launcher."""
    launcher = instance.run_launcher
    assert isinstance(launcher, SlurmRunLauncher)
    return launcher


def add_runs(instance: DagsterInstance, count: int) -> list[str]:
    """Started runs, each with a job; their ids."""
    ids = [make_new_run_id() for _ in range(count)]
    for number, run_id in enumerate(ids, 1):
        tags = {**RunRecord(run_id, str(number), None, 1).as_tag(), **status(state="RUNNING", job=str(number))}
        instance.add_run(DagsterRun("job", run_id, status=DagsterRunStatus.STARTED, tags=tags))
    return ids


def record_queue(folder: Path, launcher: SlurmRunLauncher, ids: Sequence[str]) -> None:
    """An squeue on PATH that prints a line a run and notes that it was called."""
    (folder / "bin").mkdir()
    script = folder / "bin" / "squeue"
    now = int(time.time())
    (folder / "queue").write_text(
        "".join(
            f"{number}|RUNNING|None|{now}|{now + 600}|{now}|0:10|10:00|n1|normal"
            f"|{job_comment(launcher.storage_id, run_id, 1)}\n"
            for number, run_id in enumerate(ids, 1)
        )
    )
    script.write_text(f"#!/bin/bash\necho x >> {folder}/calls\nexec cat {folder}/queue\n")
    script.chmod(0o755)


def calls(folder: Path) -> int:
    """How often squeue was called."""
    file = folder / "calls"
    return len(file.read_text().split()) if file.exists() else 0


def measure_live(folder: Path, count: int) -> list[tuple[str, str, str, bool]]:
    """Polls, ticks and health checks with `count` live runs."""
    with instance_in(folder / "live") as instance:
        launcher = launcher_of(instance)
        ids = add_runs(instance, count)
        record_queue(folder, launcher, ids)
        with patch.dict(os.environ, {"PATH": f"{folder}/bin:{os.environ['PATH']}"}):
            workers = [subprocess.Popen([sys.executable, "-c", POLL, str(count)]) for _ in range(PROCESSES)]
            assert [worker.wait() for worker in workers] == [0] * PROCESSES
            asked = calls(folder)
            memory = Memory()
            Reconciler(instance, launcher, memory).tick()
            ticks = [timed(lambda: Reconciler(instance, launcher, memory).tick()) for _ in range(5)]
            runs = list(instance.get_runs())
            answers = [timed(lambda run=run: launcher.check_run_worker_health(run)) for run in runs]
            one_by_one = [timed(lambda: SlurmClient().jobs()) for _ in range(50)]
    tick, health, each = (
        statistics.median(ticks),
        statistics.quantiles(answers, n=100)[98],
        statistics.median(one_by_one),
    )
    return [
        (f"squeue calls, {PROCESSES} processes × 20 polls", f"{asked}", f"{PROCESSES * 20}", asked == 1),
        (f"reconciler tick, {count} runs", f"{tick:.3f} s", f"{each * count:.1f} s", tick < TICK_TARGET),
        (
            "health answer, 99th percentile",
            f"{health * 1000:.2f} ms",
            f"{each * 1000:.2f} ms",
            health < HEALTH_TARGET,
        ),
    ]


def measure_launch(folder: Path, rounds: int) -> list[tuple[str, str, str, bool]]:
    """From `launch_run` to a submitted job, on a real SLURM; beside it a bare sbatch."""
    if missing_commands(accounting=False):
        return [("launch_run to submitted", "no SLURM here", "", True)]
    with ExitStack() as exits:
        cluster = exits.enter_context(Cluster(folder / "cluster", accounting=False))
        exits.enter_context(patch.dict(os.environ, {**cluster.environment, "TRIAL_FOLDER": str(folder)}))
        instance = exits.enter_context(instance_in(folder / "launch"))
        target = ModuleTarget(
            "hfassets_tests.slurm.location", attribute=None, working_directory=None, location_name="t"
        )
        context = exits.enter_context(WorkspaceProcessContext(instance, target))
        workspace = context.create_request_context()
        repository = workspace.get_code_location("t").get_repository("__repository__")
        origin = repository.get_full_job("__ASSET_JOB").get_remote_origin()
        code = repository.get_full_job("__ASSET_JOB").get_python_origin()
        launcher, times = launcher_of(instance), []
        for _ in range(rounds):
            run = DagsterRun(
                "__ASSET_JOB",
                make_new_run_id(),
                status=DagsterRunStatus.STARTING,
                tags={"slurm/cpus": "1"},
                remote_job_origin=origin,
                job_code_origin=code,
            )
            instance.add_run(run)
            # As after Dagster's queue: the run has events, and with SQLite a file for them.
            instance.report_engine_event("dequeued", run)
            times.append(timed(lambda run=run: launcher.launch_run(LaunchRunContext(run, workspace))))
            launched = instance.get_run_by_id(run.run_id)
            found = record(launched) if launched is not None else None
            assert found is not None and found.job_id is not None, "the run has no job"
        bare = [timed(lambda: cluster.sbatch("true")) for _ in range(rounds)]
        assert len(SharedQueue(SlurmClient()).snapshot(max_age_s=0).jobs) >= 2 * rounds
        cluster.run("scancel", "--user=root", check=False)
    launch, plain = max(times), statistics.median(bare)
    return [("launch_run to a submitted job, slowest", f"{launch:.3f} s", f"{plain:.3f} s", launch < LAUNCH_TARGET)]


def timed(work: object) -> float:
    """Seconds that a call takes."""
    begun = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - begun


def main() -> int:
    """Measure and print; exit code 1 if a target was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--launches", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made, patch.dict(os.environ, {"XDG_RUNTIME_DIR": made}):
        folder = Path(made)
        rows = [*measure_live(folder, options.runs), *measure_launch(folder, options.launches)]
    shown = [(name, ours, theirs, "yes" if met else "NO") for name, ours, theirs, met in rows]
    title = f"{options.runs} live runs; beside it: one squeue a run, a bare sbatch"
    table = build_table(["measured", "here>", "one by one>", "target met"], shown, title=title)
    Console().print(table.rich())
    return 0 if all(met for *_, met in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
