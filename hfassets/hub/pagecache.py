"""Read files without disturbing the page cache that running jobs live on (Linux).

Invariant: what was in memory before stays there. What only our reading brought in can be told from it, and dropped.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
from contextlib import suppress

# preadv2(2), Linux 6.14: pages that this read brings in are dropped as soon as it is done, others stay.
_RWF_DONTCACHE = 0x80
# Linux 6.5, the same number on x86-64 and Arm.
_SYS_CACHESTAT = 451
_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
_PROBES = 8

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
_libc.syscall.restype = ctypes.c_long
_MAP_FAILED = ctypes.c_void_p(-1).value

Ranges = list[tuple[int, int]]


def read_without_trace(descriptor: int, buffer: memoryview) -> int | None:
    """Read the start of a file into `buffer`; the bytes read, or None where the kernel or file system cannot do it."""
    try:
        return os.preadv(descriptor, [buffer], 0, _RWF_DONTCACHE)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise


def absent_ranges(descriptor: int, start: int, end: int) -> Ranges:
    """Which parts of a file, as (offset, length), are not in memory now; none where that cannot be found out.

    `start` is a multiple of the page size. To be asked before the kernel's read-ahead gets there.
    """
    if end <= start:
        return []
    if _is_resident(descriptor, start, end - start):
        return []
    pages = _resident(descriptor, start, end - start)
    if pages is not None and b"\0" in pages:
        return _runs(pages, start, end)
    # For files of others the kernel claims that all is there: see whether it gives any of it without waiting.
    return [] if _any_at_hand(descriptor, start, end) else [(start, end - start)]


def drop(descriptor: int, ranges: Ranges) -> None:
    """Take parts of a file out of memory; pages that are mapped or not yet written stay."""
    for offset, length in ranges:
        with suppress(OSError):
            os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_DONTNEED)


def _is_resident(descriptor: int, start: int, length: int) -> bool:
    """Whether all of it is in memory, by cachestat(2), thirty times as fast as mincore(2); False when not known."""
    asked = (ctypes.c_uint64 * 2)(start, length)
    counts = (ctypes.c_uint64 * 5)()
    failed = _libc.syscall(_SYS_CACHESTAT, descriptor, asked, counts, 0)
    return not failed and counts[0] == -(-length // mmap.PAGESIZE)


def _resident(descriptor: int, start: int, length: int) -> bytes | None:
    """One byte a page, 0 = not in memory, by mincore(2); None when it cannot be asked."""
    address = _libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, start)
    if address == _MAP_FAILED:
        return None
    count = -(-length // mmap.PAGESIZE)
    vector = ctypes.create_string_buffer(count)
    failed = _libc.mincore(address, length, vector)
    _libc.munmap(address, length)
    return None if failed else vector.raw


def _runs(pages: bytes, start: int, end: int) -> Ranges:
    runs = []
    for run in re.finditer(rb"\0+", pages):
        offset = start + run.start() * mmap.PAGESIZE
        runs.append((offset, min(start + run.end() * mmap.PAGESIZE, end) - offset))
    return runs


def _any_at_hand(descriptor: int, start: int, end: int) -> bool:
    step = max((end - start) // _PROBES, mmap.PAGESIZE)
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
