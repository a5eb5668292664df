"""Any command as a job: the site's preamble, environment and resources, without Dagster.

Invariant: a command's job is as clean as a run's: only allowed variables, no secret in its script, the exit code of the
command its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hfassets.slurm.attempts import tail
from hfassets.slurm.client import Job, SlurmClient
from hfassets.slurm.errors import SlurmError
from hfassets.slurm.resources import Resources, override, sbatch_options
from hfassets.slurm.script import BatchScript, render
from hfassets.slurm.secrets import refuse_secrets
from hfassets.slurm.settings import Settings
from hfassets.slurm.states import JobDetail, explain

COMMENT = "hfassets:command"
POLL_EVERY = 2.0


def command_script(
    settings: Settings,
    request: Resources,
    command: Sequence[str],
    *,
    name: str,
    working_directory: Path,
    logs: Path,
    environment: Mapping[str, str],
    variables: Mapping[str, str] | None = None,
    python: str | None = None,
    comment: str | None = None,
    more: Sequence[str] = (),
    ignored: Sequence[str] = (),
) -> str:
    """The batch script of a command. `more`: further words for sbatch; `ignored`: signals that do not end it.

    `environment` is that of the caller, of which only the allowed names are taken; `variables` are set as well.
    With `python`, an interpreter that has this package, the command gets what is in the site's secrets file. Raises
    SlurmError when a variable or a word of the command looks like a secret.
    """
    site = settings.site
    taken = {key: environment[key] for key in settings.exported if environment.get(key)}
    taken |= {**site.environment, **(variables or {})}
    refuse_secrets({**taken, **dict(_named_words(command))}, "the job")
    return render(
        BatchScript(
            options=(
                f"--job-name={name}",
                f"--comment={comment or f'{COMMENT}:{name}'}",
                *sbatch_options(override(site.resources, request)),
                *more,
                *site.extra_args,
            ),
            environment=taken,
            preamble=site.preamble,
            activate=site.activate,
            wrapper=site.wrapper,
            command=(*_with_secrets(settings, python), *command),
            working_directory=working_directory,
            stdout=logs,
            stderr=logs,
            ignored=tuple(ignored),
        )
    )


def _with_secrets(settings: Settings, python: str | None) -> tuple[str, ...]:
    file = settings.site.secrets_file
    if python is None or file is None:
        return ()
    return (str(settings.site.python or python), "-m", "hfassets.slurm.run_command", str(file))


def _named_words(command: Sequence[str]) -> list[tuple[str, str]]:
    """Words of a command under names for error messages: an option's value under the option's name."""
    named = []
    for number, word in enumerate(command):
        before = command[number - 1] if number else ""
        option, equals, value = word.partition("=")
        if word.startswith("--") and equals:
            named.append((option.lstrip("-").replace("-", "_"), value))
        elif before.startswith("--") and "=" not in before:
            named.append((before.lstrip("-").replace("-", "_"), word))
        else:
            named.append((f"word {number + 1}", word))
    return named


def wait_for_job(
    client: SlurmClient, job_id: str, say: Callable[[str], None], deadline: float | None = None
) -> JobDetail | None:
    """How the job ended; `say` gets a line when its state changes. None when `deadline` (monotonic s) came first.

    A controller that does not answer is waited for. Raises SlurmError when the cluster has forgotten the job.
    """
    said = ""
    while True:
        try:
            detail = client.detail(job_id)
        except SlurmError as error:
            line = f"job {job_id}: {error}; asking again"
        else:
            if detail is None:
                raise SlurmError(f"job {job_id} is not known to SLURM any more, nor how it ended")
            if detail.state.ended:
                return detail
            line = f"job {job_id}: {_words(detail)}"
        if line != said:
            say(line)
            said = line
        if deadline is not None and time.monotonic() >= deadline:
            return None
        time.sleep(POLL_EVERY)


def ending(detail: JobDetail, logs: Path) -> str:
    """How a job ended, in words."""
    return f"job {detail.job_id}: {explain(detail, tail(logs))}"


def own_jobs(jobs: Sequence[Job]) -> list[Job]:
    """Those of a user's jobs that this project submitted: runs of any Dagster instance, and commands."""
    return [job for job in jobs if job.comment.startswith(("dagster:", f"{COMMENT}:"))]


def _words(detail: JobDetail) -> str:
    where = f" on {detail.nodes}" if detail.nodes else ""
    why = f" ({detail.reason})" if detail.state.pending and detail.reason else ""
    return f"{detail.state.value}{where}{why}"
