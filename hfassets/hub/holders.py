"""Whether somebody is writing a file right now, as far as this host can tell.

Asking takes a shared lock for an instant and never waits; nothing is created, changed or removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path


def is_locked(path: Path) -> bool:
    """Whether a process holds an exclusive `flock` on `path`; False when there is no such file.

    Where the file system has no such locks, libraries fall back to lock files that exist only while held.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        return error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK) and path.suffix == ".lock"
    finally:
        os.close(descriptor)
    return False


def open_files(paths: Iterable[Path]) -> set[Path]:
    """Those of `paths` that a process of this host has open, as far as we may look into other processes."""
    wanted = {str(path.resolve()): path for path in paths}
    found: set[Path] = set()
    if not wanted:
        return found
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = list((process / "fd").iterdir())
        except OSError:  # it ended, or belongs to somebody else
            continue
        for link in links:
            try:
                path = wanted.get(str(link.readlink()))
            except OSError:  # closed since it was listed; those after it may still be open
                continue
            if path is not None:
                found.add(path)
    return found
