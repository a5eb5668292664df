"""The queue as one snapshot for all processes of a user on a host: one squeue, however many ask and however often.

Invariant: at most one squeue a TTL, failed ones included, and everybody else reads its result from a file in a private
folder. An unreachable controller leaves the last snapshot standing, marked with the error: old news, never no jobs.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import orjson

from hfassets.slurm.client import Job, SlurmClient
from hfassets.slurm.errors import SlurmError
from hfassets.slurm.states import JobState

TTL = 10.0
FORMAT = 1


@dataclass(frozen=True)
class QueueSnapshot:
    """All jobs of the user at `taken_at` (Unix s). `error`: why there is none newer; then nothing may be concluded."""

    taken_at: float
    jobs: Mapping[str, Job]
    error: str | None = None

    @cached_property
    def by_comment(self) -> Mapping[str, tuple[Job, ...]]:
        """The jobs that carry a comment, by it."""
        found: dict[str, tuple[Job, ...]] = {}
        for job in self.jobs.values():
            if job.comment:
                found[job.comment] = (*found.get(job.comment, ()), job)
        return found


class SharedQueue:
    """Snapshots of the queue of one client, shared through `folder` (default: this user's private runtime folder)."""

    def __init__(self, client: SlurmClient, folder: Path | None = None, ttl_s: float = TTL) -> None:
        self._client = client
        self._ttl_s = ttl_s
        identity = f"{os.getuid()}\0{os.environ.get('SLURM_CONF', '')}\0{client.cluster or ''}"
        name = hashlib.sha256(identity.encode()).hexdigest()[:12]
        self._file = (folder or runtime_folder()) / f"squeue-{name}.json"
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._known = QueueSnapshot(0.0, {}, "the queue has not been asked yet")

    def snapshot(self, max_age_s: float | None = None) -> QueueSnapshot:
        """The queue, at most `max_age_s` seconds old (default: the TTL); older only with its `error` set.

        0 asks anew, unless another process does so right now: then its answer is ours.
        """
        age = self._ttl_s if max_age_s is None else max_age_s
        asked_at = time.time()
        with self._lock:
            found = self._read()
            if self._tried_at >= asked_at - age and self._tried_at <= asked_at:
                return found
            with self._exclusive():
                found = self._read()
                # Whoever held the lock before us began after we asked, or within the age: theirs is as good.
                if asked_at - age <= self._tried_at <= time.time():
                    return found
                return self._ask(found)

    def _ask(self, before: QueueSnapshot) -> QueueSnapshot:
        began = time.time()
        try:
            jobs = {job.job_id: job for job in self._client.jobs()}
            found = QueueSnapshot(began, jobs)
        except SlurmError as error:
            found = QueueSnapshot(before.taken_at, before.jobs, str(error))
        document = {
            "format": FORMAT,
            "tried_at": began,
            "taken_at": found.taken_at,
            "error": found.error,
            "jobs": [{**asdict(job), "state": job.state.value} for job in found.jobs.values()],
        }
        temporary = self._file.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_bytes(orjson.dumps(document))
        temporary.replace(self._file)
        self._remember(found, began)
        return found

    def _read(self) -> QueueSnapshot:
        """The snapshot in the file; parsed only when the file is another than last time."""
        try:
            at = self._file.stat()
        except FileNotFoundError:
            return self._known
        if (at.st_ino, at.st_mtime_ns, at.st_size) == self._seen:
            return self._known
        try:
            document = orjson.loads(self._file.read_bytes())
            if document["format"] == FORMAT:
                jobs = {item["job_id"]: Job(**{**item, "state": JobState(item["state"])}) for item in document["jobs"]}
                self._remember(QueueSnapshot(document["taken_at"], jobs, document["error"]), document["tried_at"])
        except (ValueError, KeyError, TypeError):
            # Not as we write it (another version, a full disk): the next question overwrites it.
            self._tried_at = 0.0
        return self._known

    def _remember(self, found: QueueSnapshot, tried_at: float) -> None:
        at = self._file.stat()
        self._seen = (at.st_ino, at.st_mtime_ns, at.st_size)
        self._known = found
        self._tried_at = tried_at

    _tried_at: float = 0.0

    def _exclusive(self) -> _Flock:
        return _Flock(self._file.with_suffix(".lock"))


class _Flock:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *exception: object) -> None:
        os.close(self._descriptor)


def runtime_folder() -> Path:
    """`$XDG_RUNTIME_DIR/slurm-dagster`, else `<tmp>/slurm-dagster-<uid>`: this user's alone, made when missing.

    Raises SlurmError when somebody else has taken the name.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    own = Path(base) / "slurm-dagster" if base else Path(tempfile.gettempdir()) / f"slurm-dagster-{os.getuid()}"
    try:
        own.mkdir(mode=0o700, exist_ok=True)
        found = own.lstat()
    except OSError as error:
        raise SlurmError(f"{own} cannot be made ({error.strerror}); set XDG_RUNTIME_DIR to a folder of yours") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise SlurmError(f"{own} is not yours alone; remove it, or set XDG_RUNTIME_DIR to a folder of yours")
    return own
