"""Hashes of files as the Hub names them, at the speed of the disk or of the hash, whichever is slower.

Invariant: reading a file to hash it leaves the page cache as it was found. Pages that were there stay; pages that only
our reading brought in are dropped again, so that a sweep over terabytes does not push out what running jobs use.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from hfassets.hub.pagecache import absent_ranges, drop, read_without_trace

ALGORITHMS = ("sha256", "git-sha1")

READ_SIZE = 256 * 1024
_WINDOW = 32 * 1024 * 1024

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
        count = read_without_trace(descriptor, buffer)
        # As much as was asked for, a file that has grown since: it is read the other way.
        if count is not None and count < READ_SIZE:
            digest.update(buffer[:count])
            if on_bytes is not None:
                on_bytes(count)
            return digest.hexdigest()
    position = 0
    absent = absent_ranges(descriptor, 0, min(_WINDOW, size))
    while True:
        end = position + _WINDOW
        # Asked one window ahead: by the time we get there, the kernel's read-ahead has put its first pages in.
        next_absent = absent_ranges(descriptor, end, min(end + _WINDOW, size))
        while position < end:
            count = os.preadv(descriptor, [buffer[: min(READ_SIZE, end - position)]], position)
            if count == 0:
                break
            digest.update(buffer[:count])
            position += count
            if on_bytes is not None:
                on_bytes(count)
        drop(descriptor, absent)
        if position < end:
            return digest.hexdigest()
        absent = next_absent


def xet_hash(path: Path) -> str:
    """The name that the shared store gives a file: a hash over its chunks, not its SHA-256. Raises OSError."""
    import hf_xet

    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        starts = range(0, size, _WINDOW)
        absent = [part for start in starts for part in absent_ranges(descriptor, start, min(start + _WINDOW, size))]
        digest: str = hf_xet.hash_files([str(path)])[0].hash
        drop(descriptor, absent)
    finally:
        os.close(descriptor)
    return digest


def _buffer() -> memoryview:
    """This thread's read buffer of READ_SIZE bytes."""
    view: memoryview | None = getattr(_local, "buffer", None)
    if view is None:
        view = _local.buffer = memoryview(bytearray(READ_SIZE))
    return view
