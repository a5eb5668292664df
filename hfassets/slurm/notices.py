"""Notices of failed runs, where people look: a file (one JSON object a line) and a webhook.

Invariant: a notice that cannot be delivered is an error, so that its sensor's tick fails and the notice is tried again;
what is sent carries no config and no secret, only what the run page shows.
"""

from __future__ import annotations

import fcntl
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from hfassets.slurm.errors import SlurmError

TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Notice:
    """One run that failed. `at` is ISO 8601 in UTC; `assets` and `partition` as far as the run has them."""

    run_id: str
    job: str
    status: str
    message: str
    assets: tuple[str, ...]
    partition: str | None
    slurm_job: str | None
    at: str

    @property
    def line(self) -> str:
        """For people: one line."""
        what = ", ".join(self.assets) or self.job
        where = f" [{self.partition}]" if self.partition else ""
        slurm = f" (SLURM job {self.slurm_job})" if self.slurm_job else ""
        first = (self.message.splitlines() or [""])[0]
        return f"{what}{where} failed in run {self.run_id.split('-')[0]}{slurm}: {first}"


def write_notice(notice: Notice, file: Path) -> None:
    """Append to a file that several processes may write. Raises SlurmError when it cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.write(orjson.dumps({**asdict(notice), "text": notice.line}) + b"\n")
    except OSError as error:
        raise SlurmError(f"the notice file {file} cannot be written: {error.strerror}") from None


def post_notice(notice: Notice, url: str) -> None:
    """POST as JSON with a `text` field, which Slack, Mattermost and the like show. Raises SlurmError when refused."""
    import requests

    try:
        answer = requests.post(url, json={**asdict(notice), "text": notice.line}, timeout=TIMEOUT)
    except requests.RequestException as error:
        # The address itself may be the secret: it is not part of the message.
        raise SlurmError(f"the webhook for notices does not answer: {type(error).__name__}") from None
    if not answer.ok:
        raise SlurmError(f"the webhook for notices answered {answer.status_code} {answer.reason}")
