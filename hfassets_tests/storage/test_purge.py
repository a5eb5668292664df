"""How long files are safe from a site's purge."""

from __future__ import annotations

import os
from pathlib import Path

from hfassets.storage.purge import DAY, days_left


def test_the_file_that_was_unused_longest_decides(tmp_path: Path) -> None:
    """Reading counts as using; what is gone counts for nothing; overdue is negative."""
    now = 1_000_000_000.0
    files = [tmp_path / name for name in ("read lately", "written lately", "old")]
    for path, read, written in zip(files, (2, 9, 12), (40, 3, 12), strict=True):
        path.touch()
        os.utime(path, (now - read * DAY, now - written * DAY))
    assert days_left(files, 30, now) == 18
    assert days_left(files[:2], 30, now) == 27
    assert days_left([*files, tmp_path / "gone"], 10, now) == -2
    assert days_left([tmp_path / "gone"], 10, now) is None
