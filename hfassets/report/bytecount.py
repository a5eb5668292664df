"""Bytes counted by many threads, told to a progress callback a few times a second."""

from __future__ import annotations

import threading
import time

from hfassets.progress import Progress, ProgressCallback

_EVERY_S = 0.2


class ByteCount:
    """A shared count of one task; calling it adds bytes (negative ones take back)."""

    def __init__(self, task: str, total: int, progress: ProgressCallback) -> None:
        self.done = 0
        self._task = task
        self._total = total
        self._progress = progress
        self._lock = threading.Lock()
        self._told = 0.0

    def __call__(self, size: int) -> None:
        """Add bytes."""
        with self._lock:
            self.done += size
            now = time.monotonic()
            if now - self._told < _EVERY_S:
                return
            self._told = now
        self._tell()

    def finish(self) -> None:
        """Tell the final count."""
        self._tell()

    def _tell(self) -> None:
        self._progress(Progress(self._task, self.done, self._total, "B"))
