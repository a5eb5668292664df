"""SLURM's job states: which of them wait, run or have ended, and what an ending means in words. Pure.

Invariant: a state that this module does not know has not ended; nothing is concluded from a word of a newer SLURM.
Source: squeue(1) and sacct(1), JOB STATE CODES.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

SIGKILL = 9


class JobState(Enum):
    """The extended name of a state, as `squeue -o %T` and sacct print it."""

    PENDING = "PENDING"
    REQUEUED = "REQUEUED"
    REQUEUE_HOLD = "REQUEUE_HOLD"
    REQUEUE_FED = "REQUEUE_FED"
    SPECIAL_EXIT = "SPECIAL_EXIT"
    RESV_DEL_HOLD = "RESV_DEL_HOLD"
    CONFIGURING = "CONFIGURING"
    RUNNING = "RUNNING"
    COMPLETING = "COMPLETING"
    RESIZING = "RESIZING"
    SIGNALING = "SIGNALING"
    STAGE_OUT = "STAGE_OUT"
    STOPPED = "STOPPED"
    SUSPENDED = "SUSPENDED"
    BOOT_FAIL = "BOOT_FAIL"
    CANCELLED = "CANCELLED"
    COMPLETED = "COMPLETED"
    DEADLINE = "DEADLINE"
    FAILED = "FAILED"
    NODE_FAIL = "NODE_FAIL"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    PREEMPTED = "PREEMPTED"
    REVOKED = "REVOKED"
    TIMEOUT = "TIMEOUT"
    UNKNOWN = "UNKNOWN"

    @property
    def pending(self) -> bool:
        """Waits in the queue, or back in it."""
        return self in _PENDING

    @property
    def ended(self) -> bool:
        """Will not run again."""
        return self in _ENDED

    @classmethod
    def ends(cls, name: str | None) -> bool:
        """Whether `name` is that of a state in which a job will not run again."""
        return name in cls.__members__ and cls[str(name)].ended


_PENDING = frozenset(
    {
        *(JobState.PENDING, JobState.REQUEUED, JobState.REQUEUE_HOLD, JobState.REQUEUE_FED),
        *(JobState.SPECIAL_EXIT, JobState.RESV_DEL_HOLD),
    }
)
_ENDED = frozenset(
    {
        *(JobState.BOOT_FAIL, JobState.CANCELLED, JobState.COMPLETED, JobState.DEADLINE, JobState.FAILED),
        *(JobState.NODE_FAIL, JobState.OUT_OF_MEMORY, JobState.PREEMPTED, JobState.REVOKED, JobState.TIMEOUT),
    }
)


@dataclass(frozen=True, slots=True)
class JobDetail:
    """One job as `scontrol show job` and, where there is accounting, sacct tell it; None = not known.

    `signal`: the one that ended the batch process. `nodes` is a host list expression. Times in s, memory in bytes.
    """

    job_id: str
    state: JobState
    reason: str = ""
    exit_code: int | None = None
    signal: int | None = None
    nodes: str = ""
    elapsed_s: float | None = None
    limit_s: float | None = None
    restarts: int = 0
    max_rss_bytes: int | None = None
    memory_bytes: int | None = None
    cancelled_by: str | None = None
    stderr: str = ""


def parse_state(text: str) -> tuple[JobState, str | None]:
    """(state, who) from texts like `RUNNING`, `CANCELLED by 1000`, `CANCELLED+`; who is a user id."""
    word, _, rest = text.strip().partition(" ")
    by = rest.removeprefix("by ").strip() if rest.startswith("by ") else None
    try:
        return JobState(word.rstrip("+").upper()), by
    except ValueError:
        return JobState.UNKNOWN, by


# What slurmstepd, the kernel and container runtimes write when memory was exceeded: with jobacct_gather's
# OverMemoryKill the state is then FAILED (JobLaunchFailure, 0:9), not OUT_OF_MEMORY.
_MEMORY_WORDS = re.compile(r"exceeded (job )?memory limit|oom[-_ ]kill|out[ _-]of[ _-]memory", re.IGNORECASE)


def memory_exceeded(detail: JobDetail, stderr: str) -> bool:
    """Whether a job ended because it used more memory than it had asked for."""
    if detail.state == JobState.OUT_OF_MEMORY:
        return True
    killed = detail.signal == SIGKILL or detail.exit_code == 128 + SIGKILL
    return detail.state == JobState.FAILED and killed and _MEMORY_WORDS.search(stderr) is not None


def explain(detail: JobDetail, stderr: str = "") -> str:
    """What happened to an ended job and what would help: one line. `stderr`: the last of what it wrote there."""
    if memory_exceeded(detail, stderr):
        return _memory(detail)
    words = _ENDINGS.get(detail.state)
    return words(detail) if words else f"it is {detail.state.value}{_where(detail)}"


def _timeout(detail: JobDetail) -> str:
    limit = f" of {clock(detail.limit_s)}" if detail.limit_s else ""
    return f"TIMEOUT: it reached its time limit{limit}{_where(detail)}; ask for more with slurm/time"


def _memory(detail: JobDetail) -> str:
    limit = f" of {detail.memory_bytes / 1024**2:,.0f} MiB" if detail.memory_bytes else ""
    peak = f" (peak {detail.max_rss_bytes / 1024**2:,.0f} MiB)" if detail.max_rss_bytes else ""
    where = f"{limit}{peak}{_where(detail)}"
    return f"OUT_OF_MEMORY: it used more memory than its limit{where}; ask for more with slurm/memory"


def _cancelled(detail: JobDetail) -> str:
    by = f" by {detail.cancelled_by}" if detail.cancelled_by else " (SLURM does not say by whom)"
    why = f", reason {detail.reason}" if detail.reason not in ("", "None") else ""
    return f"CANCELLED{by}{why}{_where(detail)}; launch the run again to go on"


def _failed(detail: JobDetail) -> str:
    reason = f", reason {detail.reason}" if detail.reason not in ("", "None", "NonZeroExitCode") else ""
    if detail.signal:
        hint = "; SIGKILL is often memory: compare slurm/memory" if detail.signal == SIGKILL else ""
        return f"FAILED: its worker was ended by signal {detail.signal}{reason}{_where(detail)}{hint}"
    return f"FAILED: its worker ended with exit code {detail.exit_code}{reason}{_where(detail)}; see its stderr"


_ENDINGS: dict[JobState, Callable[[JobDetail], str]] = {
    JobState.TIMEOUT: _timeout,
    JobState.OUT_OF_MEMORY: _memory,
    JobState.CANCELLED: _cancelled,
    JobState.FAILED: _failed,
    JobState.NODE_FAIL: lambda detail: f"NODE_FAIL: its node failed{_where(detail)}; that node is left out next time",
    JobState.BOOT_FAIL: lambda detail: (
        f"BOOT_FAIL: its node did not start{_where(detail)}; that node is left out next time"
    ),
    JobState.PREEMPTED: lambda detail: (
        f"PREEMPTED by a job of higher priority{_where(detail)}; slurm/requeue: true or another slurm/qos would help"
    ),
    JobState.DEADLINE: lambda detail: (
        f"DEADLINE: it could not end before its deadline{_where(detail)}; ask for less with slurm/time"
    ),
    JobState.REVOKED: lambda detail: f"REVOKED: another cluster of the federation took it{_where(detail)}",
}


def _where(detail: JobDetail) -> str:
    ran = f" after {clock(detail.elapsed_s)}" if detail.elapsed_s else ""
    return f" on {detail.nodes}{ran}" if detail.nodes else ran


def clock(seconds: float) -> str:
    """12:34:56, or 2-12:34:56 from a day on, as SLURM writes times."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{f'{days}-' if days else ''}{hours:02}:{minutes:02}:{rest:02}"


def parse_clock(text: str) -> float | None:
    """Seconds from `[days-][hours:]minutes:seconds`; None for UNLIMITED, N/A and the like."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)(?:\.\d+)?", text.strip())
    if not found:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
