"""Leases: one writer an output, by an O_EXCL file with a heartbeat.

A lease saves work; correctness never rests on it (publication is atomic and deterministic). It is stale when its
process is gone from this host, or when its heartbeat, from any host, is older than `STALE_AFTER` seconds.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from hfassets.errors import LeaseHeldError

HEARTBEAT_EVERY = 15.0
STALE_AFTER = 120.0


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease. `process_started` (clock ticks since boot) tells a recycled pid from the holder."""

    host: str
    pid: int
    process_started: int
    run_id: str
    nonce: str

    def __str__(self) -> str:
        run = f", run {self.run_id}" if self.run_id else ""
        return f"process {self.pid} on {self.host}{run}"


def _process_started(pid: int) -> int:
    """Start time of a process from /proc/<pid>/stat, 0 when there is no such process (field 22 of proc(5))."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[19])


def _read(path: Path) -> Holder | None:
    try:
        return Holder(**orjson.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        # Created and not yet written, or cut by a crash: only its heartbeat can tell.
        return Holder("an unknown host", 0, 0, "", "")


def _is_stale(path: Path, holder: Holder) -> bool:
    if holder.host == socket.gethostname() and holder.pid:
        return _process_started(holder.pid) != holder.process_started
    try:
        return time.time() - path.stat().st_mtime > STALE_AFTER
    except FileNotFoundError:
        return True


def _take_over(path: Path, holder: Holder) -> None:
    """Move a stale lease aside, so that of several takers only one removes the file it judged."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.stale")
    with suppress(FileNotFoundError):
        path.rename(aside)
        judged = _read(aside)
        if judged != holder:  # somebody took it over in between: give it back
            with suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()


@contextmanager
def lease(path: Path, what: str, *, run_id: str = "", wait: float = 0.0) -> Iterator[None]:
    """Hold the lease at `path` for the body; `what` names the output for people.

    Waits up to `wait` seconds for another holder, then raises LeaseHeldError naming it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = Holder(socket.gethostname(), os.getpid(), _process_started(os.getpid()), run_id, secrets.token_hex(8))
    deadline = time.monotonic() + wait
    while True:
        try:
            with path.open("xb") as file:
                file.write(orjson.dumps(asdict(mine)))
            break
        except FileExistsError:
            holder = _read(path)
            if holder is None:
                continue
            if _is_stale(path, holder):
                _take_over(path, holder)
                continue
            if time.monotonic() >= deadline:
                raise LeaseHeldError(f"{what} is being written by {holder}; wait for it or stop it") from None
            time.sleep(0.2)
    stop = threading.Event()
    beat = threading.Thread(target=_heartbeat, args=(path, stop), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        current = _read(path)
        if current is not None and current.nonce == mine.nonce:
            with suppress(FileNotFoundError):
                path.unlink()


def _heartbeat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_EVERY):
        with suppress(OSError):
            os.utime(path)
