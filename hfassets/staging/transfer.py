"""The worker of staging: files copied one by one, each proven by what it was hashed to.

Invariant: a file gets the source's modification time last of all, and only when it is what is listed.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event

from hfassets.errors import DataError, HfassetsError
from hfassets.staging.digest import Digest, new_digest, said_digest
from hfassets.staging.tree import SourceFile
from hfassets.storage.s3 import S3Error, S3Prefix, S3Store

_BLOCK = 256 << 10
"""B, read and hashed at once: small enough to stay in a core's own cache in between."""
_PIECE = 2 << 20
"""B, written at once: as much as the page cache takes as one (large folios; ext4 since Linux 6.16)."""
_FICLONE = 0x40049409
"""linux/fs.h, see ioctl_ficlone(2)."""
_RESERVE = 0x4030582A
"""FS_IOC_RESVSP64 of linux/falloc.h: fallocate(2) that leaves the size, and does not write where it cannot reserve."""
_ATTEMPTS = 3


def copy_batch(
    root: Path | S3Prefix, target: str, files: Sequence[SourceFile], *, hashed: bool, stop: Event | None = None
) -> list[tuple[str, int, str, str]]:
    """Worker: (path, bytes, digest or "", what went wrong or "") of each file. `stop`: set when nobody wants more."""
    buffer = memoryview(mmap.mmap(-1, _PIECE))  # memory only as far as it is used
    store = None if isinstance(root, Path) else S3Store(root)
    found = []
    for one in files:
        try:
            if store is not None:
                digest = _fetch(store, f"{target}/{one.path}", one, hashed=hashed, stop=stop)
            else:
                digest = _copy(f"{root}/{one.path}", f"{target}/{one.path}", one, buffer, hashed=hashed, stop=stop)
            found.append((one.path, one.size, digest, ""))
        except (OSError, HfassetsError) as error:
            found.append((one.path, one.size, "", getattr(error, "strerror", None) or str(error)))
    return found


def _fetch(store: S3Store, target: str, one: SourceFile, *, hashed: bool, stop: Event | None) -> str:
    """An object; one whose reading broke off is read again from its beginning."""
    for attempt in range(_ATTEMPTS):
        try:
            return _written(target, one, lambda writing: _received(store, writing, one, hashed=hashed, stop=stop))
        except S3Error:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError


def _received(store: S3Store, writing: int, one: SourceFile, *, hashed: bool, stop: Event | None) -> tuple[int, str]:
    digest = new_digest(one.sha256) if hashed else None
    size = 0
    for piece in store.read(one.path):
        if digest is not None:
            digest.update(memoryview(piece))
        _write_all(writing, memoryview(piece))
        size += len(piece)
        _go_on(stop)
    return size, "" if digest is None else said_digest(digest)


def _copy(source: str, target: str, one: SourceFile, buffer: memoryview, *, hashed: bool, stop: Event | None) -> str:
    reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _written(target, one, lambda writing: _copied(reading, writing, one, buffer, hashed=hashed, stop=stop))
    finally:
        os.close(reading)


def _written(target: str, one: SourceFile, write: Callable[[int], tuple[int, str]]) -> str:
    writing = _created(target)
    try:
        size, digest = write(writing)
        if size != one.size:
            raise DataError(f"{size:,} B were read, {one.size:,} are listed: it changed while it was copied")
        if digest and one.sha256 and digest != one.sha256:
            raise DataError("its SHA-256 is not what the manifest says: the source is damaged")
        # Last of all: from now on it counts as there.
        os.utime(writing, ns=(one.mtime_ns, one.mtime_ns))
    finally:
        os.close(writing)
    return digest


def _created(target: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(target, flags, 0o644)
    except OSError:
        # A link, or something else that was put there.
        if Path(target).is_dir() and not Path(target).is_symlink():
            shutil.rmtree(target)
        else:
            Path(target).unlink()
        return os.open(target, flags, 0o644)


def _copied(
    reading: int, writing: int, one: SourceFile, buffer: memoryview, *, hashed: bool, stop: Event | None
) -> tuple[int, str]:
    """Bytes, and the digest if it is wanted: of what is read to be written, or of the blocks that both share."""
    digest = new_digest(one.sha256) if hashed else None
    shared = one.size > _BLOCK and _is_shared(reading, writing)
    if shared and digest is None:
        return os.fstat(writing).st_size, ""
    if not shared and one.size >= len(buffer):
        _reserve(writing, one.size)
    size, count = 0, len(buffer)
    while count == len(buffer):
        count = _filled(writing if shared else reading, buffer, digest)
        if not shared:
            _write_all(writing, buffer[:count])
        size += count
        _go_on(stop)
    return size, "" if digest is None else said_digest(digest)


def _is_shared(reading: int, writing: int) -> bool:
    """Ask a file system that can (XFS, btrfs) to let the copy share the source's blocks until one is written to."""
    try:
        fcntl.ioctl(writing, _FICLONE, reading)
    except OSError:
        return False
    return True


def _reserve(writing: int, size: int) -> None:
    """Blocks for all of a file at once: ext4 then need not account for each one that is written, a quarter of the time.

    Only a hint: what a file system cannot reserve, it says when it is written.
    """
    with suppress(OSError):
        fcntl.ioctl(writing, _RESERVE, struct.pack("hhqqii16x", 0, os.SEEK_SET, 0, size, 0, 0))


def _filled(reading: int, buffer: memoryview, digest: Digest | None) -> int:
    """Bytes that were read and hashed; fewer than the buffer holds at the file's end."""
    size = 0
    while size < len(buffer) and (count := os.readv(reading, [buffer[size : size + _BLOCK]])):
        if digest is not None:
            digest.update(buffer[size : size + count])
        size += count
    return size


def _go_on(stop: Event | None) -> None:
    if stop is not None and stop.is_set():
        raise InterruptedError(errno.EINTR, "given up")


def _write_all(writing: int, part: memoryview) -> None:
    while part:
        part = part[os.write(writing, part) :]
