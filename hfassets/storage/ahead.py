"""Work on other threads than the caller's: read ahead of a consumer, write behind a producer.

Invariant: at most `depth` items wait between the two, an exception on the other thread is raised here, and no thread
works on when the body has ended.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")

_POLL_S = 0.1
_JOIN_S = 10.0
_END = object()


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


@contextmanager
def writing_behind(write: Callable[[Item], None], depth: int) -> Iterator[Callable[[Item], None]]:
    """A function that has `write` called for each item, in order, on a thread of its own; all are written at the end.

    What `write` raises is raised by the next call or at the end. When the body raises, what still waits is dropped.
    """
    waiting: queue.Queue[object] = queue.Queue(depth)
    failed: list[BaseException] = []

    def work() -> None:
        while (item := waiting.get()) is not _END:
            if not failed:
                try:
                    write(item)  # type: ignore[arg-type]
                except BaseException as error:
                    failed.append(error)

    def give(item: Item) -> None:
        if failed:
            raise failed[0]
        waiting.put(item)

    thread = threading.Thread(target=work, name="writing-behind", daemon=True)
    thread.start()
    try:
        yield give
    except BaseException as error:
        failed.append(error)
        raise
    finally:
        waiting.put(_END)
        thread.join()
    if failed:
        raise failed[0]
