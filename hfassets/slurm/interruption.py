"""A worker that SLURM stops has not failed. Dagster's by nature.

Invariant: once SIGTERM has reached the worker, or is about to, no failure of a step or of the run is recorded: SLURM
signals every process of a job, so that a child may die of it and be taken for a failed step before the worker's own
interrupt is handled. The run stays as it is, and its next job goes on with it.
"""

from __future__ import annotations

import select
import signal
import socket
import sys
from typing import Any

from dagster import DagsterEventType, DagsterInstance
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.events.log import EventLogEntry

HELD_BACK = frozenset({DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE})
PATIENCE = 1.0
"""Seconds a failure waits for a SIGTERM that reached a child first."""
_INTERRUPTS = (KeyboardInterrupt, DagsterExecutionInterruptedError)


class Terminations:
    """Knows whether SIGTERM has arrived, whoever handles it: Python tells by a socket before any handler runs.

    Made in the main thread (signal.set_wakeup_fd).
    """

    def __init__(self) -> None:
        self._told, told = socket.socketpair()
        self._told.setblocking(False)
        told.setblocking(False)
        # Kept from being collected: signals are written to it.
        self._told_by = told
        self._seen = False
        signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)

    def seen(self, wait_s: float = 0.0) -> bool:
        """Whether it has arrived, or does so within `wait_s` seconds."""
        while not self._seen and select.select([self._told], [], [], wait_s)[0]:
            self._seen = signal.SIGTERM in self._told.recv(4096)
        return self._seen


def hold_back_failures(instance: DagsterInstance, terminations: Terminations) -> None:
    """Let this object record no failure that is an interruption; other instances of the process are as they were."""
    record = instance.handle_new_event

    def handle(event: EventLogEntry, **more: Any) -> None:
        kind = event.dagster_event.event_type if event.dagster_event is not None else None
        # A step that says itself that it was interrupted is Dagster's to conclude.
        known = isinstance(sys.exception(), _INTERRUPTS)
        if kind in HELD_BACK and not known and terminations.seen(PATIENCE):
            if kind == DagsterEventType.STEP_FAILURE:
                raise DagsterExecutionInterruptedError("SIGTERM has reached the worker")
            return
        record(event, **more)

    instance.handle_new_event = handle  # type: ignore[method-assign]
