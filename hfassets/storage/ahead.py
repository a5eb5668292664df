"""Work on another thread than the caller's: read ahead of a consumer.

Invariant: at most `depth` items wait between the two, an exception on the other thread is raised here, and no thread
works on when the body has ended.
"""

from __future__ import annotations

import ctypes
import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")

_TURN_S = 0.00005
# mallopt(3); the two are set together, or one would still give the buffers back.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 32 << 20
_POLL_S = 0.1
_JOIN_S = 10.0
_END = object()


@contextmanager
def quick_turns() -> Iterator[None]:
    """For the body, threads of this process take turns every 0.05 ms, and large buffers are used again.

    A thread that decompresses needs Python's lock for a moment after each piece. While another one parses, it waits for
    a whole turn, 5 ms by default, and so the two hardly work at the same time.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(_TURN_S)
    keep_buffers()
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def keep_buffers() -> None:
    """From now on, large buffers of this process are used again.

    glibc gives each freed buffer of a megabyte back to the kernel, which has to clear its pages anew for the next one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            mallopt(parameter, _KEPT_BYTES)


@contextmanager
def reading_ahead(items: Iterator[Item], depth: int) -> Iterator[Iterator[Item]]:
    """The same items, made on a thread of their own while the body works on earlier ones."""
    waiting: queue.Queue[object] = queue.Queue(depth)
    stopped = threading.Event()
    failed: list[BaseException] = []

    def put(item: object) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        try:
            for item in items:
                if not put(item):
                    break
        except BaseException as error:
            failed.append(error)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()
            put(_END)

    def taken() -> Iterator[Item]:
        while (item := waiting.get()) is not _END:
            yield item  # type: ignore[misc]
        if failed:
            raise failed[0]

    thread = threading.Thread(target=make, name="reading-ahead", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        stopped.set()
        # One that waits for a silent server ends with that server's timeout; nobody has to wait for it.
        thread.join(_JOIN_S)
