"""The cluster's commands: sbatch, squeue, scancel, scontrol and, where there is accounting, sacct.

Invariant: every call ends in time, with an answer or one of our errors; none inherits `SLURM_*` or `SBATCH_*` of the
caller (a daemon may itself live in a job), and nothing is concluded from output that was not understood.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

from hfassets.slurm.errors import DeferredError, RefusedError, SlurmError, UnreachableError
from hfassets.slurm.refusals import own_words, refusal
from hfassets.slurm.states import JobDetail, JobState, parse_clock, parse_state

CHUNK = 200
# The comment comes last: it may hold the delimiter. The job's name is not asked for, for the same reason.
_QUEUE_FIELDS = ("%A", "%T", "%r", "%S", "%e", "%V", "%M", "%l", "%N", "%P", "%k")
_SACCT_FIELDS = "JobID,State,ExitCode,ElapsedRaw,TimelimitRaw,MaxRSS,ReqMem,NodeList,Reason"
_FORGOTTEN = "Invalid job id"


@dataclass(frozen=True, slots=True)
class Job:
    """One job of the queue. Times are Unix seconds (`start` of a pending job is SLURM's estimate), None = not known."""

    job_id: str
    cluster: str | None
    state: JobState
    reason: str
    nodes: str
    partition: str
    comment: str
    submitted: float | None
    start: float | None
    end: float | None
    elapsed_s: float | None
    limit_s: float | None


@dataclass(frozen=True, slots=True)
class ArrayTask:
    """Some tasks of a job array that are in one state: those that wait stand together."""

    numbers: frozenset[int]
    state: JobState
    nodes: str


class SlurmClient:
    """The commands on PATH, for the default cluster or the one named. `timeout_s` bounds every call."""

    def __init__(self, cluster: str | None = None, timeout_s: float = 10.0) -> None:
        self.cluster = cluster
        self._timeout_s = timeout_s

    def submit(self, script: str, timeout_s: float | None = None, more: Sequence[str] = ()) -> tuple[str, str | None]:
        """(job id, cluster) of a new job; the script goes by stdin, so that nothing of it is in a process list.

        `more`: options of sbatch besides those in the script.

        Raises RefusedError with the cluster's own words and what to change, DeferredError when the cluster may take
        the same later; `unknown` is set when it may have taken it already.
        """
        command = ["sbatch", "--parsable", *self._on("--clusters"), *more]
        try:
            done = self._run(command, script, timeout_s)
        except subprocess.TimeoutExpired as error:
            raise DeferredError(f"sbatch gave no answer within {error.timeout:.0f} s", unknown=True) from None
        if done.returncode:
            raise refusal(done.stderr)
        job_id, _, cluster = done.stdout.strip().rpartition("\n")[2].partition(";")
        if not job_id.isdecimal():
            raise DeferredError(f"sbatch gave an answer that is no job id: {done.stdout.strip()[:80]!r}", unknown=True)
        return job_id, cluster or self.cluster

    def jobs(self) -> tuple[Job, ...]:
        """All jobs of this user that the controller remembers, also those that ended lately: one squeue.

        Raises UnreachableError when it does not answer.
        """
        user = pwd.getpwuid(os.getuid()).pw_name
        command = ["squeue", *self._on("--clusters"), "--noheader", "--states=all", f"--user={user}"]
        done = self._ask([*command, f"--format={'|'.join(_QUEUE_FIELDS)}"])
        return tuple(parse_queue(done, self.cluster))

    def array_tasks(self, job_ids: Sequence[str]) -> dict[str, list[ArrayTask]]:
        """The tasks of arrays that the controller remembers, by job id; one that is forgotten has none.

        Raises UnreachableError when it does not answer.
        """
        found: dict[str, list[ArrayTask]] = {job: [] for job in job_ids}
        for chunk in _chunks(job_ids):
            command = ["squeue", *self._on("--clusters"), "--noheader", "--states=all", f"--jobs={','.join(chunk)}"]
            text = self._ask([*command, "--format=%F|%K|%T|%N"], accept=(_FORGOTTEN,))
            for job, task in parse_tasks(text):
                found.setdefault(job, []).append(task)
        return found

    def end_time(self, job_id: str) -> float | None:
        """When a job, or a task of an array, has to be over, in Unix seconds; None for one without a limit.

        Raises UnreachableError.
        """
        command = ["squeue", *self._on("--clusters"), "--noheader", f"--jobs={job_id}", "--format=%e"]
        lines = [line for line in self._ask(command, accept=(_FORGOTTEN,)).split() if line.isdecimal()]
        return float(lines[0]) if lines else None

    def array_ids(self) -> dict[str, str]:
        """The id of each array, or job, of this user that the controller remembers, by its comment.

        Raises UnreachableError when it does not answer.
        """
        user = pwd.getpwuid(os.getuid()).pw_name
        command = ["squeue", *self._on("--clusters"), "--noheader", "--states=all", f"--user={user}"]
        lines = self._ask([*command, "--format=%F|%k"]).splitlines()
        return {comment: job for job, _, comment in (line.partition("|") for line in lines) if job.isdecimal()}

    def cancel(self, job_ids: Sequence[str], *, signal: str | None = None, steps: bool = False) -> None:
        """Cancel jobs, or only send a signal: to the batch process, or with `steps` to the processes of `srun`.

        A job that has ended already is no error. Raises UnreachableError.
        """
        how = [f"--signal={signal}", *([] if steps else ["--batch"])] if signal else []
        for chunk in _chunks(job_ids):
            self._ask(["scancel", *self._on("--clusters"), *how, *chunk], accept=(_FORGOTTEN, "already completed"))

    def shown(self, job_id: str) -> dict[str, str]:
        """What scontrol shows of a job, by its names; values are cut at a space. Raises UnreachableError."""
        command = ["scontrol", *self._on("--cluster"), "--oneliner", "show", "job", job_id]
        return dict(re.findall(r"(\S+?)=(\S*)", self._ask(command, accept=(_FORGOTTEN,))))

    def batch_script(self, job_id: str) -> str:
        """The script of a job that lives. Raises UnreachableError, SlurmError."""
        return self._ask(["scontrol", *self._on("--cluster"), "write", "batch_script", job_id, "-"])

    def detail(self, job_id: str) -> JobDetail | None:
        """What scontrol, and where there is accounting sacct, know of a job; None when both have forgotten it.

        Raises UnreachableError.
        """
        command = ["scontrol", *self._on("--cluster"), "--oneliner", "show", "job", job_id]
        shown = parse_show(self._ask(command, accept=(_FORGOTTEN,)))
        known = self.history([job_id]).get(job_id) if self.accounting else None
        if shown is None or known is None:
            return shown or known
        return replace(shown, max_rss_bytes=known.max_rss_bytes, cancelled_by=known.cancelled_by)

    def history(self, job_ids: Sequence[str]) -> dict[str, JobDetail]:
        """What accounting knows of jobs, in calls of 200 ids; without accounting, or without its answer: nothing."""
        found: dict[str, JobDetail] = {}
        for chunk in _chunks(job_ids):
            command = ["sacct", *self._on("--clusters"), "--parsable2", "--noheader", f"--format={_SACCT_FIELDS}"]
            try:
                done = self._run([*command, f"--jobs={','.join(chunk)}"])
            except (subprocess.TimeoutExpired, SlurmError):
                return found
            if not done.returncode:
                found |= parse_history(done.stdout)
        return found

    def accounting_error(self) -> str | None:
        """What keeps sacct from answering as we ask it; None when nothing does."""
        try:
            done = self._run(
                ["sacct", *self._on("--clusters"), "--parsable2", "--noheader", f"--format={_SACCT_FIELDS}"]
            )
        except subprocess.TimeoutExpired as error:
            return f"sacct gave no answer within {error.timeout:.0f} s"
        except SlurmError as error:
            return str(error)
        return own_words(done.stderr) if done.returncode else None

    @cached_property
    def accounting(self) -> bool:
        """Whether sacct can answer at all."""
        return "accounting_storage/none" not in self.config.get("AccountingStorageType", "accounting_storage/none")

    @cached_property
    def config(self) -> Mapping[str, str]:
        """`scontrol show config`; empty when the controller does not answer."""
        try:
            text = self._ask(["scontrol", *self._on("--cluster"), "show", "config"])
        except SlurmError:
            return {}
        pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
        return {name.strip(): value.strip() for name, value in pairs}

    def node_states(self) -> dict[str, str]:
        """Node name → state, as sinfo prints it (`down*`, `idle`). Raises UnreachableError."""
        text = self._ask(["sinfo", *self._on("--clusters"), "--Node", "--noheader", "--format=%N|%T"])
        return dict(line.split("|", 1) for line in text.split() if "|" in line)

    def node_cpus(self, partition: str | None = None) -> dict[str, int]:
        """Node name → its CPUs, of all nodes or of a partition's. Raises UnreachableError."""
        where = [f"--partition={partition}"] if partition else []
        text = self._ask(["sinfo", *self._on("--clusters"), "--Node", "--noheader", *where, "--format=%N|%c"])
        pairs = (line.split("|", 1) for line in text.split() if "|" in line)
        return {node: int(cpus) for node, cpus in pairs if cpus.isdecimal()}

    def node_hosts(self) -> set[str]:
        """The hosts that are nodes. Raises UnreachableError."""
        text = self._ask(["scontrol", *self._on("--cluster"), "--oneliner", "show", "nodes"])
        return {word.removeprefix("NodeHostName=") for word in text.split() if word.startswith("NodeHostName=")}

    def partitions(self) -> dict[str, str]:
        """Partition → its time limit, as sinfo prints it. Raises UnreachableError."""
        text = self._ask(["sinfo", *self._on("--clusters"), "--noheader", "--format=%R|%l"])
        return dict(line.split("|", 1) for line in text.split() if "|" in line)

    def requeue_without(self, job_id: str, nodes: Sequence[str]) -> None:
        """Keep a pending job off nodes that failed it. Raises SlurmError when the cluster does not allow that."""
        self._ask(["scontrol", *self._on("--cluster"), "update", f"JobId={job_id}", f"ExcNodeList={','.join(nodes)}"])

    def _on(self, option: str) -> list[str]:
        return [f"{option}={self.cluster}"] if self.cluster else []

    def _ask(self, command: Sequence[str], accept: Sequence[str] = ()) -> str:
        try:
            done = self._run(command)
        except subprocess.TimeoutExpired as error:
            raise UnreachableError(f"{command[0]} gave no answer within {error.timeout:.0f} s") from None
        if done.returncode and not any(text in done.stderr for text in accept):
            words = refusal(done.stderr)
            if isinstance(words, DeferredError):
                raise UnreachableError(f"{command[0]}: {words}")
            raise SlurmError(f"{command[0]}: {words}")
        return "" if done.returncode else done.stdout

    def _run(
        self, command: Sequence[str], text: str | None = None, timeout_s: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                command,
                input=text,
                stdin=subprocess.DEVNULL if text is None else None,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s or self._timeout_s,
                env=client_environment(os.environ),
                check=False,
            )
        except FileNotFoundError:
            raise RefusedError(f"{command[0]} is not on PATH; is this host part of the cluster?") from None


def client_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a command: times in Unix seconds, plain words, nothing of a job we may live in."""
    kept = {
        name: value
        for name, value in environment.items()
        if name == "SLURM_CONF"
        or not name.startswith(("SLURM_", "SBATCH_", "SQUEUE_", "SCANCEL_", "SACCT_", "SINFO_", "SRUN_"))
    }
    return {**kept, "SLURM_TIME_FORMAT": "%s", "LC_ALL": "C"}


def parse_queue(text: str, cluster: str | None) -> Iterator[Job]:
    """Jobs from squeue's lines; what is no job (a `CLUSTER:` line) is passed over."""
    for line in text.splitlines():
        fields = line.split("|", len(_QUEUE_FIELDS) - 1)
        if len(fields) != len(_QUEUE_FIELDS) or not fields[0].isdecimal():
            continue
        job_id, state, reason, start, end, submitted, elapsed, limit, nodes, partition, comment = fields
        yield Job(
            job_id,
            cluster,
            parse_state(state)[0],
            reason,
            nodes,
            partition,
            "" if comment == "(null)" else "".join(filter(str.isprintable, comment)),
            submitted=_time(submitted),
            start=_time(start),
            end=_time(end),
            elapsed_s=parse_clock(elapsed),
            limit_s=parse_clock(limit),
        )


def parse_tasks(text: str) -> Iterator[tuple[str, ArrayTask]]:
    """Array id and tasks from squeue's lines; waiting ones stand as `3,5-9%4`."""
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) != 4 or not fields[0].isdecimal():
            continue
        numbers: set[int] = set()
        for piece in fields[1].partition("%")[0].strip("[]").split(","):
            first, dash, last = piece.partition("-")
            if first.isdecimal() and (last.isdecimal() or not dash):
                numbers.update(range(int(first), int(last or first) + 1))
        yield fields[0], ArrayTask(frozenset(numbers), parse_state(fields[2])[0], fields[3])


def parse_show(text: str) -> JobDetail | None:
    """A job from `scontrol --oneliner show job`; None when there is none."""
    values = dict(re.findall(r"(\S+?)=(\S*)", text))
    if "JobId" not in values or "JobState" not in values:
        return None
    exit_code, signal = _exit(values.get("ExitCode", ""))
    return JobDetail(
        job_id=values["JobId"],
        state=parse_state(values["JobState"])[0],
        reason=_known(values.get("Reason")),
        exit_code=exit_code,
        signal=signal,
        nodes=_known(values.get("NodeList")),
        elapsed_s=parse_clock(values.get("RunTime", "")),
        limit_s=parse_clock(values.get("TimeLimit", "")),
        restarts=int(values["Restarts"]) if values.get("Restarts", "").isdecimal() else 0,
        memory_bytes=_bytes(values.get("MinMemoryNode", "")),
        stderr=_known(values.get("StdErr")),
    )


def parse_history(text: str) -> dict[str, JobDetail]:
    """Jobs from sacct's lines: the job's own line, and over its steps the most memory that one used."""
    found: dict[str, JobDetail] = {}
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) != len(_SACCT_FIELDS.split(",")):
            continue
        name, state, code, elapsed, limit, rss, memory, nodes, reason = fields
        job_id, _, step = name.partition(".")
        peak = _bytes(rss)
        if step and job_id in found:
            found[job_id] = replace(
                found[job_id], max_rss_bytes=max(peak or 0, found[job_id].max_rss_bytes or 0) or None
            )
        elif not step and job_id.isdecimal():
            parsed, by = parse_state(state)
            exit_code, signal = _exit(code)
            found[job_id] = JobDetail(
                job_id=job_id,
                state=parsed,
                reason=_known(reason),
                exit_code=exit_code,
                signal=signal,
                nodes=_known(nodes),
                elapsed_s=float(elapsed) if elapsed.isdecimal() else None,
                limit_s=float(limit) * 60 if limit.isdecimal() else None,
                max_rss_bytes=peak,
                memory_bytes=_bytes(memory),
                cancelled_by=_user(by),
            )
    return found


def _user(uid: str | None) -> str | None:
    if uid is None or not uid.isdecimal():
        return uid
    try:
        return pwd.getpwuid(int(uid)).pw_name
    except KeyError:
        return f"user {uid}"


def _known(value: str | None) -> str:
    return "" if value in (None, "(null)", "N/A", "None assigned", "None") else str(value)


def _exit(text: str) -> tuple[int | None, int | None]:
    """(exit code, signal) from `code:signal`."""
    code, _, signal = text.partition(":")
    if not code.isdecimal():
        return None, None
    number = int(signal) if signal.isdecimal() else 0
    return (None, number) if number else (int(code), None)


def _bytes(text: str) -> int | None:
    """Bytes from `433K`, `2.5G`, `4096M`, `4Gn`; a number without a unit is MiB, as in slurm.conf."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTP]?)[nc]?", text.strip())
    if not found:
        return None
    power = {"K": 1, "": 2, "M": 2, "G": 3, "T": 4, "P": 5}[found[2]]
    return int(float(found[1]) * 1024**power) or None


def _time(text: str) -> float | None:
    """Unix seconds; also from the ISO times of a SLURM that does not know `%s`."""
    if text.isdecimal():
        return float(text) or None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _chunks(items: Iterable[str]) -> Iterator[Sequence[str]]:
    everything = list(items)
    for start in range(0, len(everything), CHUNK):
        yield everything[start : start + CHUNK]
