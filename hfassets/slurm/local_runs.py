"""The health of runs that are no jobs: their worker is a child of a code server on this host. Dagster's by nature.

Invariant: a local run is dead only after its server has missed three answers in a row; then its process, which may have
outlived the server, is ended before the run is failed, so that nothing goes on writing for a run that is over.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
from dagster import DagsterEventType, DagsterInstance, DagsterRun
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import deserialize_value

MISSES = 3
# A worker says that it has started within this many seconds of its process's start.
START_SPREAD = 300.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class LocalRuns:
    """Counts the missed answers of the servers of local runs, one object a process."""

    def __init__(self, instance: DagsterInstance) -> None:
        self._instance = instance
        self._missed: dict[str, int] = {}

    def check(self, run: DagsterRun) -> CheckRunHealthResult:
        """RUNNING always: a local run cannot be resumed, so a dead one is failed here and now."""
        if _server_knows(run):
            self._missed.pop(run.run_id, None)
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        missed = self._missed[run.run_id] = self._missed.get(run.run_id, 0) + 1
        if missed < MISSES:
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"its code server has missed {missed} answers")
        del self._missed[run.run_id]
        fresh = self._instance.get_run_by_id(run.run_id)
        if fresh is not None and not fresh.is_finished:
            ended = _end_worker(self._instance, run)
            self._instance.report_run_failed(
                fresh,
                f"The code server that ran this on {socket.gethostname()} is gone or was restarted"
                f" (no answer {MISSES} times); {ended}. Launch the run again: it goes on where it stopped.",
            )
        return CheckRunHealthResult(WorkerStatus.RUNNING, "failed: its code server is gone")


def _info(run: DagsterRun) -> dict[str, Any] | None:
    try:
        document = orjson.loads(run.tags.get(GRPC_INFO_TAG, ""))
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _server_knows(run: DagsterRun) -> bool:
    """Whether the run's server answers that the run's process is its child and lives."""
    info = _info(run)
    if info is None:
        return False
    client = DagsterGrpcClient(
        port=info.get("port"),
        socket=info.get("socket"),
        host=info.get("host") or "localhost",
        use_ssl=bool(info.get("use_ssl", False)),
    )
    try:
        answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run.run_id), timeout=5)
    except DagsterUserCodeUnreachableError:
        return False
    return deserialize_value(answer, CanCancelExecutionResult).can_cancel


def _end_worker(instance: DagsterInstance, run: DagsterRun) -> str:
    """End the recorded process if it is on this host and still that one; what was done, for people."""
    events = instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT)
    started = [
        (int(str(entry.value)), event.timestamp)
        for event in events
        if event.dagster_event is not None and "Started process for run" in (event.dagster_event.message or "")
        for name, entry in event.dagster_event.engine_event_data.metadata.items()
        if name == "pid" and str(entry.value).isdecimal()
    ]
    info = _info(run) or {}
    here = bool(info.get("socket")) or info.get("host") in (*LOOPBACK, socket.gethostname())
    if not started or not here:
        return "where its process was is not known"
    pid, said_at = started[-1]
    created = _created(pid)
    if created is None or not said_at - START_SPREAD < created <= said_at + 2:
        return f"its process {pid} is gone too"
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 10
    while _created(pid) == created and time.monotonic() < deadline:
        time.sleep(0.1)
    if _created(pid) == created:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return f"its process {pid} lived on and was ended"


def _created(pid: int) -> float | None:
    """When a process started, Unix seconds; None when there is none, or a zombie (proc(5): stat fields 3 and 22)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
    except OSError:
        return None
    if fields[0] in "ZX":
        return None
    return int(boot.split()[1]) + int(fields[19]) / os.sysconf("SC_CLK_TCK")
