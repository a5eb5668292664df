"""Dagster's side of a deployment: home, database, pools, daemon. Dagster's by nature.

Invariant: nothing is changed unless asked, and then only what is not set at all: what somebody chose stays.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dagster import DagsterInstance
from dagster._core.storage.runs import SqliteRunStorage
from dagster._daemon.types import DaemonHeartbeat

from hfassets.doctor.finding import Finding, fixed, note, ok, problem, warning
from hfassets.doctor.places import FileSystem, file_system
from hfassets.slurm.coordinator import drain_file
from hfassets.slurm.launcher import SlurmRunLauncher, monitoring_problem

# Daemons beat every 30 s (DEFAULT_HEARTBEAT_INTERVAL_SECONDS in dagster._daemon.controller).
FRESH_HEARTBEAT = 120.0
SLOW_DATABASE = 0.5
POOLS = {"hub": 4, "local": 4, "heavy": 4}
HEAVY_AS_JOBS = 1000
"""Heavy runs that are SLURM jobs wait in SLURM's queue, which is better at it than Dagster's."""


def examine_home(home: Path, kind: FileSystem, *, sqlite: bool, slurm: bool) -> Iterator[Finding]:
    """Whether Dagster's database may lie where it does."""
    topic = f"DAGSTER_HOME {home}"
    if sqlite and kind.network:
        yield problem(
            topic,
            f"its SQLite database is on {kind.kind}, a network file system: its locks do not hold between hosts, and it"
            " will be damaged",
            "use Postgres (slurm/dagster.slurm.yaml), or move DAGSTER_HOME to a local disk",
        )
    elif sqlite and slurm:
        yield note(
            topic,
            f"SQLite on {kind.kind}: enough while compute nodes are this very host",
            "with other nodes use Postgres: slurm/dagster.slurm.yaml",
        )
    else:
        yield ok(topic, f"{'SQLite' if sqlite else 'a database server'}, home on {kind.kind}")


def examine_instance(instance: DagsterInstance, *, fix: bool) -> Iterator[Finding]:
    """Database, launcher, monitoring, pools, daemon, drain."""
    home = Path(instance.root_directory)
    slurm = isinstance(instance.run_launcher, SlurmRunLauncher)
    yield from examine_home(home, file_system(home), sqlite=uses_sqlite(instance), slurm=slurm)
    begun = time.monotonic()
    instance.get_runs_count()
    took = time.monotonic() - begun
    if took > SLOW_DATABASE:
        yield warning("database", f"answers in {took:.1f} s", "each event of a run is a write: bring it nearer")
    else:
        yield ok("database", f"answers in {took * 1000:.0f} ms")
    if slurm:
        wrong = monitoring_problem(instance)
        advice = "see slurm/dagster.slurm.yaml"
        yield problem("run_monitoring", wrong, advice) if wrong else ok("run_monitoring", "fits")
    yield from examine_pools(instance, slurm=slurm, fix=fix)
    yield from examine_heartbeats(list(instance.get_daemon_heartbeats().values()), time.time())
    processes = daemon_processes(home)
    if len(processes) > 1:
        pids = ", ".join(str(pid) for pid in processes)
        yield problem("daemon", f"{len(processes)} run on this host for this home (pids {pids})", "stop all but one")
    if drain_file(instance).exists():
        yield note("queue", "drained: no queued run is started", "`hfassets slurm drain --end` starts them again")


def uses_sqlite(instance: DagsterInstance) -> bool:
    """Whether runs are kept in a SQLite file."""
    return isinstance(instance.run_storage, SqliteRunStorage)


def examine_pools(instance: DagsterInstance, *, slurm: bool, fix: bool) -> Iterator[Finding]:
    """Whether the limits of our pools are set; unset ones would get Dagster's default."""
    storage = instance.event_log_storage
    wanted = {**POOLS, "heavy": HEAVY_AS_JOBS} if slurm else POOLS
    limits = {limit.name: limit.limit for limit in storage.get_pool_limits() if not limit.from_default}
    for name, limit in wanted.items():
        topic = f"pool {name}"
        if name in limits:
            yield ok(topic, f"{limits[name]} runs at once")
        elif fix:
            storage.set_concurrency_slots(name, limit)
            yield fixed(topic, f"{limit} runs at once")
        else:
            yield problem(topic, "its limit is not set", f"`hfassets doctor --fix` makes it {limit}")


def examine_heartbeats(beats: Sequence[DaemonHeartbeat], now: float) -> Iterator[Finding]:
    """Whether a daemon is alive, without errors, and the only one: one daemon has one id for all that it does."""
    fresh = [beat for beat in beats if now - beat.timestamp < FRESH_HEARTBEAT]
    if not fresh:
        newest = max((beat.timestamp for beat in beats), default=None)
        when = "has ever beaten" if newest is None else f"has beaten for {(now - newest) / 60:.0f} min"
        yield warning("daemon", f"none {when}: queued runs do not start, sensors do not tick", "start dagster-daemon")
        return
    ids = {beat.daemon_id for beat in fresh}
    if len(ids) > 1:
        yield problem(
            "daemon",
            f"{len(ids)} send heartbeats to this database: they would start runs and tick sensors twice",
            "stop all but one (after a restart wait two minutes and look again)",
        )
        return
    said = {error.message.strip().splitlines()[0]: beat for beat in fresh for error in beat.errors or ()}
    for text, beat in said.items():
        yield problem("daemon", f"{beat.daemon_type} says: {text[:200]}", "see the daemon's log")
    if not said:
        yield ok("daemon", f"{len(fresh)} parts of it beat, the last {now - max(b.timestamp for b in fresh):.0f} s ago")


def daemon_processes(home: Path, proc: Path = Path("/proc")) -> list[int]:
    """Pids of this user's daemons for `home` on this host."""
    found = []
    for folder in proc.iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        is_daemon = b"dagster._daemon" in words or any(word.rpartition(b"/")[2] == b"dagster-daemon" for word in words)
        if is_daemon and b"run" in words and b"DAGSTER_HOME=" + os.fsencode(home) in variables:
            found.append(int(folder.name))
    return sorted(found)


def environment_problem(environment: Mapping[str, str]) -> Finding | None:
    """What is wrong with DAGSTER_HOME itself."""
    home = environment.get("DAGSTER_HOME")
    if not home:
        return problem("DAGSTER_HOME", "is not set", "export DAGSTER_HOME=/a/folder/of/yours with dagster.yaml in it")
    if not Path(home).is_absolute():
        return problem("DAGSTER_HOME", f"{home} is not absolute", "name it from the root")
    if not Path(home).is_dir():
        return problem("DAGSTER_HOME", f"{home} is no folder", f"mkdir -p {home}, and put dagster.yaml there")
    return None
