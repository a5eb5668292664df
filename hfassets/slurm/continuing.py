"""A command in a batch job that goes on in another job when its own ends before it: by time, by a lost node.

Invariant: the next job is in the queue before the command begins, held by `afterany`, so that whatever ends this one,
`kill -9` and a dead node included, work goes on. It is cancelled when the command has come to its own end, good or bad,
and when somebody cancels this job. There is one next job, however often this one is put back into the queue.
"""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from hfassets.slurm.client import SlurmClient
from hfassets.slurm.errors import SlurmError
from hfassets.slurm.states import JobState, parse_clock

NUMBER = "HFASSETS_JOB_NUMBER"
"""Variable with the number of the job in its row, from 1."""
COMMENT = "hfassets:next"
UNFINISHED = 75
"""EX_TEMPFAIL of sysexits.h: a command says that it was cut off."""
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
# What `scontrol show job` calls what sbatch calls otherwise: options may have come from sbatch's command line.
_SHOWN = {
    "Partition": "partition",
    "TimeLimit": "time",
    "Account": "account",
    "QOS": "qos",
    "JobName": "job-name",
    "CPUs/Task": "cpus-per-task",
    "MinMemoryNode": "mem",
    "MinMemoryCPU": "mem-per-cpu",
    "Features": "constraint",
    "Reservation": "reservation",
}
# A command that was killed from outside, by SLURM or for its memory, has not come to its own end.
_KILLED = frozenset(128 + number for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP))
_NOTHING = ("", "(null)", "N/A", "Unknown")
_DIRECTIVE = re.compile(r"#SBATCH\s.*")


def run_and_continue(
    command: Sequence[str],
    again: Sequence[str],
    *,
    at_most: int,
    client: SlurmClient,
    environment: Mapping[str, str],
    say: Callable[[str], None],
) -> int:
    """Run `command` in this job; its exit code (128 + signal if it died of one).

    `again`: the words that call this very function in the next job. Raises SlurmError outside of a batch job.
    """
    job = environment.get("SLURM_JOB_ID")
    if not job:
        raise SlurmError("there is no SLURM_JOB_ID: this is for the script of a batch job")
    number = int(environment.get(NUMBER) or 1)
    following = None
    with _Forwarder() as forwarder:
        if number < at_most:
            following = _next_job(client, job) or _submit(client, job, again, number + 1, environment)
            say(f"job {number} of at most {at_most}; job {following} goes on if this one ends too early")
        elif at_most > 1:
            say(f"job {number} of at most {at_most}: the last one")
        code = forwarder.run(command)
        # Still with its handlers: SLURM may say more than once that a job has to end.
        cut_off = code == UNFINISHED or (code != 0 and (forwarder.told_to_end or code in _KILLED))
        if following is not None and cut_off and not _was_cancelled(client, job):
            say(f"not done (exit code {code}); job {following} goes on")
        elif following is not None:
            client.cancel([following])
    return code


def next_script(
    shown: Mapping[str, str], written: str, again: Sequence[str], number: int, environment: Mapping[str, str]
) -> str:
    """The next job's script, of this one's: its directives, then what it really was given. Pure."""
    directives = [line.strip() for line in written.splitlines() if _DIRECTIVE.match(line.strip())]
    given = [
        f"#SBATCH --{option}={shown[name]}" for name, option in _SHOWN.items() if shown.get(name, "") not in _NOTHING
    ]
    if shown.get("TresPerNode", "").startswith("gres:"):
        given.append(f"#SBATCH --gres={shown['TresPerNode'].removeprefix('gres:')}")
    if shown.get("OverSubscribe") == "NO":
        given.append("#SBATCH --exclusive")
    # What this process's client set for its own sake is not for the job.
    own = [f"export LC_ALL={shlex.quote(environment['LC_ALL'])}" if "LC_ALL" in environment else "unset LC_ALL"]
    lines = [*directives, *given, *own, "unset SLURM_TIME_FORMAT", f"export {NUMBER}={number}"]
    return "\n".join(["#!/bin/bash", *lines, f"exec {shlex.join(again)}", ""])


def _submit(client: SlurmClient, job: str, again: Sequence[str], number: int, environment: Mapping[str, str]) -> str:
    script = next_script(client.shown(job), client.batch_script(job), again, number, environment)
    options = (f"--dependency=afterany:{job}", f"--comment={_comment(job)}", f"--chdir={Path.cwd()}")
    return client.submit(script, more=options)[0]


def _next_job(client: SlurmClient, job: str) -> str | None:
    """The one that an earlier life of this job has submitted."""
    return client.array_ids().get(_comment(job))


def _comment(job: str) -> str:
    return f"{COMMENT}:{job}"


class _Forwarder:
    """Hands the job's signals on to the command; one that comes before the command begins is its first."""

    def __init__(self) -> None:
        self.told_to_end = False
        self._process: subprocess.Popen[bytes] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Forwarder:
        self._before = {number: signal.signal(number, self._forward) for number in _FORWARDED}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(self, command: Sequence[str]) -> int:
        """The command's exit code, 128 + signal if it died of one; it is not begun when the job is ending already."""
        if self.told_to_end:
            return 128 + signal.SIGTERM
        self._process = subprocess.Popen(command)
        if self.told_to_end:
            self._process.terminate()
        code = self._process.wait()
        return 128 - code if code < 0 else code

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        self.told_to_end = self.told_to_end or number == signal.SIGTERM
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)


def _was_cancelled(client: SlurmClient, job: str) -> bool:
    """Whether somebody cancelled the job: SIGTERM may also be its time limit, a preemption, or just a signal."""
    try:
        shown = client.shown(job)
    except SlurmError:
        return False
    state = shown.get("JobState", "")
    if state != JobState.COMPLETING.value:
        return state == JobState.CANCELLED.value
    # While a job is completing, scontrol hides why it ended.
    ran, limit = parse_clock(shown.get("RunTime", "")), parse_clock(shown.get("TimeLimit", ""))
    timed_out = ran is not None and limit is not None and ran >= limit
    return not timed_out and shown.get("PreemptTime", "None") in ("None", "Unknown", "")
