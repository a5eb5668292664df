"""A run queue that can be drained: while a file says so, no queued run is started. Dagster's by nature.

Invariant: draining loses nothing: runs wait in Dagster's queue, those under way go on, and removing the file is enough.
"""

from __future__ import annotations

import time
from pathlib import Path

from dagster import DagsterInstance
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._core.run_coordinator.queued_run_coordinator import RunQueueConfig


def drain_file(instance: DagsterInstance) -> Path:
    """The file whose presence stops the queue."""
    return Path(instance.root_directory) / "drain"


def begin_drain(instance: DagsterInstance, why: str) -> None:
    """Start no more queued runs; `why` is for whoever finds the file."""
    drain_file(instance).write_text(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {why}\n")


def end_drain(instance: DagsterInstance) -> bool:
    """Start queued runs again; whether they were held."""
    try:
        drain_file(instance).unlink()
    except FileNotFoundError:
        return False
    return True


class DrainableRunCoordinator(QueuedRunCoordinator):
    """`run_coordinator: {module: hfassets.slurm.coordinator, class: DrainableRunCoordinator, config: …}`."""

    def get_run_queue_config(self) -> RunQueueConfig:
        """As configured; with no room for another run while the queue is drained. The daemon asks before each turn."""
        config = super().get_run_queue_config()
        if not drain_file(self._instance).exists():
            return config
        return config._replace(max_concurrent_runs=0)
