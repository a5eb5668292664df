"""From a run's intent to one job in the queue: written down first, then submitted, or found to have been.

Invariant: an attempt is submitted only after its intent is on disk, and never while somebody else may be at it; when it
is not known whether a submission arrived, the queue is looked at before another is made. Dagster is not needed here.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hfassets.slurm.attempts import Attempts, Intent, job_comment
from hfassets.slurm.client import SlurmClient
from hfassets.slurm.errors import DeferredError, SlurmError
from hfassets.slurm.queue import SharedQueue, runtime_folder
from hfassets.slurm.request import JobRequest
from hfassets.slurm.resources import sbatch_options
from hfassets.slurm.script import BatchScript, render
from hfassets.slurm.secrets import read_secrets, refuse_secrets
from hfassets.slurm.settings import OFFLINE, Settings

SUBMIT_TIMEOUT = 10.0
QUIET_AFTER_TRY = 2 * SUBMIT_TIMEOUT + 5
"""Seconds after a submission began in which nobody else submits the same attempt: sbatch is over by then."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the worker of a run finds its code and its instance, and the variables that the instance's config needs."""

    home: Path
    python: str
    working_directory: Path
    needs: frozenset[str] = frozenset()


def plan_attempt(
    settings: Settings,
    attempts: Attempts,
    storage_id: str,
    run_id: str,
    attempt: int,
    request: JobRequest,
    place: Place,
    environment: Mapping[str, str],
) -> tuple[Intent, str]:
    """The intent of an attempt and its script; nothing is written.

    `environment` is that of the launching process, of which only the allowed names are taken. Raises SlurmError when a
    variable looks like a secret, or one that the instance needs is missing.
    """
    site = settings.site
    exclude = attempts.failed_nodes(run_id)
    comment = job_comment(storage_id, run_id, attempt)
    name = f"dagster-{run_id.split('-')[0]}-{attempt}"
    variables = {key: environment[key] for key in settings.exported if environment.get(key)}
    variables |= {**site.environment, "DAGSTER_HOME": str(place.home), "PYTHONUNBUFFERED": "1"}
    if not request.online:
        variables |= OFFLINE
    refuse_secrets(variables, "the environment of the job")
    known = {*variables, *(read_secrets(site.secrets_file) if site.secrets_file else ())}
    if missing := sorted(place.needs - known):
        raise SlurmError(
            f"dagster.yaml refers to {', '.join(missing)}, which the job would not have: set it and name it under"
            " `export` in the launcher's config, or, if it is a secret, put it into the secrets_file"
        )
    options = (
        f"--job-name={name}",
        f"--comment={comment}",
        *sbatch_options(request.resources),
        *([] if request.resources.requeue is False else ["--requeue"]),
        *([f"--exclude={','.join(exclude)}"] if exclude else []),
        *site.extra_args,
    )
    secrets = [f"--secrets-file={site.secrets_file}"] if site.secrets_file else []
    script = render(
        BatchScript(
            options=tuple(dict.fromkeys(options)),
            environment=variables,
            preamble=site.preamble,
            activate=site.activate,
            wrapper=site.wrapper,
            command=(
                str(site.python or place.python),
                *("-m", "hfassets.slurm.job", str(attempts.folder), run_id, str(attempt)),
                *secrets,
            ),
            working_directory=place.working_directory,
            stdout=attempts.stdout(run_id, attempt),
            stderr=attempts.stderr(run_id, attempt),
        )
    )
    intent = Intent(
        run_id, attempt, comment, name, settings.cluster, time.time(), directives=tuple(options), exclude=exclude
    )
    return intent, script


class Submitter:
    """Submits attempts whose intent is on disk, politely."""

    def __init__(self, settings: Settings, client: SlurmClient, queue: SharedQueue, attempts: Attempts) -> None:
        self._settings = settings
        self._client = client
        self._queue = queue
        self._attempts = attempts

    def submit(self, intent: Intent, storage_id: str) -> tuple[str, str | None]:
        """(job id, cluster) of the new job.

        Raises RefusedError when the cluster will never take it, DeferredError when it may later.
        """
        self._make_room(storage_id)
        script = self._attempts.script(intent.run_id, intent.attempt).read_text()
        with _turn(1 / self._settings.submissions_per_second):
            self._attempts.record_tried(intent.run_id, intent.attempt)
            job_id, cluster = self._client.submit(script, SUBMIT_TIMEOUT)
        return job_id, cluster or intent.cluster

    def may_submit(self, intent: Intent, now: float) -> bool:
        """Whether enough time has passed since somebody began to submit the attempt."""
        begun = max(intent.created_at, self._attempts.tried_at(intent.run_id, intent.attempt))
        return now - begun > QUIET_AFTER_TRY

    def _make_room(self, storage_id: str) -> None:
        most = self._settings.max_jobs
        if most is None:
            return
        ours = f"dagster:{storage_id}:"
        live = sum(
            1 for job in self._queue.snapshot().jobs.values() if job.comment.startswith(ours) and not job.state.ended
        )
        if live >= most:
            raise DeferredError(f"{live} jobs of this instance are in the queue and max_jobs is {most}")


@contextmanager
def _turn(interval_s: float) -> Iterator[None]:
    """One submission at a time on this host, `interval_s` seconds apart, over all processes and threads."""
    descriptor = os.open(runtime_folder() / "submit.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        since = time.time() - os.fstat(descriptor).st_mtime
        if os.fstat(descriptor).st_size and 0 <= since < interval_s:
            time.sleep(interval_s - since)
        os.pwrite(descriptor, b"1", 0)
        os.utime(descriptor)
    finally:
        os.close(descriptor)
    yield
