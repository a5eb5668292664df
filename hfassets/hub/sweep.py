"""Hash many files on all cores: the largest first, small ones in groups, one outcome each.

Invariant: a file is called different only if it was the same file, unchanged, from before its first byte was read until
after the last. What is replaced or written meanwhile is read again, and called `changing` if it will not hold still.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from hfassets.hub.hashing import hash_descriptor, xet_hash
from hfassets.hub.memory import VerifyMemory
from hfassets.progress import Progress, ProgressCallback

XET = "xet"
"""The algorithm of names in the shared store, besides those of `hashing`."""

_GROUP_FILES = 64
_GROUP_BYTES = 16 * 1024 * 1024
_ATTEMPTS = 3
_SAVE_EVERY_S = 10.0
_REPORT_EVERY_S = 0.25


class Task(NamedTuple):
    """A file of `size` bytes whose hash must be `expected`; what is proven goes into `memory`."""

    path: str
    size: int
    algorithm: str
    expected: str
    memory: VerifyMemory


class Outcome(NamedTuple):
    """What a task came to: its hash, or why there is none."""

    task: Task
    digest: str | None = None
    size: int = 0
    error: str | None = None
    vanished: bool = False
    changing: bool = False
    identity: tuple[int, ...] = ()
    """Which file it was that was read: compare with `identity_of`."""

    @property
    def is_proven(self) -> bool:
        """Whether the bytes are what they must be."""
        return self.digest == self.task.expected


class _StoppedError(Exception):
    """The sweep was abandoned while this file was being read."""


def default_workers() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0))


def sweep(tasks: Iterable[Task], workers: int | None, progress: ProgressCallback) -> Iterator[Outcome]:
    """Work through `tasks`; outcomes come as they are ready.

    Memories are saved every 10 s and at the end, also when the caller stops early: a killed sweep resumes where it was.
    """
    ordered = sorted(tasks, key=lambda task: task.size, reverse=True)
    memories = list({id(task.memory): task.memory for task in ordered}.values())
    meter = _Meter(sum(task.size for task in ordered), progress)
    saved = time.monotonic()
    with ThreadPoolExecutor(workers or default_workers(), thread_name_prefix="verify") as pool:
        # Kept by nobody else, each is freed with its outcomes as soon as these are taken.
        futures = as_completed({pool.submit(_work, group, meter) for group in _groups(ordered)})
        del ordered
        try:
            for future in futures:
                yield from future.result()
                if time.monotonic() - saved > _SAVE_EVERY_S:
                    for memory in memories:
                        memory.save()
                    saved = time.monotonic()
        finally:
            meter.stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            for memory in memories:
                memory.save()
    meter.report()


class _Meter:
    """Counts bytes over all threads and passes them on a few times a second; ends them when the sweep is abandoned."""

    def __init__(self, total: int, progress: ProgressCallback) -> None:
        self.stop = threading.Event()
        self._total = total
        self._progress = progress
        self._done = 0
        self._lock = threading.Lock()
        self._reported = time.monotonic()

    def add(self, count: int) -> None:
        if self.stop.is_set():
            raise _StoppedError
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._reported < _REPORT_EVERY_S:
                return
            self._reported = now
            self.report()

    def report(self) -> None:
        self._progress(Progress("verify", self._done, self._total, "B"))


def _groups(ordered: Sequence[Task]) -> Iterator[Sequence[Task]]:
    """Cut the tasks, largest first, into what is worth handing to a thread at once."""
    start = count = size = 0
    for count, task in enumerate(ordered):
        if count > start and (count - start >= _GROUP_FILES or size + task.size > _GROUP_BYTES):
            yield ordered[start:count]
            start, size = count, 0
        size += task.size
    if ordered:
        yield ordered[start : count + 1]


def _work(group: Sequence[Task], meter: _Meter) -> list[Outcome]:
    try:
        return [_prove(task, meter) for task in group]
    except _StoppedError:
        return []


def _prove(task: Task, meter: _Meter) -> Outcome:
    for _ in range(_ATTEMPTS):
        try:
            descriptor = os.open(task.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return Outcome(task, vanished=True)
        except OSError as error:
            return Outcome(task, error=_reason(error))
        try:
            before = os.fstat(descriptor)
            if task.algorithm == XET:
                digest = xet_hash(Path(task.path))
                meter.add(before.st_size)
            else:
                digest = hash_descriptor(descriptor, before.st_size, task.algorithm, meter.add)
            if digest == task.expected:
                # Written to since `before`, it will not be the file that is remembered.
                task.memory.record(task.path, before, digest)
                return Outcome(task, digest, before.st_size)
            after = os.fstat(descriptor)
        except OSError as error:
            return Outcome(task, error=_reason(error))
        finally:
            os.close(descriptor)
        if identity_of(before) == identity_of(after) and _is_still(task.path, after):
            task.memory.forget(Path(task.path))
            return Outcome(task, digest, before.st_size, identity=identity_of(after))
    return Outcome(task, changing=True)


def _is_still(path: str, status: os.stat_result) -> bool:
    try:
        return identity_of(os.stat(path)) == identity_of(status)  # noqa: PTH116
    except OSError:
        return False


def identity_of(status: os.stat_result) -> tuple[int, ...]:
    """What tells a file from the one that takes its place, or from itself after a write."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
