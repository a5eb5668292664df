"""Long files written at a steady speed: to disk as they grow, and not kept in memory.

Invariant: only hints are given, so what is in the file never depends on them.
"""

from __future__ import annotations

import os

_WINDOW = 8 << 20
_KEPT = 3 * _WINDOW
"""Behind the newest window, whose pages are still on their way to disk."""


class WriteBehind:
    """Hears how long a growing file is, and keeps a few windows of 8 MiB of it in the page cache.

    Linux begins to write pages for which it hears POSIX_FADV_DONTNEED, without waiting, and drops those that are
    written already (mm/fadvise.c). So the fsync at the end has little to wait for, and the next pages are the ones just
    dropped: a virtual machine has to ask its host for each page that it never used, which took seven times as long as
    writing it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._told = 0

    def grown(self, size: int) -> None:
        """The file has `size` bytes now."""
        if size - self._told >= _WINDOW:
            os.posix_fadvise(self._descriptor, self._told, size - self._told, os.POSIX_FADV_DONTNEED)
            if self._told > _KEPT:
                os.posix_fadvise(self._descriptor, 0, self._told - _KEPT, os.POSIX_FADV_DONTNEED)
            self._told = size

    def synced(self) -> None:
        """All of the file is on disk."""
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
