"""Uploads on threads of their own, a few at a time, while the next part is written.

Invariant: no more than `AT_ONCE` finished parts wait on disk for their upload; the first failure is raised by the next
call, and whoever leaves the body has waited for all that were begun.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self

AT_ONCE = 2


class Uploads:
    """Runs one task a part; use as a context manager."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="upload")
        self._running: set[Future[None]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After a failure the uploads under way are waited for as well: what arrives need not be sent again.
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            self.finish()

    def submit(self, task: Callable[[], None]) -> None:
        """Begin a task when there is room; raises what an earlier one raised."""
        while len(self._running) >= AT_ONCE:
            done, self._running = wait(self._running, return_when=FIRST_COMPLETED)
            _raise_first(done)
        self._running.add(self._pool.submit(task))

    def finish(self) -> None:
        """Wait for all; raises what the first of them raised."""
        done, self._running = wait(self._running)
        _raise_first(done)


def _raise_first(done: set[Future[None]]) -> None:
    for future in done:
        future.result()
