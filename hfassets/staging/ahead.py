"""A target is listed while its source is: the two of 100,000 files take a second one after the other.

Invariant: the listing is made by a process of its own, which ends with this one; where it cannot be had, nobody waits.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import xxhash

from hfassets.staging.tree import files_below


class TargetListing:
    """What lies in a target, as one mark."""

    def __init__(self, target: Path) -> None:
        self._connection: Connection | None = None
        # A process that has threads is not forked: what they hold would stay held.
        if target.is_dir() and threading.active_count() == 1:
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


def listing_mark(files: Iterable[tuple[str, int, int]]) -> str:
    """What tells these files (path, bytes, modification time in ns) from others; raises nothing for any path."""
    listed = "\0".join([f"{size} {mtime_ns} {path}" for path, size, mtime_ns in sorted(files)])
    return xxhash.xxh3_128_hexdigest(listed.encode("utf-8", "surrogateescape"))


def _send(target: str, sending: Connection) -> None:
    try:
        found = files_below(Path(target))
        sending.send(listing_mark((path, *about) for path, about in found.items()))
    except OSError:
        sending.send("")
