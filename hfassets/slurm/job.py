"""What a job runs on its node: one worker of one Dagster run.

    python -m hfassets.slurm.job FOLDER RUN_ID ATTEMPT [--secrets-file FILE]

Invariant: the exit code is 0 only when the run has succeeded, so that SLURM never says COMPLETED of a run that has not
ended; and at most one worker of a run works at a time, also when a node that SLURM has given up lives on. A run that
has begun is resumed, whoever restarted the job.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._cli.api import _execute_run_command_body, _resume_run_command_body
from dagster._core.events import EngineEventData
from dagster._utils.interrupts import capture_interrupts
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from hfassets.slurm.attempts import Attempts, Claim, ClaimFolder
from hfassets.slurm.errors import SlurmError
from hfassets.slurm.interruption import Terminations, hold_back_failures
from hfassets.slurm.secrets import read_secrets

EXIT_FAILED = 1
EXIT_UNFINISHED = 75
"""EX_TEMPFAIL of sysexits.h: the worker was interrupted and the run can go on in another job."""
DATABASE_PATIENCE = 120.0


class JobError(Exception):
    """The worker cannot begin; the text is one line for stderr and, where there is a database, for the run."""


def main(arguments: list[str] | None = None) -> int:
    """Work on the run until it ends or this worker is stopped; see the module's invariant for the exit code."""
    parser = argparse.ArgumentParser(prog="hfassets.slurm.job", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("run_id")
    parser.add_argument("attempt", type=int)
    parser.add_argument("--secrets-file", type=Path)
    options = parser.parse_args(arguments)
    _say(f"run {options.run_id}, attempt {options.attempt}, job {_job_id()} on {socket.gethostname()}")
    try:
        if options.secrets_file is not None:
            os.environ.update(read_secrets(options.secrets_file))
        with _instance() as instance:
            return _work(instance, Attempts(options.folder), options.run_id, options.attempt)
    except (JobError, SlurmError) as error:
        _say(f"error: {error}")
        return EXIT_FAILED


def _work(instance: DagsterInstance, attempts: Attempts, run_id: str, attempt: int) -> int:
    run = instance.get_run_by_id(run_id)
    if run is None:
        raise JobError(f"there is no run {run_id} in the database; it was deleted")
    if run.is_finished:
        _say(f"the run is already {run.status.value}")
        return _exit_code(run.status)
    if run.status == DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, "The run was cancelled before its SLURM job began.")
        return EXIT_FAILED
    with _claimed(ClaimFolder(attempts.run_folder(run_id)), attempt) as claim:
        resumes = run.status == DagsterRunStatus.STARTED
        verb = "resumes" if resumes else "works on"
        instance.report_engine_event(f"SLURM {claim} {verb} the run.", run, EngineEventData())
        _execute(instance, run, resumes=resumes)
    ended = instance.get_run_by_id(run_id)
    if ended is None:
        raise JobError(f"run {run_id} was deleted while it was worked on")
    _say(f"the run is {ended.status.value}")
    return _exit_code(ended.status)


def _execute(instance: DagsterInstance, run: DagsterRun, *, resumes: bool) -> None:
    """What `dagster api execute_run` and `resume_run` do, in this process: signals reach it directly."""
    if run.job_code_origin is None:
        raise JobError(f"run {run.run_id} does not say which code it runs")
    body = _resume_run_command_body if resumes else _execute_run_command_body
    hold_back_failures(instance, Terminations())
    with capture_interrupts():
        body(run.run_id, instance, lambda _: None, False)


def _exit_code(status: DagsterRunStatus) -> int:
    if status == DagsterRunStatus.SUCCESS:
        return 0
    return EXIT_FAILED if status in (DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED) else EXIT_UNFINISHED


@contextlib.contextmanager
def _instance() -> Iterator[DagsterInstance]:
    """The instance of DAGSTER_HOME; a database that is restarting gets two minutes."""
    if not os.environ.get("DAGSTER_HOME"):
        raise JobError("DAGSTER_HOME is not set in the job; the launcher's `environment` or `export` has to carry it")
    retrying = Retrying(
        stop=stop_after_delay(DATABASE_PATIENCE),
        wait=wait_exponential_jitter(1, 15),
        retry=retry_if_exception_type(_database_errors()),
        before_sleep=lambda state: _say(f"the database does not answer ({_reason(state.outcome)}); trying again"),
        reraise=True,
    )
    try:
        instance = retrying(DagsterInstance.get)
    except _database_errors() as error:
        raise JobError(f"Dagster's database cannot be reached from {socket.gethostname()}: {_line(error)}") from None
    with instance:
        yield instance


def _database_errors() -> tuple[type[Exception], ...]:
    from sqlalchemy.exc import OperationalError

    return (OperationalError,)


@contextlib.contextmanager
def _claimed(folder: ClaimFolder, attempt: int) -> Iterator[Claim]:
    """Hold the run's claim for the body; end this process's work when a later life of the run takes it."""
    mine = folder.make(attempt, _job_id(), int(os.environ.get("SLURM_RESTART_COUNT") or 0), socket.gethostname())
    before = folder.current()
    if before is not None and folder.alive(before):
        if not mine.supersedes(before):
            raise JobError(f"{before} works on this run already; {mine} leaves it alone")
        _say(f"{before} still works on this run; waiting until it has stopped")
    folder.enter(mine)
    while before is not None and folder.alive(before):
        time.sleep(0.5)
    if folder.current() != mine:
        raise JobError(f"{folder.current()} took the run over")
    stop = threading.Event()
    guard = threading.Thread(target=_guard, args=(folder, mine, stop), daemon=True)
    guard.start()
    try:
        yield mine
    finally:
        stop.set()
        guard.join()
        folder.release(mine)


def _guard(folder: ClaimFolder, mine: Claim, stop: threading.Event) -> None:
    while not stop.wait(folder.BEAT_EVERY):
        try:
            folder.beat(mine)
            holder = folder.current()
        except OSError as error:
            _say(f"the job's folder cannot be reached: {error.strerror}")
            continue
        if holder is not None and holder != mine:
            _say(f"{holder} took the run over; stopping")
            os.kill(os.getpid(), signal.SIGTERM)
            return


def _job_id() -> str:
    return os.environ.get("SLURM_JOB_ID", "?")


def _reason(outcome: object) -> str:
    error = getattr(outcome, "exception", lambda: None)()
    return _line(error) if error else "no reason"


def _line(error: BaseException) -> str:
    """The first line of an error. A database URL with its password is never part of a driver's message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _say(text: str) -> None:
    print(f"hfassets.slurm: {text}", file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
