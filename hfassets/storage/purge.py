"""Scratch file systems delete what nobody has used for some days: how long there is left.

A file counts as used when it was last read or written, as far as the file system keeps access times (many keep them to
the day). The policy is the site's; nothing here prevents it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

DAY = 86_400.0


def days_left(files: Iterable[Path], after_days: float, now: float | None = None) -> float | None:
    """Days until the first of these files may be purged, negative when that is overdue; None when none is there."""
    used: list[float] = []
    for path in files:
        try:
            about = path.stat()
        except OSError:
            continue
        used.append(max(about.st_atime, about.st_mtime))
    moment = time.time() if now is None else now
    return None if not used else after_days - (moment - min(used)) / DAY
