"""What is on disk about the jobs of a run: one folder an attempt, written before anything is submitted.

Invariant: every file is written whole, by one writer, and never changed but by replacement. `intent.json` is there
before the first sbatch of an attempt, so that whatever a crash leaves can be told apart by looking: submitted (a job
with the attempt's comment exists), or not. At most one worker of a run works at a time: it holds the run's claim, and
whoever finds another's newer claim ends itself.

    <folder>/runs/<run id>/<attempt>/{intent.json,job.sh,tried,end.json,stdout.log,stderr.log}
    <folder>/runs/<run id>/{claim.json,beats/<token>}
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from hfassets.slurm.errors import SlurmError

COMMENT_PREFIX = "dagster:"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Intent:
    """One attempt to have a run worked on by a job. `exclude`: nodes that failed earlier attempts of the run.

    `directives` are the script's `#SBATCH` options, for people. Times are Unix seconds.
    """

    run_id: str
    attempt: int
    comment: str
    name: str
    cluster: str | None
    created_at: float
    directives: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt's job ended. `resume`: the same work may go on in a new job. `nodes`: those that failed it."""

    job_id: str
    state: str
    message: str
    resume: bool
    at: float
    nodes: tuple[str, ...] = ()


def job_comment(storage_id: str, run_id: str, attempt: int) -> str:
    """The comment by which a job is known: jobs of another Dagster instance have another storage id."""
    return f"{COMMENT_PREFIX}{storage_id}:{run_id}:{attempt}"


def parse_comment(comment: str, storage_id: str) -> tuple[str, int] | None:
    """(run id, attempt) of a job of this instance; None for every other job."""
    prefix = f"{COMMENT_PREFIX}{storage_id}:"
    if not comment.startswith(prefix):
        return None
    run_id, _, attempt = comment.removeprefix(prefix).rpartition(":")
    return (run_id, int(attempt)) if _NAME.fullmatch(run_id) and attempt.isdecimal() else None


class Attempts:
    """The attempts of all runs below one folder, which the compute nodes see too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run_folder(self, run_id: str) -> Path:
        """Where everything about a run's jobs is. Raises SlurmError for an id that cannot name a folder."""
        if not _NAME.fullmatch(run_id):
            raise SlurmError(f"{run_id!r} is no run id")
        return self.folder / "runs" / run_id

    def attempt_folder(self, run_id: str, attempt: int) -> Path:
        """Where one attempt's files are."""
        return self.run_folder(run_id) / str(attempt)

    def script(self, run_id: str, attempt: int) -> Path:
        """The batch script as submitted."""
        return self.attempt_folder(run_id, attempt) / "job.sh"

    def stdout(self, run_id: str, attempt: int) -> Path:
        """What the job writes to stdout."""
        return self.attempt_folder(run_id, attempt) / "stdout.log"

    def stderr(self, run_id: str, attempt: int) -> Path:
        """What the job writes to stderr."""
        return self.attempt_folder(run_id, attempt) / "stderr.log"

    def record_intent(self, intent: Intent, script: str) -> None:
        """Say what is about to be submitted; the script is complete before the intent is there."""
        folder = self.attempt_folder(intent.run_id, intent.attempt)
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "job.sh", script.encode())
        _write(folder / "intent.json", orjson.dumps(asdict(intent)))

    def intent(self, run_id: str, attempt: int) -> Intent | None:
        """What was to be submitted; None when there is no such attempt."""
        document = _read(self.attempt_folder(run_id, attempt) / "intent.json")
        if document is None:
            return None
        lists = {name: tuple(document.get(name, ())) for name in ("directives", "exclude")}
        return Intent(**{**document, **lists})

    def latest(self, run_id: str) -> Intent | None:
        """The newest attempt of a run."""
        numbers = self._numbers(run_id)
        return self.intent(run_id, numbers[-1]) if numbers else None

    def record_tried(self, run_id: str, attempt: int) -> None:
        """Say that a submission begins now: nobody else is to submit this attempt for a while."""
        (self.attempt_folder(run_id, attempt) / "tried").touch()

    def tried_at(self, run_id: str, attempt: int) -> float:
        """When its submission was last begun, Unix seconds; 0 = never."""
        try:
            return (self.attempt_folder(run_id, attempt) / "tried").stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def record_end(self, run_id: str, attempt: int, end: End) -> None:
        """Keep how the job of an attempt ended."""
        _write(self.attempt_folder(run_id, attempt) / "end.json", orjson.dumps(asdict(end)))

    def end(self, run_id: str, attempt: int) -> End | None:
        """How the job of an attempt ended, when that is known."""
        document = _read(self.attempt_folder(run_id, attempt) / "end.json")
        return None if document is None else End(**{**document, "nodes": tuple(document.get("nodes", ()))})

    def failed_nodes(self, run_id: str) -> tuple[str, ...]:
        """Nodes that failed an earlier attempt of the run."""
        ends = [self.end(run_id, number) for number in self._numbers(run_id)]
        return tuple(sorted({node for end in ends if end for node in end.nodes}))

    def _numbers(self, run_id: str) -> list[int]:
        try:
            names = [path.name for path in self.run_folder(run_id).iterdir()]
        except FileNotFoundError:
            return []
        numbers = sorted(int(name) for name in names if name.isdecimal())
        return [number for number in numbers if (self.attempt_folder(run_id, number) / "intent.json").exists()]


@dataclass(frozen=True, slots=True)
class Claim:
    """Who works on a run: an attempt's job in its `restart`-th life (SLURM_RESTART_COUNT)."""

    attempt: int
    job_id: str
    restart: int
    host: str
    token: str

    def __str__(self) -> str:
        again = f", restart {self.restart}" if self.restart else ""
        return f"job {self.job_id} (attempt {self.attempt}{again}) on {self.host}"

    def supersedes(self, other: Claim) -> bool:
        """Whether this is a later life of the run than the other: a duplicate of one attempt never is."""
        if self.attempt != other.attempt:
            return self.attempt > other.attempt
        return self.job_id == other.job_id and self.restart > other.restart


class ClaimFolder:
    """The claim on one run. Ages are taken from the file system's own clock, which all nodes share."""

    BEAT_EVERY = 5.0
    STALE_AFTER = 30.0

    def __init__(self, run_folder: Path) -> None:
        self._file = run_folder / "claim.json"
        self._beats = run_folder / "beats"

    def current(self) -> Claim | None:
        """Who claimed the run last."""
        document = _read(self._file)
        return None if document is None else Claim(**document)

    def make(self, attempt: int, job_id: str, restart: int, host: str) -> Claim:
        """A claim of one's own, not yet entered."""
        return Claim(attempt, job_id, restart, host, secrets.token_hex(8))

    def enter(self, claim: Claim) -> None:
        """Make the claim the run's: whoever held it before will see and end."""
        self._beats.mkdir(parents=True, exist_ok=True)
        self.beat(claim)
        _write(self._file, orjson.dumps(asdict(claim)))

    def beat(self, claim: Claim) -> None:
        """Say that the claim's worker lives."""
        (self._beats / claim.token).touch()

    def release(self, claim: Claim) -> None:
        """Say that the claim's worker writes nothing any more."""
        (self._beats / claim.token).unlink(missing_ok=True)

    def alive(self, claim: Claim) -> bool:
        """Whether the claim's worker has not released it and beat not long ago."""
        probe = self._beats / f"probe-{secrets.token_hex(8)}"
        try:
            beat = (self._beats / claim.token).stat().st_mtime
            probe.touch()
            return probe.stat().st_mtime - beat < self.STALE_AFTER
        except FileNotFoundError:
            return False
        finally:
            probe.unlink(missing_ok=True)


def tail(file: Path, lines: int = 20, most: int = 16_384) -> str:
    """The last lines of a log, at most `most` bytes; empty when there is none."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - most))
            text = stream.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(_printable(text.splitlines()[-lines:]))


def _printable(lines: Sequence[str]) -> list[str]:
    return ["".join(letter if letter.isprintable() else " " for letter in line).rstrip() for line in lines]


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object; None when there is no file, or one that is not an object (a disk that was full)."""
    try:
        document = orjson.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return document if isinstance(document, dict) else None
