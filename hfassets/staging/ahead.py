"""A target is listed while its source is: the two of 100,000 files take a second one after the other.

Invariant: the listing is made by a process of its own, which ends with this one; where it cannot be had, nobody waits.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from hfassets.staging.tree import files_below, listing_mark

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


class TargetListing:
    """What lies in a target, as one mark."""

    def __init__(self, target: Path) -> None:
        self._connection: Connection | None = None
        # A process that has threads is not forked: what they hold would stay held.
        if target.is_dir() and threading.active_count() == 1:
            from multiprocessing import get_context

            context = get_context("fork")
            self._connection, sending = context.Pipe(duplex=False)
            context.Process(target=_send, args=(str(target), sending), daemon=True).start()
            sending.close()

    def mark(self) -> str:
        """As `listing_mark` has it; "" where it was not made."""
        if self._connection is None:
            return ""
        try:
            return str(self._connection.recv())
        except (EOFError, OSError):
            return ""


def _send(target: str, sending: Connection) -> None:
    try:
        found = files_below(Path(target))
        sending.send(listing_mark((path, *about) for path, about in found.items()))
    except OSError:
        sending.send("")
