"""Where parts are made: a backend takes indexes of a stored plan and yields how each ended, in any order.

Invariant: no worker process outlives the run that started it, however the run ends; a worker that is killed costs its
own part a second try in a fresh process and no other part anything.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from hfassets.parts.make import attempt
from hfassets.parts.plan import Outcome

ATTEMPTS = 2
_OBJECTS_PER_COLLECTION = 100_000
_LOOK_AT_CLOCK = 0.2


class Backend(Protocol):
    """Makes parts by `hfassets.parts.worker`, here or on other machines that see the plan's folder."""

    def map(self, plan_file: Path, fingerprint: str, indexes: Sequence[int]) -> Iterator[Outcome]:
        """Yield one outcome for each index as parts end; a part's failure is an outcome, never an exception."""
        ...

    def busy(self, plan_file: Path) -> bool:
        """Whether workers of an earlier run may still be at it: then what they have begun is not litter."""
        ...


class Clock(Protocol):
    """Knows how much time is left to a pool; asked from several threads."""

    def begins(self, index: int) -> bool:
        """Whether a part may be begun now; if so, it is."""
        ...

    def ended(self, index: int) -> None:
        """A part that was begun is over."""
        ...

    def over(self) -> bool:
        """Whether what is under way has to be abandoned now."""
        ...


@dataclass(frozen=True, slots=True)
class LocalPool:
    """Processes of this machine; with one, parts are made in the calling process.

    With a `clock` always in processes; parts that it leaves no time for are not begun, or abandoned, and have no
    outcome.
    """

    processes: int = 1
    clock: Clock | None = None

    def busy(self, plan_file: Path) -> bool:
        """Never: no worker outlives its run."""
        return False

    def map(self, plan_file: Path, fingerprint: str, indexes: Sequence[int]) -> Iterator[Outcome]:
        """See Backend."""
        if self.processes <= 1 and self.clock is None:
            return (attempt(plan_file, fingerprint, index) for index in indexes)
        return _map_in_processes(self, plan_file, fingerprint, indexes)


def _map_in_processes(
    pool: LocalPool, plan_file: Path, fingerprint: str, indexes: Sequence[int]
) -> Generator[Outcome, None, None]:
    # One thread a process, each with an executor of one worker: a killed worker breaks that executor and no other.
    slots = _Slots(pool.clock)
    threads = ThreadPoolExecutor(max(1, min(pool.processes, len(indexes))))
    try:
        futures = [threads.submit(slots.attempt, plan_file, fingerprint, index) for index in indexes]
        for future in as_completed(futures):
            outcome = future.result()
            if outcome is not None:
                yield outcome
    except BaseException:
        slots.kill()
        raise
    finally:
        threads.shutdown(cancel_futures=True)
        slots.close()


class _Slots:
    """The worker processes, one for each calling thread."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock
        self._context = multiprocessing.get_context("spawn")
        # Only this process holds the sending end: its end, or its closing, is what workers watch for.
        self._watched, self._alive = self._context.Pipe(duplex=False)
        self._stopped = threading.Event()
        self._mine = threading.local()
        self._all: list[ProcessPoolExecutor] = []
        self._killing = threading.Lock()
        if clock is not None:
            threading.Thread(target=self._watch, args=(clock,), daemon=True).start()

    def attempt(self, plan_file: Path, fingerprint: str, index: int) -> Outcome | None:
        """How a part ended; None when there was no time for it."""
        if self._clock is not None and (self._stopped.is_set() or not self._clock.begins(index)):
            return None
        for _ in range(ATTEMPTS):
            if self._stopped.is_set():
                return None
            try:
                outcome = self._executor().submit(attempt, plan_file, fingerprint, index).result()
            except BrokenProcessPool:
                self._mine.executor = None
                continue
            if self._clock is not None:
                self._clock.ended(index)
            return outcome
        if self._stopped.is_set():
            return None
        return Outcome(index, error=f"its worker process was killed {ATTEMPTS} times (out of memory?)")

    def _executor(self) -> ProcessPoolExecutor:
        executor: ProcessPoolExecutor | None = getattr(self._mine, "executor", None)
        if executor is None:
            executor = ProcessPoolExecutor(
                1, mp_context=self._context, initializer=begin_worker, initargs=(self._watched,)
            )
            self._mine.executor = executor
            self._all.append(executor)
        return executor

    def kill(self) -> None:
        """End all workers at once, whatever they are doing."""
        with self._killing:
            self._stopped.set()
            self._alive.close()

    def _watch(self, clock: Clock) -> None:
        while not self._stopped.wait(_LOOK_AT_CLOCK):
            if clock.over():
                self.kill()

    def close(self) -> None:
        """End the workers, which have no more to do; that they tidy their memory up would only take its time."""
        self.kill()
        for executor in self._all:
            executor.shutdown()
        self._watched.close()


def begin_worker(watched: Connection) -> None:
    """What a worker process does first: it ends with the process that holds the other end of `watched`."""
    # Parts make many objects and hardly a cycle: looking for some after each 700 costs a twentieth of the time.
    gc.set_threshold(_OBJECTS_PER_COLLECTION)
    # An interrupt from the keyboard reaches the whole process group, the end of a job's time each of its processes: the
    # run decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(watched,), daemon=True).start()


def _end_with_parent(watched: Connection) -> None:
    try:
        watched.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)
