"""Waiting until no run is left that lives on this host. Dagster's by nature."""

from __future__ import annotations

import time
from collections.abc import Callable

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from hfassets.slurm import tags

POLL = 2.0


def local_runs(instance: DagsterInstance) -> list[str]:
    """The ids of runs in progress that are no SLURM jobs."""
    active = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
    return [run.run_id for run in instance.get_runs(RunsFilter(statuses=active)) if tags.record(run) is None]


def wait_for_local_runs(instance: DagsterInstance, timeout: float | None, say: Callable[[str], None]) -> list[str]:
    """Wait up to `timeout` seconds (None: for ever) until they have ended; those that are left."""
    deadline = None if timeout is None else time.monotonic() + timeout
    said = -1
    while left := local_runs(instance):
        if len(left) != said:
            runs = "run" if len(left) == 1 else "runs"
            say(f"waiting for {len(left)} {runs} on this host: {', '.join(left[:5])}")
            said = len(left)
        if deadline is not None and time.monotonic() >= deadline:
            break
        time.sleep(POLL)
    return left
