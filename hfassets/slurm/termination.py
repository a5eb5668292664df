"""Ending a run's job because somebody asked for it: signal, wait, cancel. Dagster's by nature.

Invariant: a run that is being cancelled ends as CANCELED, whether its job waits, runs, is gone, or cannot be reached
now: what this call cannot finish, the reconciler does.
"""

from __future__ import annotations

import time

from dagster import DagsterInstance, DagsterRun

from hfassets.slurm.client import SlurmClient
from hfassets.slurm.errors import SlurmError
from hfassets.slurm.queue import SharedQueue
from hfassets.slurm.tags import RunRecord

WAIT_FOR_WORKER = 15.0


def terminate(
    instance: DagsterInstance,
    client: SlurmClient,
    queue: SharedQueue,
    run: DagsterRun,
    found: RunRecord,
    *,
    stepped: bool,
) -> bool:
    """Whether the run is ending or has ended by now. The worker gets `WAIT_FOR_WORKER` seconds to say goodbye;
    `stepped`: it is a step of its job (`srun` wraps it), and signals go there."""
    instance.report_run_canceling(run)
    try:
        return _end_job(instance, client, queue, run, found, stepped)
    except SlurmError as error:
        instance.report_engine_event(f"SLURM job {found.job_id} will be cancelled as soon as possible: {error}", run)
        return True


def _end_job(
    instance: DagsterInstance,
    client: SlurmClient,
    queue: SharedQueue,
    run: DagsterRun,
    found: RunRecord,
    stepped: bool,
) -> bool:
    if found.job_id is None:
        instance.report_run_canceled(run, "Cancelled before its SLURM job was submitted.")
        return True
    snapshot = queue.snapshot(max_age_s=0)
    if snapshot.error is not None:
        raise SlurmError(snapshot.error)
    job = snapshot.jobs.get(found.job_id)
    if job is None or job.state.ended:
        instance.report_run_canceled(run, f"SLURM job {found.job_id} has ended already.")
        return True
    if job.state.pending:
        client.cancel([found.job_id])
        instance.report_run_canceled(run, f"SLURM job {found.job_id} was cancelled while it waited in the queue.")
        return True
    client.cancel([found.job_id], signal="TERM", steps=stepped)
    deadline = time.monotonic() + WAIT_FOR_WORKER
    while time.monotonic() < deadline:
        current = instance.get_run_by_id(run.run_id)
        if current is None or current.is_finished:
            return True
        time.sleep(0.25)
    client.cancel([found.job_id])
    return True
