"""What is written down of a job array of parts: before it is submitted, and what became of its parts.

Invariant: a record is on disk before the array can exist, and names it by a comment that no other job has; so whoever
comes after a killed coordinator finds the array, whatever moment it was.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import orjson

from hfassets.errors import IntegrityError
from hfassets.storage.atomic import write_atomic

FOLDER = ".array"
"""Beside a stored plan."""


@dataclass(frozen=True, slots=True)
class ArrayRecord:
    """An array. `plan`, `fingerprint`: what it makes parts of; `tasks`: the indexes of each task's parts; `processes`:
    parts at once in a task, 0 = as many as its node gives it CPUs; `retry`: whether its parts failed before. `created`:
    Unix seconds; `job` None = not known.
    """

    plan: str
    fingerprint: str
    comment: str
    tasks: tuple[tuple[int, ...], ...]
    processes: int
    retry: bool
    created: float
    job: str | None = None
    cluster: str | None = None

    @property
    def indexes(self) -> frozenset[int]:
        """All its parts."""
        return frozenset(index for task in self.tasks for index in task)

    def submitted(self, job: str, cluster: str | None) -> ArrayRecord:
        """The same, in the queue."""
        return replace(self, job=job, cluster=cluster)


@dataclass(frozen=True, slots=True)
class Told:
    """What a task said of a part: how it ended, or that there was no time for it (`left`: not begun, or abandoned)."""

    index: int
    node: str
    made: bool = False
    error: str | None = None
    trace: str | None = None
    left: Literal["", "not begun", "abandoned"] = ""


def records(folder: Path) -> dict[Path, ArrayRecord]:
    """All records of a plan's folder, oldest first."""
    return {path: read_record(path) for path in sorted((folder / FOLDER).glob("*.json"))}


def next_record(folder: Path) -> Path:
    """Where the next one goes: a name that none has had before, so that no task's words are taken for another's."""
    return folder / FOLDER / f"{time.time_ns()}.json"


def write_record(path: Path, record: ArrayRecord) -> None:
    """Write atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, orjson.dumps(asdict(record)) + b"\n")


def read_record(path: Path) -> ArrayRecord:
    """Raises IntegrityError for what is none."""
    try:
        document = orjson.loads(path.read_bytes())
        tasks = tuple(tuple(task) for task in document["tasks"])
        return ArrayRecord(**{**document, "tasks": tasks})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path}: not a record of a job array ({type(error).__name__}: {error})") from None


def outcomes_file(record: Path, task: int) -> Path:
    """Where a task writes what became of its parts."""
    return record.with_name(f"{record.stem}-{task}.outcomes")


def forget(record: Path) -> None:
    """Remove a record, and what its tasks said of their parts; their log stays to be read."""
    record.unlink(missing_ok=True)
    for file in record.parent.glob(f"{record.stem}-*.outcomes"):
        file.unlink(missing_ok=True)


class Outcomes:
    """What the tasks of an array have said, read from where reading stopped."""

    def __init__(self, path: Path, record: ArrayRecord) -> None:
        self._files = [outcomes_file(path, task) for task in range(len(record.tasks))]
        self._places = [0] * len(self._files)

    def fresh(self) -> Iterator[Told]:
        """What was said since the last time; a line that is not whole yet waits."""
        for number, file in enumerate(self._files):
            try:
                size = file.stat().st_size
            except FileNotFoundError:
                continue
            if size == self._places[number]:
                continue
            with file.open("rb") as lines:
                lines.seek(self._places[number])
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    self._places[number] += len(line)
                    yield Told(**orjson.loads(line))
