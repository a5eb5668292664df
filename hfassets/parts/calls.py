"""Functions called in processes of their own, with large arguments and results.

Invariant: a process that is killed at any moment, even while it sends a result, makes its calls fail and hangs nobody;
no process outlives the one that started it by more than the call it is working on. (The executor of the standard
library shares one pipe for all results, and waits for ever for the rest of one that was cut. It also runs the program
that uses it once more in each process, which a library cannot ask of programs.)
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from threading import Semaphore
from typing import Any, NamedTuple, Self

from hfassets.parts.arena import Arena, Line

ANSWERS = 3
"""That a process may be ahead of whoever uses them."""


class ProcessKilledError(Exception):
    """A process ended before it had answered."""


class Answer(NamedTuple):
    """What a call gave. Its arrays lie in memory that the process uses again: `release` when done with them."""

    result: Any
    release: Callable[[], None]


class CallProcesses:
    """So many processes, each with a line of its own; use as a context manager, whose end kills what still works.

    A process whose last answers, `ANSWERS` of them, are not released yet waits. So answers have to be taken in the
    order of their calls.
    """

    def __init__(self, processes: int) -> None:
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="calls")
        self._mine = threading.local()
        self._lock = threading.Lock()
        self._ended = False
        self._started: list[tuple[subprocess.Popen[bytes], Line, Sequence[int], Semaphore]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._ended = True
        for process, _, _, free in self._started:
            process.kill()
            free.release(ANSWERS)
        self._threads.shutdown(cancel_futures=True)
        for process, line, arenas, _ in self._started:
            process.wait()
            line.close()
            for descriptor in arenas:
                os.close(descriptor)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Answer]:
        """Call a function of a module; its exception, or ProcessKilledError, comes out of the future."""
        return self._threads.submit(self._call, function, arguments)

    def _call(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Answer:
        line, free = self._line()
        free.acquire()
        try:
            line.send((function, arguments))
            succeeded, result = line.receive()
        except (EOFError, OSError):
            free.release()
            raise ProcessKilledError from None
        if succeeded:
            return Answer(result, free.release)
        free.release()
        raise result

    def _line(self) -> tuple[Line, Semaphore]:
        mine: tuple[Line, Semaphore] | None = getattr(self._mine, "line", None)
        if mine is None:
            with self._lock:
                if self._ended:
                    raise ProcessKilledError
                ours, theirs = socket.socketpair()
                arenas = [Arena.create() for _ in range(1 + ANSWERS)]
                with theirs:
                    # The only other end is the process's own: when that is gone, the line says so.
                    handed = (theirs.fileno(), *arenas)
                    process = subprocess.Popen(
                        [sys.executable, "-m", "hfassets.parts.answer", *map(str, handed)], pass_fds=handed
                    )
                mine = Line(Connection(ours.detach()), arenas[:1], arenas[1:]), Semaphore(ANSWERS)
                self._started.append((process, mine[0], arenas, mine[1]))
            mine[0].send(sys.path)
            self._mine.line = mine
        return mine
