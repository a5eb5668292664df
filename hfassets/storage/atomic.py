"""Atomic publication of files and folders.

Invariant: a path that is visible under its final name is complete and on disk. Everything is written beside its final
place as `.<name>.<8 hex>.tmp`, fsynced, then renamed; a crash leaves only such temporary names behind.
File modes follow the process umask, so that team folders stay group-writable.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

TEMPORARY = re.compile(r"^\..+\.[0-9a-f]{8}\.tmp$")


def temporary_beside(path: Path) -> Path:
    """A fresh temporary name in the folder of `path`, recognised by `TEMPORARY`."""
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")


def fsync_directory(path: Path) -> None:
    """Make renames within `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def open_atomic(path: Path) -> Iterator[IO[bytes]]:
    """Open a new binary file that appears as `path` only if the body succeeds; replaces an older one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync_directory(path.parent)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


def write_atomic(path: Path, data: bytes) -> None:
    """Write a whole file atomically."""
    with open_atomic(path) as file:
        file.write(data)


def publish_directory(temporary: Path, final: Path, *, replace: bool = False) -> bool:
    """Rename a finished folder to its final name, files fsynced first.

    When `final` exists and is not empty: with `replace` it makes way (moved aside, then deleted); without, ours is
    discarded and the result is False, since another writer published first and by the determinism promise its bytes
    are equal. A caller that has not seen a valid manifest in `final` wants `replace`.
    """
    for entry in temporary.rglob("*"):
        if entry.is_symlink():
            continue
        if entry.is_file():
            with entry.open("rb") as file:
                os.fsync(file.fileno())
        elif entry.is_dir():
            fsync_directory(entry)
    fsync_directory(temporary)
    aside: Path | None = None
    if replace:
        with suppress(FileNotFoundError):
            aside = final.rename(temporary_beside(final))
    try:
        temporary.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(temporary)
        return False
    finally:
        if aside is not None:
            _remove(aside)
    fsync_directory(final.parent)
    return True


def remove_temporaries(folder: Path) -> int:
    """Delete what crashed writers left in `folder` (not below it); the caller holds the folder's lease."""
    removed = 0
    for entry in folder.iterdir():
        if TEMPORARY.match(entry.name):
            _remove(entry)
            removed += 1
    return removed


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
