"""How much time a task has left, and which parts fit into it.

Invariant: a task begins as many parts as it has processes whatever the clock says, so that each of its lives gets on;
from then on none that would not be over, as far as earlier ones tell, before the time limit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

MARGIN = 5.0
"""Seconds before the limit at which parts are abandoned: their processes end, and what is known is written down."""
_ROOM = 1.2
"""Parts are not alike: this many times the longest one has to fit."""


class JobClock:
    """That of a job which ends at `end` (Unix seconds; None = nobody knows). `ask`: its end as SLURM has it now."""

    def __init__(
        self,
        end: float | None,
        processes: int,
        ask: Callable[[], float | None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._end = end
        self._processes = processes
        self._ask = ask
        self._now = now
        self._lock = threading.Lock()
        self._under_way: dict[int, float] = {}
        self._begun = 0
        self._longest = 0.0
        self._told = False
        self._stopped = False

    def learn(self) -> None:
        """Ask for the end, unless it is known."""
        if self._end is None:
            self._end = self._ask()

    def warn(self) -> None:
        """SLURM says that time is short. What it calls short may be much; where nobody knows, nothing more is begun."""
        end = self._ask()
        with self._lock:
            self._told = True
            self._end = end if end is not None else self._end

    def stop(self) -> None:
        """Time is over."""
        self._stopped = True

    def begins(self, index: int) -> bool:
        """See Clock of the pool."""
        with self._lock:
            if self._stopped or (self._begun >= self._processes and not self._fits()):
                return False
            self._begun += 1
            self._under_way[index] = self._now()
            return True

    def ended(self, index: int) -> None:
        """See Clock of the pool."""
        with self._lock:
            self._longest = max(self._longest, self._now() - self._under_way.pop(index))

    def over(self) -> bool:
        """See Clock of the pool."""
        return self._stopped or (self._end is not None and self._now() > self._end - MARGIN)

    @property
    def abandoned(self) -> list[int]:
        """The parts that were begun and are not over."""
        with self._lock:
            return sorted(self._under_way)

    def _fits(self) -> bool:
        if self._end is None:
            return not self._told
        return self._now() + self._longest * _ROOM < self._end - MARGIN
