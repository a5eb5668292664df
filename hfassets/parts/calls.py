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
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, Self

from hfassets.parts.arena import Arena, Line


class ProcessKilledError(Exception):
    """A process ended before it had answered."""


class CallProcesses:
    """So many processes, each with a line of its own; use as a context manager, whose end kills what still works."""

    def __init__(self, processes: int) -> None:
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="calls")
        self._mine = threading.local()
        self._lock = threading.Lock()
        self._ended = False
        self._started: list[tuple[subprocess.Popen[bytes], Line, tuple[int, int]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._ended = True
        for process, *_ in self._started:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process, line, arenas in self._started:
            process.wait()
            line.close()
            for descriptor in arenas:
                os.close(descriptor)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call a function of a module; its exception, or ProcessKilledError, comes out of the future."""
        return self._threads.submit(self._call, function, arguments)

    def _call(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        line = self._line()
        try:
            line.send((function, arguments))
            succeeded, result = line.receive(copied=True)
        except (EOFError, OSError):
            raise ProcessKilledError from None
        if succeeded:
            return result
        raise result

    def _line(self) -> Line:
        line: Line | None = getattr(self._mine, "line", None)
        if line is None:
            with self._lock:
                if self._ended:
                    raise ProcessKilledError
                ours, theirs = socket.socketpair()
                arenas = Arena.create(), Arena.create()
                with theirs:
                    # The only other end is the process's own: when that is gone, the line says so.
                    handed = (theirs.fileno(), *arenas)
                    process = subprocess.Popen(
                        [sys.executable, "-m", "hfassets.parts.answer", *map(str, handed)], pass_fds=handed
                    )
                line = Line(Connection(ours.detach()), *arenas)
                self._started.append((process, line, arenas))
            line.send(sys.path)
            self._mine.line = line
        return line
