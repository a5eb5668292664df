"""The file that a download grows in: one writer, never blocked, never mixed with another's bytes.

Invariant: whoever writes `blobs/<etag>.incomplete` holds both its `flock` and the lock file of `huggingface_hub`; who
cannot get both at once writes a private `blobs/<etag>.<8 hex>.incomplete` instead. No lock is ever waited for.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hfassets.errors import UnsafePathError
from hfassets.hub.layout import RepoCache
from hfassets.hub.plan import partial_path

_PRIVATE = re.compile(r"^(?P<etag>[0-9a-f]{40}|[0-9a-f]{64})\.[0-9a-f]{8}\.incomplete$")
_SHARED = re.compile(r"^(?P<etag>[0-9a-f]{40}|[0-9a-f]{64})\.incomplete$")
_ABANDONED_AFTER_S = 3600.0
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR)


@dataclass(slots=True)
class Partial:
    """An open, locked, growing file."""

    path: Path
    descriptor: int

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self.descriptor).st_size

    def write(self, data: bytes, position: int) -> None:
        """Write all of `data` at a position."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self.descriptor, view, position)
            view, position = view[written:], position + written

    def clear(self) -> None:
        """Start over."""
        os.ftruncate(self.descriptor, 0)

    def publish(self, blob: Path) -> None:
        """Make the content durable and give it its final name, over whatever was there."""
        os.fsync(self.descriptor)
        self.path.replace(blob)

    def remove(self) -> None:
        """Delete the file: another's equal bytes, or wrong ones."""
        with suppress(FileNotFoundError):
            self.path.unlink()


def ensure_folder(repo: RepoCache, folder: Path) -> None:
    """Make a folder inside the cache. Raises UnsafePathError when a link leads out of it; nothing is then made."""
    inside = repo.hub_cache.resolve()
    if not folder.resolve().is_relative_to(inside):
        raise UnsafePathError(f"{folder} is a link that leads out of the cache; nothing was written")
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def open_partial(repo: RepoCache, etag: str, *, private: bool = False) -> Iterator[Partial]:
    """The shared partial file of a blob when it is free, else (or when `private`) a new one of our own.

    A private file that is left when the body ends is deleted; a shared one stays, to be resumed.
    """
    shared = partial_path(repo, etag)
    with _library_lock(repo, etag) as free:
        descriptor = _open_shared(shared) if free and not private else None
        path = shared
        if descriptor is None:
            path = shared.with_name(f"{etag}.{secrets.token_hex(4)}.incomplete")
            descriptor = os.open(path, _OPEN | os.O_EXCL, 0o666)
            _try_lock(descriptor)
        partial = Partial(path, descriptor)
        try:
            yield partial
        finally:
            if path is not shared:
                partial.remove()
            os.close(descriptor)


def _open_shared(path: Path) -> int | None:
    try:
        descriptor = os.open(path, _OPEN, 0o666)
    except OSError as error:
        if error.errno in _NOT_OURS:
            return None
        raise
    if _is_free(descriptor, path):
        return descriptor
    os.close(descriptor)
    return None


def _is_free(descriptor: int, path: Path) -> bool:
    return _try_lock(descriptor) and _is_plain(descriptor, path)


def _is_plain(descriptor: int, path: Path) -> bool:
    """Whether a locked file is still the one at `path` and has no second name elsewhere."""
    try:
        ours, there = os.fstat(descriptor), path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(ours.st_mode) and ours.st_nlink == 1 and os.path.samestat(ours, there)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def _library_lock(repo: RepoCache, etag: str) -> Iterator[bool]:
    """Take `huggingface_hub`'s lock for a blob if nobody holds it; yields whether it was taken.

    Not by `filelock`: it sets the mode of the lock file itself, past the umask, and a team then shuts itself out.
    """
    path = repo.lock(etag)
    descriptor = None
    try:
        ensure_folder(repo, path.parent)
        descriptor = _open_lock(path)
    except PermissionError:
        pass
    try:
        yield descriptor is not None and _is_taken(descriptor, path)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _is_taken(descriptor: int, path: Path) -> bool:
    return _is_free(descriptor, path) and not _has_living_holder(descriptor)


def _open_lock(path: Path) -> int:
    try:
        return os.open(path, _OPEN, 0o666)
    except PermissionError:  # another user's: a lock can be taken on what can be read
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _has_living_holder(descriptor: int) -> bool:
    """Whether a lock file names its holder (filelock's SoftFileLock: pid, host) and that one may live.

    Of a process on another host nothing is known here, so it counts as living.
    """
    fields = os.pread(descriptor, 1024, 0).decode("utf-8", "replace").split("\n")
    if not fields[0].strip():
        return False
    if len(fields) < 2 or not fields[0].isdigit() or fields[1] != socket.gethostname():
        return True
    return Path(f"/proc/{fields[0]}").exists()


def remove_leftovers(repo: RepoCache, etags: set[str]) -> None:
    """Delete what nobody holds any more: lock files of the repo, and abandoned partial files of the blobs named.

    Only blobs that are in place may be named. What belongs to others and cannot be deleted stays.
    """
    with suppress(FileNotFoundError, PermissionError):
        for entry in repo.blob("0" * 40).parent.iterdir():
            private, shared = _PRIVATE.match(entry.name), _SHARED.match(entry.name)
            if private and private["etag"] in etags:
                _remove_unheld(entry, _ABANDONED_AFTER_S)
            if shared and shared["etag"] in etags:
                with _library_lock(repo, shared["etag"]) as free:
                    if free:
                        _remove_unheld(entry, 0.0)
    with suppress(FileNotFoundError, PermissionError):
        for entry in repo.lock("0" * 40).parent.iterdir():
            if entry.suffix == ".lock":
                _remove_unheld(entry, 0.0)


def _remove_unheld(path: Path, older_than_s: float) -> None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            old = time.time() - os.fstat(descriptor).st_mtime >= older_than_s
            if old and (_is_taken(descriptor, path) if path.suffix == ".lock" else _is_free(descriptor, path)):
                path.unlink()
        finally:
            os.close(descriptor)
