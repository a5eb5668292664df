"""How domain code tells its caller where it is.

A callback goes down, frozen values come back up: `cli/` turns them into bars or log lines, `defs/` into the run's log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """One moment of a task. `done` and `total` count `unit` ("B" is bytes); `total` None = not known yet."""

    task: str
    done: int
    total: int | None
    unit: str


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth one line: a wait and its reason, a notice, a file refetched."""

    text: str
    level: str = "info"  # info | warning


ProgressCallback = Callable[[Progress | Note], None]


def silent(event: Progress | Note) -> None:
    """The callback for callers who do not want to hear."""
