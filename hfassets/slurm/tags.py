"""What a run's tags say about its job. Pure.

Invariant: `.slurm/run` is the state of the run it names, and nothing for any other: a re-execution copies its parent's
tags. `slurm-status/*` is for people, is written only on change, and no decision rests on it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import orjson

RUN_TAG = ".slurm/run"
EXPECTS_TAG = ".slurm/expects"
STATUS_PREFIX = "slurm-status/"
MAX_TEXT = 200


class TaggedRun(Protocol):
    """A run, as far as its tags go (dagster.DagsterRun is one)."""

    @property
    def run_id(self) -> str:
        """The run's id."""
        ...

    @property
    def tags(self) -> Mapping[str, str]:
        """The run's tags."""
        ...


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The newest attempt of a run that is a SLURM job. `job_id`: None until its submission is known to have worked."""

    run_id: str
    job_id: str | None
    cluster: str | None
    attempt: int

    def as_tag(self) -> dict[str, str]:
        """The tag that keeps it."""
        document = {
            "run_id": self.run_id,
            "job_id": self.job_id,
            "cluster": self.cluster,
            "attempt": self.attempt,
            "route": "slurm",
        }
        return {RUN_TAG: orjson.dumps(document).decode()}


def record(run: TaggedRun) -> RunRecord | None:
    """The run's own record; None when it is no SLURM run (or has only a copied tag, or one that somebody broke)."""
    document = _document(run)
    if document is None or document.get("route") != "slurm":
        return None
    job_id, cluster, attempt = (document.get(name) for name in ("job_id", "cluster", "attempt"))
    if not isinstance(attempt, int):
        return None
    return RunRecord(run.run_id, str(job_id) if job_id else None, str(cluster) if cluster else None, attempt)


def is_local(run: TaggedRun) -> bool:
    """Whether the run was handed to Dagster's own launcher."""
    document = _document(run)
    return document is not None and document.get("route") == "local"


def local(run: TaggedRun) -> dict[str, str]:
    """The tags of a run that is no job; what it copied from a parent that was one is taken back."""
    copied = {name: "-" for name in run.tags if name.startswith(STATUS_PREFIX)}
    return {**copied, RUN_TAG: orjson.dumps({"run_id": run.run_id, "route": "local"}).decode()}


def expectation(run: TaggedRun, text: str) -> dict[str, str]:
    """The tag that keeps what the definitions said of themselves when the run was launched."""
    return {EXPECTS_TAG: orjson.dumps({"run_id": run.run_id, "expects": text}).decode()}


def expected(run: TaggedRun) -> str | None:
    """What was kept for this run; None when nothing was, or only a parent's was copied."""
    document = _parsed(run, EXPECTS_TAG)
    return None if document is None else str(document.get("expects"))


def status(
    *,
    state: str,
    job: str = "-",
    reason: str = "-",
    start: float | None = None,
    node: str = "-",
    attempt: int | None = None,
) -> dict[str, str]:
    """What people read beside the run. `start` (Unix s): begun, or when SLURM expects to begin."""
    values = {
        "state": state,
        "job": job,
        "reason": reason,
        "start": "-" if start is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(start)),
        "node": node,
    }
    if attempt is not None:
        values["attempt"] = str(attempt)
    return {STATUS_PREFIX + name: value[:MAX_TEXT] or "-" for name, value in values.items()}


def changed(run: TaggedRun, wanted: Mapping[str, str]) -> dict[str, str]:
    """Those of the wanted tags that the run does not have yet: tag writes are slow (about 190 a second on SQLite)."""
    return {name: value for name, value in wanted.items() if run.tags.get(name) != value}


def _document(run: TaggedRun) -> dict[str, object] | None:
    return _parsed(run, RUN_TAG)


def _parsed(run: TaggedRun, tag: str) -> dict[str, object] | None:
    try:
        document = orjson.loads(run.tags.get(tag, ""))
    except ValueError:
        return None
    return document if isinstance(document, dict) and document.get("run_id") == run.run_id else None
