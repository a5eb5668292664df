"""Progress of domain code as lines in a run's log."""

from __future__ import annotations

import time

import dagster as dg

from hfassets.progress import Note, Progress, ProgressCallback
from hfassets.report.units import format_bytes

LOG_EVERY = 10.0


def log_progress(context: dg.AssetExecutionContext) -> ProgressCallback:
    """A callback that logs every note, and each task's progress at most once in `LOG_EVERY` seconds and at its end."""
    last: dict[str, float] = {}

    def report(event: Progress | Note) -> None:
        if isinstance(event, Note):
            (context.log.warning if event.level == "warning" else context.log.info)(event.text)
            return
        now = time.monotonic()
        finished = event.total is not None and event.done >= event.total
        if finished or now - last.setdefault(event.task, now) >= LOG_EVERY:
            last[event.task] = now
            context.log.info(f"{event.task}: {_amount(event)}")

    return report


def _amount(event: Progress) -> str:
    def shown(count: int) -> str:
        return format_bytes(count) if event.unit == "B" else f"{count:,} {event.unit}"

    return shown(event.done) if event.total is None else f"{shown(event.done)} of {shown(event.total)}"
