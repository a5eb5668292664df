"""The steps between two versions: no run begins, the database is copied and brought to the new schema.

Invariant: nothing is migrated while a run lives on this host, nor before there is a backup; whatever fails, the queue
goes on afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hfassets.errors import HfassetsError
from hfassets.service.places import Places
from hfassets.service.postgres import OwnPostgres
from hfassets.service.setup import own_database, read_config


@contextmanager
def drained(places: Places, timeout: float, say: Callable[[str], None]) -> Iterator[None]:
    """For the body no queued run is started, and no run is left on this host.

    Raises HfassetsError when runs do not end within `timeout` seconds.
    """
    from dagster import DagsterInstance

    from hfassets.slurm.coordinator import DrainableRunCoordinator, begin_drain, drain_file, end_drain
    from hfassets.slurm.draining import wait_for_local_runs

    with DagsterInstance.from_config(str(places.home)) as instance:
        ours = isinstance(instance.run_coordinator, DrainableRunCoordinator) and not drain_file(instance).exists()
        if ours:
            begin_drain(instance, "hfassets upgrade")
        try:
            left = wait_for_local_runs(instance, timeout, say)
            if left:
                raise HfassetsError(
                    f"{len(left)} runs did not end in {timeout:.0f} s: {', '.join(left[:5])}; nothing was changed"
                )
            yield
        finally:
            if ours:
                end_drain(instance)


def back_up(places: Places) -> Path | None:
    """A dump of the service's own database, named by the time; None where storage is elsewhere."""
    folder = own_database(read_config(places))
    if folder is None:
        return None
    to = places.backups / f"{time.strftime('%Y%m%d-%H%M%S')}.dump"
    OwnPostgres(folder).back_up(to)
    return to


def migrate(places: Places) -> None:
    """Bring Dagster's tables to the schema of the version that is installed."""
    from dagster import DagsterInstance

    with DagsterInstance.from_config(str(places.home)) as instance:
        instance.upgrade()
