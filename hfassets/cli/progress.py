"""Progress events on stderr: bars on a terminal, plain lines at intervals otherwise.

Invariant: stdout is never touched, and an event may come from any thread.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TextIO

from hfassets.progress import Note, Progress
from hfassets.report.units import format_bytes, format_seconds

LINE_EVERY = 10.0


class ProgressDisplay:
    """A progress callback and context manager."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        line_every: float = LINE_EVERY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stderr
        self._lock = threading.Lock()
        # Some tasks tell their end more than once.
        self._ended: dict[str, Progress] = {}
        self._sink: _Bars | _Lines = (
            _Bars(self._stream) if self._stream.isatty() else _Lines(self._stream, line_every, clock)
        )

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._sink.close()

    def __call__(self, event: Progress | Note) -> None:
        """Show one event."""
        with self._lock:
            if isinstance(event, Note):
                prefix = "warning: " if event.level == "warning" else ""
                self._sink.note(f"{prefix}{event.text}")
            elif event.total != 0 and self._ended.get(event.task) != event:
                self._sink.progress(event)
                if event.total is not None and event.done >= event.total:
                    self._ended[event.task] = event


class _Bars:
    """One bar a running task; a finished one goes away, the command's summary tells the rest."""

    def __init__(self, stream: TextIO) -> None:
        from tqdm import tqdm

        self._stream = stream
        self._tqdm = tqdm
        self._bars: dict[str, tqdm[Any]] = {}

    def note(self, text: str) -> None:
        self._tqdm.write(text, file=self._stream)

    def progress(self, event: Progress) -> None:
        bar = self._bars.get(event.task)
        if bar is None:
            bar = self._tqdm(
                desc=event.task,
                total=event.total,
                unit="B" if event.unit == "B" else f" {event.unit}",
                unit_scale=True,
                unit_divisor=1000,
                dynamic_ncols=True,
                leave=False,
                file=self._stream,
                initial=event.done,
            )
            self._bars[event.task] = bar
        if event.total != bar.total:
            bar.total = event.total
            bar.refresh()
        bar.update(event.done - bar.n)
        if event.total is not None and event.done >= event.total:
            self._bars.pop(event.task).close()

    def close(self) -> None:
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()


class _Lines:
    """One line a task at most every `every` seconds, and one at its end."""

    def __init__(self, stream: TextIO, every: float, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._every = every
        self._clock = clock
        self._started: dict[str, tuple[float, int]] = {}
        self._said: dict[str, float] = {}
        self._open: dict[str, Progress] = {}

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def progress(self, event: Progress) -> None:
        now = self._clock()
        if event.task not in self._started:
            self._started[event.task] = (now, event.done)
            self._said[event.task] = now
        finished = event.total is not None and event.done >= event.total
        if finished:
            self._say(event, now)
            del self._started[event.task], self._said[event.task]
            self._open.pop(event.task, None)
        elif now - self._said[event.task] >= self._every:
            self._say(event, now)
            self._said[event.task] = now
            self._open.pop(event.task, None)
        else:
            self._open[event.task] = event

    def close(self) -> None:
        """Say where each unfinished task stopped."""
        for event in self._open.values():
            self._say(event, self._clock())
        self._open.clear()

    def _say(self, event: Progress, now: float) -> None:
        started, first = self._started[event.task]
        seconds = now - started
        text = f"{event.task}: {_amount(event.done, event.unit)}"
        if event.total:
            text = f"{text} of {_amount(event.total, event.unit)} ({100 * event.done // event.total} %)"
        if seconds >= 1:
            text = f"{text}, {format_seconds(seconds)}, {_amount((event.done - first) / seconds, event.unit)}/s"
        self.note(text)


def _amount(count: float, unit: str) -> str:
    if unit == "B":
        return format_bytes(count)
    return f"{count:,.0f} {unit}" if count >= 10 or count == int(count) else f"{count:.1f} {unit}"
