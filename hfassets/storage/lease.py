"""Leases: one writer an output, by an O_EXCL file with a heartbeat.

A lease saves work; correctness never rests on it (publication is atomic and deterministic). It is stale when its
process is gone from this machine, or when its heartbeat, from whatever machine, is older than `STALE_AFTER` seconds.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import IO

import orjson

from hfassets.errors import LeaseHeldError
from hfassets.storage.atomic import temporary_beside

HEARTBEAT_EVERY = 15.0
STALE_AFTER = 120.0
POLL_EVERY = 0.2


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease.

    `machine` says where `pid` means anything; `process_started` (clock ticks since boot) tells a recycled pid from the
    holder.
    """

    host: str
    machine: str
    pid: int
    process_started: int
    run_id: str
    nonce: str

    def __str__(self) -> str:
        run = f", run {self.run_id}" if self.run_id else ""
        return f"process {self.pid} on {self.host}{run}" if self.pid else f"a process on {self.host}"


# What is read from a lease that was created and not yet written, or cut by a crash: only its heartbeat can tell.
UNREADABLE = Holder("an unknown host", "", 0, 0, "", "")


@contextmanager
def lease(
    path: Path, what: str, *, run_id: str = "", wait: float = 0.0, on_wait: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold the lease at `path` for the body; `what` names the output for people.

    Waits up to `wait` seconds for another holder, then raises LeaseHeldError naming it; for a holder of the same run,
    which is most likely its dead worker on another host, at least until its lease must be stale. `on_wait` gets one
    line for people when the waiting begins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pid = os.getpid()
    mine = Holder(socket.gethostname(), _machine(), pid, process_started(pid), run_id, os.urandom(8).hex())
    _acquire(path, mine, what, wait, on_wait)
    stop = threading.Event()
    beat = threading.Thread(target=_heartbeat, args=(path, stop), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        with _locked(path, mine) as held:
            if held:
                path.unlink()


def _acquire(path: Path, mine: Holder, what: str, wait: float, on_wait: Callable[[str], None] | None) -> None:
    begun = time.monotonic()
    said: Holder | None = None
    while True:
        try:
            with path.open("xb") as file:
                file.write(orjson.dumps(asdict(mine)))
            return
        except FileExistsError:
            holder = _read(path)
        if holder is None:
            continue
        if _is_stale(path, holder):
            if _take_over(path, holder, mine):
                return
            continue
        patience = max(wait, STALE_AFTER + HEARTBEAT_EVERY) if mine.run_id and holder.run_id == mine.run_id else wait
        if time.monotonic() - begun >= patience:
            raise LeaseHeldError(f"{what} is being written by {holder}; wait for it or stop it")
        if on_wait is not None and holder != said:
            on_wait(f"{what} is being written by {holder}; waiting for it")
            said = holder
        time.sleep(POLL_EVERY)


def _take_over(path: Path, stale: Holder, mine: Holder) -> bool:
    """Replace a stale lease by ours in one step, so that of several takers exactly one has it."""
    with _locked(path, stale) as held:
        if not held:
            return False
        temporary = temporary_beside(path)
        try:
            temporary.write_bytes(orjson.dumps(asdict(mine)))
            temporary.replace(path)
        except PermissionError:
            temporary.unlink(missing_ok=True)
            raise LeaseHeldError(f"{path} was left by {stale} and you may not remove it; ask its owner to") from None
        return True


@contextmanager
def _locked(path: Path, holder: Holder) -> Iterator[bool]:
    """Whether the lease at `path` is `holder`'s, and stays so for the body: whoever changes it comes through here."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        yield False
        return
    with file:
        # Some network file systems have no flock, or not for a file open for reading: the lease then still saves work.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield _is_at(file, path) and _parse(file.read()) == holder


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _read(path: Path) -> Holder | None:
    try:
        return _parse(path.read_bytes())
    except FileNotFoundError:
        return None


def _parse(data: bytes) -> Holder:
    try:
        return Holder(**orjson.loads(data))
    except (ValueError, TypeError):
        return UNREADABLE


def _is_stale(path: Path, holder: Holder) -> bool:
    if holder.pid and holder.machine == _machine() and process_started(holder.pid) != holder.process_started:
        return True
    try:
        beat = path.stat().st_mtime
        # Only when this host's clock says so is the file server's asked, which set the time of the heartbeat.
        return time.time() - beat > STALE_AFTER and _file_system_now(path) - beat > STALE_AFTER
    except FileNotFoundError:
        return False


def _file_system_now(path: Path) -> float:
    probe = temporary_beside(path)
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


@cache
def _machine() -> str:
    """Boot and process namespace: two processes that share them see each other in /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return socket.gethostname()


def process_started(pid: int) -> int:
    """Start time of a process, 0 when there is none; fields 3 (state) and 22 of /proc/<pid>/stat, see proc(5)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()
    # A killed process whose parent has not asked for it yet is a zombie: it writes nothing any more.
    return 0 if fields[0] in "ZX" else int(fields[19])


def _heartbeat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_EVERY):
        # A missed beat is no loss: the next one comes long before anybody may call the lease stale.
        with suppress(OSError):
            os.utime(path)
