"""Hashes of files as the Hub names them, at the speed of the disk or of the hash, whichever is slower.

Invariant: reading a file to hash it leaves the page cache as it was found. Pages that were there stay; pages that only
our reading brought in are dropped again, so that a sweep over terabytes does not push out what running jobs use.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

ALGORITHMS = ("sha256", "git-sha1")

READ_SIZE = 256 * 1024
_WINDOW = 32 * 1024 * 1024
_PROBES = 8
_PAGE = 4096

_local = threading.local()


class Hash(Protocol):
    """What of `hashlib`'s objects is used."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take in more bytes."""

    def hexdigest(self) -> str:
        """The hash so far, in lower-case hex digits."""


def new_hash(algorithm: str, size: int) -> Hash:
    """An empty hash for content of `size` bytes.

    `git-sha1` is git's blob id: SHA-1 over `blob <size>`, a zero byte, and the content; `size` counts there only.
    """
    if algorithm == "sha256":
        return hashlib.sha256(usedforsecurity=False)
    if algorithm == "git-sha1":
        return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    raise ValueError(f"{algorithm!r} is not one of {', '.join(ALGORITHMS)}")


def algorithm_of(etag: str) -> str:
    """The algorithm behind a blob's name: 64 hex digits are SHA-256 (LFS, xet), 40 are git-sha1."""
    return "sha256" if len(etag) == 64 else "git-sha1"


def hash_file(path: Path, algorithm: str, on_bytes: Callable[[int], None] | None = None) -> str:
    """Hash a whole file in hex digits; `on_bytes` is told of each chunk read, in bytes. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return hash_descriptor(descriptor, os.fstat(descriptor).st_size, algorithm, on_bytes)
    finally:
        os.close(descriptor)


def hash_descriptor(descriptor: int, size: int, algorithm: str, on_bytes: Callable[[int], None] | None = None) -> str:
    """Hash an open file of `size` bytes from its start to its end, whatever its position. Raises OSError."""
    digest = new_hash(algorithm, size)
    buffer = _buffer()
    if size <= READ_SIZE:
        _hash_small(descriptor, size, digest, buffer, on_bytes)
        return digest.hexdigest()
    position = 0
    foreign = _was_cached(descriptor, 0, size)
    while True:
        end = position + _WINDOW
        # Asked one window ahead: by the time we get there, the kernel's read-ahead has put its first pages in.
        next_foreign = _was_cached(descriptor, end, size) if end < size else True
        start = position
        while position < end:
            count = os.preadv(descriptor, [buffer[: min(READ_SIZE, end - position)]], position)
            if count == 0:
                break
            digest.update(buffer[:count])
            position += count
            if on_bytes is not None:
                on_bytes(count)
        if not foreign:
            _drop(descriptor, start, position - start)
        if position < end:
            return digest.hexdigest()
        foreign = next_foreign


def xet_hash(path: Path) -> str:
    """The name that the shared store gives a file: a hash over its chunks, not its SHA-256. Raises OSError."""
    import hf_xet

    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        ours = [start for start in range(0, size, _WINDOW) if not _was_cached(descriptor, start, size)]
        digest: str = hf_xet.hash_files([str(path)])[0].hash
        for start in ours:
            _drop(descriptor, start, _WINDOW)
    finally:
        os.close(descriptor)
    return digest


def _hash_small(
    descriptor: int, size: int, digest: Hash, buffer: memoryview, on_bytes: Callable[[int], None] | None
) -> None:
    """A file that fits the buffer: one read that does not wait tells at once whether all of it was cached."""
    count = 0
    foreign = True
    try:
        count = os.preadv(descriptor, [buffer], 0, os.RWF_NOWAIT)
    except BlockingIOError:
        foreign = False
    except OSError as error:  # file systems without such reads: nobody can tell, so nothing is dropped
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
    position = 0
    while True:
        if count:
            digest.update(buffer[:count])
            position += count
            if on_bytes is not None:
                on_bytes(count)
        if position >= size:
            break
        count = os.preadv(descriptor, [buffer], position)
        if count == 0:
            break
    if not foreign:
        _drop(descriptor, 0, position)


def _was_cached(descriptor: int, start: int, size: int) -> bool:
    """Whether any probed page of the window at `start` is in the page cache; True where the kernel cannot tell."""
    end = min(start + _WINDOW, size)
    step = max((end - start) // _PROBES, _PAGE)
    byte = bytearray(1)
    # From the end: what the kernel reads ahead of one probe must not answer the next.
    for offset in reversed(range(start, end, step)):
        try:
            os.preadv(descriptor, [byte], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            continue
        except OSError:
            return True
        return True
    return False


def _drop(descriptor: int, start: int, length: int) -> None:
    with suppress(OSError):
        os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_DONTNEED)


def _buffer() -> memoryview:
    """This thread's read buffer of READ_SIZE bytes."""
    view: memoryview | None = getattr(_local, "buffer", None)
    if view is None:
        view = _local.buffer = memoryview(bytearray(READ_SIZE))
    return view
