"""Free space and inodes, asked before the first byte is written."""

from __future__ import annotations

import os
from pathlib import Path

from hfassets.errors import SpaceError
from hfassets.report.units import format_bytes


def existing_parent(path: Path) -> Path:
    """The nearest ancestor of `path` (or itself) that exists."""
    for candidate in (path, *path.parents):
        if candidate.exists():
            return candidate
    return Path("/")


def require_space(path: Path, size: int, inodes: int) -> None:
    """Raise SpaceError when the file system of `path` cannot take `size` more bytes in `inodes` more files."""
    stats = os.statvfs(existing_parent(path))
    free = stats.f_bavail * stats.f_frsize
    if size > free:
        raise SpaceError(
            f"{path}: needs {format_bytes(size)}, {format_bytes(free)} free: {format_bytes(size - free)} missing"
        )
    # File systems without a fixed inode table (btrfs, some network ones) report 0 in total.
    if stats.f_files and inodes > stats.f_favail:
        raise SpaceError(f"{path}: needs {inodes:,} inodes, {stats.f_favail:,} free")
