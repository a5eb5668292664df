"""Makes Dagster's runs and SLURM's jobs agree again, tick by tick. Dagster's by nature.

Invariant: nothing is concluded from silence. Without an answer of the controller a tick changes nothing; a job is gone
only after a time of absence; a run is deleted only when missing in two ticks; and a run is read again right before it
is failed. Every action is safe to repeat, so that a tick may die anywhere.

Who owns what: this fails runs (a job that died before its worker started, or ended in a way that forbids to go on),
ends cancelled ones, submits or adopts what was intended, cancels jobs without a run, and keeps `slurm-status/*` true.
Resuming is the launcher's, through its health answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

import orjson
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster import RunRecord as RunRecordOfDagster

from hfassets.slurm import tags
from hfassets.slurm.attempts import End, Intent, parse_comment
from hfassets.slurm.client import Job
from hfassets.slurm.diagnosis import debug_text
from hfassets.slurm.endings import VANISHED_GRACE, settle, settle_vanished
from hfassets.slurm.errors import RefusedError, SlurmError, UnreachableError
from hfassets.slurm.launcher import SlurmRunLauncher
from hfassets.slurm.queue import QueueSnapshot
from hfassets.slurm.states import JobDetail, JobState
from hfassets.slurm.tags import RunRecord

ACTIVE = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
TICK_LIMIT = 40.0
LOCAL_START_LIMIT = 180.0
CANCEL_GRACE = 30.0
# Ended runs are looked at again for so long: their worker exits a little later. A new instance's first tick looks back.
CLOSE_AGAIN = 180.0
FIRST_LOOK_BACK = 86_400.0
MAX_CLOSED = 2000
# A worker has this long after its run's end to write its logs and exit.
EXIT_GRACE = {DagsterRunStatus.CANCELED: 0.0, DagsterRunStatus.FAILURE: 30.0, DagsterRunStatus.SUCCESS: 120.0}


@dataclass
class Memory:
    """What one tick leaves to the next. Times are Unix seconds.

    `absent`: since when a run's job is missing from the queue; `canceling`: since when a run is being cancelled;
    `orphans`: jobs that had no run; `looked`: when all runs were last looked at; `due`: when the next tick is to be.
    """

    absent: dict[str, float] = field(default_factory=dict)
    canceling: dict[str, float] = field(default_factory=dict)
    orphans: list[str] = field(default_factory=list)
    looked: float = 0.0
    due: float = 0.0

    @classmethod
    def load(cls, cursor: str | None) -> Memory:
        """From a sensor's cursor; a damaged one is an empty one."""
        try:
            document = orjson.loads(cursor or "{}")
            return cls(
                absent={str(run): float(at) for run, at in document.get("absent", {}).items()},
                canceling={str(run): float(at) for run, at in document.get("canceling", {}).items()},
                orphans=[str(job) for job in document.get("orphans", [])],
                looked=float(document.get("looked", 0.0)),
                due=float(document.get("due", 0.0)),
            )
        except (ValueError, AttributeError, TypeError):
            return cls()

    def dump(self) -> str:
        """As a cursor."""
        return orjson.dumps(asdict(self)).decode()


@dataclass
class Report:
    """What a tick did, for its page: counts of the live jobs, and one line an action."""

    running: int = 0
    pending: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    actions: list[str] = field(default_factory=list)
    unreachable: str | None = None

    def __str__(self) -> str:
        if self.unreachable is not None:
            return f"nothing concluded: {self.unreachable}"
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.reasons.items()))
        waiting = f"{self.pending} pending ({reasons})" if reasons else f"{self.pending} pending"
        return "; ".join([f"{self.running} running, {waiting}", *self.actions])


class Reconciler:
    """One tick at a time over all active runs of an instance whose launcher is a SlurmRunLauncher."""

    def __init__(self, instance: DagsterInstance, launcher: SlurmRunLauncher, memory: Memory) -> None:
        self._instance = instance
        self._launcher = launcher
        self._attempts = launcher.attempts
        self._memory = memory
        self._report = Report()
        self._may_submit = True

    def tick(self) -> Report:
        """Look at every active run and every job of ours once, for at most `TICK_LIMIT` seconds."""
        deadline = time.monotonic() + TICK_LIMIT
        # The runs first: a job submitted after they were read has no run here, and is looked up before it is an orphan.
        runs = self._instance.get_runs(filters=RunsFilter(statuses=ACTIVE))
        snapshot = self._launcher.queue.snapshot()
        if snapshot.error is not None:
            self._report.unreachable = snapshot.error
            return self._report
        vanished: list[tuple[DagsterRun, RunRecord]] = []
        for run in runs:
            if time.monotonic() > deadline:
                self._report.actions.append("the rest in the next tick")
                return self._report
            self._guarded(run, lambda run: vanished.extend(self._reconcile(run, snapshot)))
        self._settle_vanished(vanished)
        self._orphans({run.run_id: run for run in runs}, snapshot)
        self._close(snapshot)
        live = {run.run_id for run in runs}
        for times in (self._memory.absent, self._memory.canceling):
            for run_id in set(times) - live:
                del times[run_id]
        return self._report

    def _guarded(self, run: DagsterRun, work: Callable[[DagsterRun], None]) -> None:
        """One run's trouble is said and does not keep the others waiting."""
        try:
            work(run)
        except UnreachableError as error:
            self._report.actions.append(f"run {_short(run.run_id)}: {error}")
        except SlurmError as error:
            self._report.actions.append(f"run {_short(run.run_id)}: {error}")
            self._fail(run, str(error))

    def _reconcile(self, run: DagsterRun, snapshot: QueueSnapshot) -> Sequence[tuple[DagsterRun, RunRecord]]:
        found = tags.record(run)
        if found is None:
            intent = None if tags.is_local(run) else self._attempts.latest(run.run_id)
            if intent is None:
                self._local(run)
                return []
            # The launcher died after it wrote the intent down and before it told the run.
            found = RunRecord(run.run_id, None, intent.cluster, intent.attempt)
        if found.job_id is None:
            found = self._find_or_submit(run, found, snapshot) or found
        if found.job_id is None:
            return []
        job = snapshot.jobs.get(found.job_id)
        if job is not None:
            self._memory.absent.pop(run.run_id, None)
            self._with_job(run, found, job, snapshot)
            return []
        return self._absent(run, found, snapshot)

    def _find_or_submit(self, run: DagsterRun, found: RunRecord, snapshot: QueueSnapshot) -> RunRecord | None:
        intent = self._attempts.intent(run.run_id, found.attempt)
        if intent is None:
            self._fail(run, "The record of what was to be submitted is gone; launch the run again.")
            return None
        job = self._job_of(intent, snapshot)
        if job is None and self._launcher.submitter.may_submit(intent, time.time()):
            # Only a queue that was asked after the last submission had ended can say that there is no job.
            fresh = self._launcher.queue.snapshot(max_age_s=0)
            if fresh.error is not None:
                return None
            job = self._job_of(intent, fresh)
            if job is None:
                self._submit(run, intent)
                return None
        if job is None:
            return None
        self._launcher.record_job(
            run, intent, job.job_id, job.cluster or intent.cluster, f"Adopted SLURM job {job.job_id}: it was submitted"
            " and nobody had lived to say so.",
        )  # fmt: skip
        self._report.actions.append(f"adopted job {job.job_id} for run {_short(run.run_id)}")
        return RunRecord(run.run_id, job.job_id, job.cluster or intent.cluster, intent.attempt)

    def _job_of(self, intent: Intent, snapshot: QueueSnapshot) -> Job | None:
        """The job with the attempt's comment; of several (an answer of sbatch was lost), the first that lives."""
        jobs = sorted(snapshot.by_comment.get(intent.comment, ()), key=lambda job: (job.state.ended, int(job.job_id)))
        return jobs[0] if jobs else None

    def _submit(self, run: DagsterRun, intent: Intent) -> None:
        if run.status == DagsterRunStatus.CANCELING:
            self._cancelled(run, "Cancelled before its SLURM job was submitted.")
            return
        if not self._may_submit or self._fresh(run) is None:
            return
        try:
            job_id = self._launcher.submit_attempt(run, intent)
        except RefusedError as error:
            self._fail(run, f"SLURM refused the run's job: {error}")
            return
        # A cluster that defers one submission would defer the others too.
        self._may_submit = job_id is not None
        if job_id is not None:
            self._report.actions.append(f"submitted job {job_id} for run {_short(run.run_id)}")

    def _with_job(self, run: DagsterRun, found: RunRecord, job: Job, snapshot: QueueSnapshot) -> None:
        if job.state.ended:
            end = settle(found, snapshot, self._launcher.client, self._attempts, time.time())
            self._tag(run, found, job)
            if end is not None:
                self._ended(run, found, end)
            return
        if job.state.pending:
            self._report.pending += 1
            self._report.reasons[job.reason or "no reason given"] = (
                self._report.reasons.get(job.reason or "no reason given", 0) + 1
            )
        else:
            self._report.running += 1
        if run.status == DagsterRunStatus.CANCELING:
            self._cancel_at_last(run, job)
        self._say_requeue(run, job)
        self._tag(run, found, job)

    def _ended(self, run: DagsterRun, found: RunRecord, end: End) -> None:
        if run.status == DagsterRunStatus.CANCELING:
            self._cancelled(run, end.message)
        elif run.status == DagsterRunStatus.STARTING:
            self._fail(run, f"{end.message}, before its worker had started", found)
        elif not end.resume:
            self._fail(run, end.message, found)

    def _absent(
        self, run: DagsterRun, found: RunRecord, snapshot: QueueSnapshot
    ) -> Sequence[tuple[DagsterRun, RunRecord]]:
        end = self._attempts.end(found.run_id, found.attempt)
        if end is not None:
            self._ended(run, found, end)
            return []
        since = self._memory.absent.setdefault(run.run_id, snapshot.taken_at)
        return [(run, found)] if snapshot.taken_at - since > VANISHED_GRACE else []

    def _settle_vanished(self, vanished: Sequence[tuple[DagsterRun, RunRecord]]) -> None:
        """What became of jobs that are long gone from the queue; accounting is asked, where there is any."""
        if not vanished:
            return
        history: Mapping[str, JobDetail] = {}
        if self._launcher.client.accounting:
            history = self._launcher.client.history([found.job_id for _, found in vanished if found.job_id])
        for run, found in vanished:
            known = history.get(found.job_id or "")
            end = settle_vanished(found, known, self._attempts, time.time())
            self._guarded(run, lambda run, found=found, end=end: self._ended(run, found, end))  # type: ignore[misc]

    def _local(self, run: DagsterRun) -> None:
        """A run of Dagster's own launcher that does not get to its start: its server died while it started it."""
        if run.status != DagsterRunStatus.STARTING:
            return
        launched = self._instance.get_run_stats(run.run_id).launch_time
        if launched is not None and time.time() - launched > LOCAL_START_LIMIT:
            self._fail(run, f"The run did not start within {LOCAL_START_LIMIT:.0f} s of its launch; its code server"
                            " may have ended. Launch it again.")  # fmt: skip

    def _cancel_at_last(self, run: DagsterRun, job: Job) -> None:
        """`terminate` signals and cancels; should it have died or been refused, this does it."""
        since = self._memory.canceling.setdefault(run.run_id, time.time())
        if job.state.pending or time.time() - since > CANCEL_GRACE:
            self._launcher.client.cancel([job.job_id])
            self._report.actions.append(f"cancelled job {job.job_id}: its run is being cancelled")

    def _say_requeue(self, run: DagsterRun, job: Job) -> None:
        """The run page says when SLURM put a running job back into the queue, and which node it was on."""
        if run.tags.get(f"{tags.STATUS_PREFIX}state") != JobState.RUNNING.value or not job.state.pending:
            return
        node = run.tags.get(f"{tags.STATUS_PREFIX}node", "-")
        state = self._launcher.client.node_states().get(node, "")
        lost = any(word in state.upper() for word in ("DOWN", "FAIL", "NOT_RESPONDING", "DRAIN"))
        why = f": node {node} is {state}" if lost else ""
        if lost:
            why += self._keep_off(job, node)
        self._instance.report_engine_event(
            f"SLURM requeued job {job.job_id}, which ran on {node}{why}. It waits ({job.reason}) and will resume the"
            " run.",
            run,
        )
        self._report.actions.append(f"job {job.job_id} was requeued{why}")

    def _keep_off(self, job: Job, node: str) -> str:
        try:
            self._launcher.client.requeue_without(job.job_id, [node])
        except SlurmError as error:
            return f" (it may go there again: {error})"
        return " and is left out from now on"

    def _tag(self, run: DagsterRun, found: RunRecord, job: Job) -> None:
        wanted = tags.status(
            state=job.state.value,
            job=job.job_id,
            reason=job.reason if job.state.pending or job.state.ended else "-",
            start=job.start,
            node=job.nodes or "-",
            attempt=found.attempt,
        )
        self._write_tags(run, wanted)

    def _write_tags(self, run: DagsterRun, wanted: Mapping[str, str]) -> None:
        new = tags.changed(run, wanted)
        if new:
            self._instance.add_run_tags(run.run_id, new)

    def _orphans(self, runs: Mapping[str, DagsterRun], snapshot: QueueSnapshot) -> None:
        """Cancel jobs whose run has ended, is gone, or goes on in another job."""
        ours = [
            (job, *parsed)
            for job in snapshot.jobs.values()
            if not job.state.ended and (parsed := parse_comment(job.comment, self._launcher.storage_id))
        ]
        superseded = [
            job for job, run_id, attempt in ours if run_id in runs and _superseded(runs[run_id], attempt, job)
        ]
        others = {job.job_id: run_id for job, run_id, _ in ours if run_id not in runs}
        records = self._records(sorted(set(others.values())))
        # Of a run that the database does not know, the second sight counts: reads may lag behind writes.
        deleted = [job_id for job_id, run_id in others.items() if run_id not in records]
        over = [job_id for job_id, run_id in others.items() if run_id in records and _is_over(records[run_id])]
        cancel = [*over, *(job.job_id for job in superseded), *(id_ for id_ in deleted if id_ in self._memory.orphans)]
        self._memory.orphans = deleted
        if cancel:
            self._launcher.client.cancel(cancel)
            self._report.actions.append(f"cancelled {len(cancel)} jobs without a run: {', '.join(cancel[:10])}")

    def _close(self, snapshot: QueueSnapshot) -> None:
        """Runs that have ended since the last tick say how their job ended, and no longer what it waited for."""
        since = (self._memory.looked or snapshot.taken_at - FIRST_LOOK_BACK) - CLOSE_AGAIN
        ended = RunsFilter(statuses=list(EXIT_GRACE), updated_after=datetime.fromtimestamp(since, tz=UTC))
        for run in self._instance.get_runs(filters=ended, limit=MAX_CLOSED):
            found = tags.record(run)
            if found is None:
                continue
            if found.job_id is None and (intent := self._attempts.intent(run.run_id, found.attempt)) is not None:
                # The launcher died before it told the run, and the worker was faster than this.
                adopted = self._job_of(intent, snapshot)
                found = replace(found, job_id=adopted.job_id) if adopted else found
                self._write_tags(run, found.as_tag())
            job = snapshot.jobs.get(found.job_id or "")
            if job is not None:
                self._tag(run, found, job)
                self._say_why(run, found, job, snapshot)
            elif not JobState.ends(run.tags.get(f"{tags.STATUS_PREFIX}state")):
                self._write_tags(run, tags.status(state="GONE", job=found.job_id or "-", attempt=found.attempt))
        self._memory.looked = snapshot.taken_at

    def _say_why(self, run: DagsterRun, found: RunRecord, job: Job, snapshot: QueueSnapshot) -> None:
        """A worker that outlived its step (the kernel killed only that) could not say why the step died: SLURM can."""
        telling = job.state.ended and job.state not in (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED)
        if run.status != DagsterRunStatus.FAILURE or not telling or self._attempts.end(run.run_id, found.attempt):
            return
        end = settle(found, snapshot, self._launcher.client, self._attempts, time.time())
        if end is not None:
            self._instance.report_engine_event(end.message, run)

    def _records(self, run_ids: Sequence[str]) -> dict[str, RunRecordOfDagster]:
        found: dict[str, RunRecordOfDagster] = {}
        for start in range(0, len(run_ids), 200):
            filters = RunsFilter(run_ids=list(run_ids[start : start + 200]))
            found |= {item.dagster_run.run_id: item for item in self._instance.get_run_records(filters=filters)}
        return found

    def _fresh(self, run: DagsterRun) -> DagsterRun | None:
        """The run as it is now, if it is still where this tick saw it."""
        now = self._instance.get_run_by_id(run.run_id)
        return now if now is not None and now.status == run.status else None

    def _fail(self, run: DagsterRun, message: str, found: RunRecord | None = None) -> None:
        fresh = self._fresh(run)
        if fresh is None:
            return
        if found is not None:
            message = f"{message}\n{debug_text(found, self._launcher.client, self._attempts, said=message)}"
        self._instance.report_run_failed(fresh, message)
        self._report.actions.append(f"failed run {_short(run.run_id)}: {message.splitlines()[0]}")

    def _cancelled(self, run: DagsterRun, message: str) -> None:
        fresh = self._fresh(run)
        if fresh is not None:
            self._instance.report_run_canceled(fresh, message)
            self._report.actions.append(f"run {_short(run.run_id)} is cancelled")


def _short(run_id: str) -> str:
    return run_id.split("-")[0]


def _superseded(run: DagsterRun, attempt: int, job: Job) -> bool:
    """Whether an active run goes on in another job: a later attempt, or the one of two that was recorded."""
    found = tags.record(run)
    if found is None or found.attempt < attempt:
        return False
    return found.attempt > attempt or found.job_id not in (None, job.job_id)


def _is_over(record: RunRecordOfDagster) -> bool:
    grace = EXIT_GRACE.get(record.dagster_run.status)
    return grace is not None and time.time() - (record.end_time or 0.0) >= grace
