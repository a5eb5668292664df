"""How a job ended, and whether its run may go on in another one.

Invariant: an ending is concluded once, from what SLURM says, and kept beside the attempt; the launcher's health answers
and the reconciler read the same conclusion, so that exactly one of them acts on it. What merely cannot be asked has not
ended.
"""

from __future__ import annotations

from hfassets.slurm.attempts import Attempts, End, tail
from hfassets.slurm.client import Job, SlurmClient
from hfassets.slurm.errors import UnreachableError
from hfassets.slurm.queue import QueueSnapshot
from hfassets.slurm.states import JobDetail, JobState, explain
from hfassets.slurm.tags import RunRecord

RESUMABLE = frozenset({JobState.TIMEOUT, JobState.NODE_FAIL, JobState.BOOT_FAIL, JobState.PREEMPTED})
"""Endings that say nothing against the work: it goes on in a new job."""
NODE_FAILURES = frozenset({JobState.NODE_FAIL, JobState.BOOT_FAIL})
EXIT_UNFINISHED = 75
COMPLETED_GRACE = 60.0
VANISHED_GRACE = 60.0
ACCOUNTING_DELAY = 14.0


def conclude(detail: JobDetail, at: float, stderr: str = "") -> End:
    """What an ended job means for its run; `stderr` is the last of what it wrote there. Pure."""
    interrupted = detail.state == JobState.FAILED and detail.exit_code == EXIT_UNFINISHED
    message = f"SLURM job {detail.job_id}: {explain(detail, stderr)}"
    if interrupted:
        message = f"SLURM job {detail.job_id} was told to stop on {detail.nodes or 'its node'} before its run had ended"
    if detail.state == JobState.COMPLETED:
        message = f"SLURM job {detail.job_id} is COMPLETED and its run has not ended: its worker stopped without a word"
    return End(
        detail.job_id,
        detail.state.value,
        message,
        resume=interrupted or detail.state in RESUMABLE or detail.state == JobState.COMPLETED,
        at=at,
        nodes=(detail.nodes,) if detail.state in NODE_FAILURES and detail.nodes else (),
    )


def settle(
    found: RunRecord, snapshot: QueueSnapshot, client: SlurmClient, attempts: Attempts, now: float
) -> End | None:
    """The ending of a run's job; None while it has not ended, or that cannot be known yet.

    A job that is not in the queue at all is not settled here: see `settle_vanished`.
    """
    known = attempts.end(found.run_id, found.attempt)
    if known is not None:
        return known
    job = snapshot.jobs.get(found.job_id or "")
    if job is None or not job.state.ended:
        return None
    if job.state == JobState.COMPLETED and now - (job.end or now) < COMPLETED_GRACE:
        return None
    try:
        detail = client.detail(job.job_id)
    except UnreachableError:
        return None
    if _may_learn_who(detail, job, client, now):
        return None
    stderr = tail(attempts.stderr(found.run_id, found.attempt))
    end = conclude(detail if detail and detail.state.ended else _detail(job), now, stderr)
    attempts.record_end(found.run_id, found.attempt, end)
    return end


def settle_vanished(found: RunRecord, history: JobDetail | None, attempts: Attempts, now: float) -> End:
    """The ending of a job that has been gone from the queue for `VANISHED_GRACE` seconds.

    `history` is what accounting knows of it, if there is accounting. Without it the run may go on in a new job: should
    the old one live after all, its worker finds the new one's claim and ends.
    """
    job_id = found.job_id or "?"
    if history is not None and history.state.ended:
        end = conclude(history, now, tail(attempts.stderr(found.run_id, found.attempt)))
    else:
        message = (
            f"SLURM job {job_id} is gone from the queue and its run has not ended; what became of it is not known"
            " (there is no accounting, or it does not know the job)"
        )
        end = End(job_id, "VANISHED", message, resume=True, at=now)
    attempts.record_end(found.run_id, found.attempt, end)
    return end


def _may_learn_who(detail: JobDetail | None, job: Job, client: SlurmClient, now: float) -> bool:
    """Whether accounting is about to say who cancelled a job: slurmctld queues what it tells slurmdbd."""
    unknown = job.state == JobState.CANCELLED and (detail is None or detail.cancelled_by is None)
    return unknown and client.accounting and now - (job.end or 0.0) < ACCOUNTING_DELAY


def _detail(job: Job) -> JobDetail:
    """What the queue itself says of a job, for a controller that has just forgotten it."""
    return JobDetail(job.job_id, job.state, job.reason, nodes=job.nodes, elapsed_s=job.elapsed_s, limit_s=job.limit_s)
