"""Parts on SLURM job arrays: a backend of `parts.run`.

Invariant: while an array of a plan lives there is no other one with the same parts, whoever is killed and starts again;
an outcome is taken from what tasks wrote and from manifests, never from a job's state alone. A part that fails is tried
once more, by itself and not on the node where it failed; one whose task died goes into another array, on other nodes;
one for which a task had no time left goes into another array as well. What somebody cancels stays undone.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hfassets.arrays.record import ArrayRecord, Outcomes, Told, forget, next_record, records, write_record
from hfassets.errors import HfassetsError
from hfassets.parts.make import stored_plan
from hfassets.parts.plan import Outcome
from hfassets.slurm.client import SlurmClient
from hfassets.slurm.command import command_script
from hfassets.slurm.errors import DeferredError, SlurmError, UnreachableError
from hfassets.slurm.resources import Resources, override
from hfassets.slurm.settings import Settings
from hfassets.slurm.states import JobState, clock

SLICE_SECONDS = 600.0
"""What a task is to be worth: less, and the queue takes longer than the work."""
ASSUMED_SECONDS = 60.0
"""What a part takes, where nobody says."""
COMMENT = "hfassets:parts"
CONTINUATIONS = 100
"""So many arrays may go on with what those before them had no time for."""
WARNED_BEFORE = 120
"""Seconds before its time limit at which SLURM warns a task, or a quarter of the limit where that is shorter."""
MOST_LOSSES = 3
"""So often the task of a part may die (its node, its time, a preemption) before that is the part's own fault."""
_LOOK_AT_QUEUE = 5.0
_POLL = 0.5
_PATIENCE = 300.0
_ON_ITS_WAY = 25.0
"""Seconds after its record was written in which an array may still appear: sbatch is over by then."""


def _quiet(line: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class ArrayPool:
    """Makes parts as the tasks of job arrays. `request`: of each task; `max_tasks`: of a plan, `at_once`: of those that
    run; `processes`: parts at once in a task (on whole nodes as many as they have CPUs); `part_seconds`: what a part
    takes; `continuations`: arrays that may follow for want of time; `variables`: set for tasks beside what the site and
    the allowed names of `environment` give them.
    """

    settings: Settings
    request: Resources
    max_tasks: int = 256
    at_once: int | None = None
    processes: int = 1
    part_seconds: float = ASSUMED_SECONDS
    continuations: int = CONTINUATIONS
    say: Callable[[str], None] = _quiet
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def asked(self) -> Resources:
        """What a task asks for: where nobody says how many CPUs, one a process."""
        asked = override(self.settings.site.resources, self.request)
        return asked if asked.cpus or asked.exclusive else override(asked, Resources(cpus=self.processes))

    def busy(self, plan_file: Path) -> bool:
        """Whether an array of an earlier run may still be at it: then what lies about is not litter."""
        return bool(records(plan_file.parent))

    def map(self, plan_file: Path, fingerprint: str, indexes: Sequence[int]) -> Iterator[Outcome]:
        """See Backend. Raises HfassetsError when the cluster does not take an array."""
        try:
            yield from _Run(self, plan_file, fingerprint).outcomes(list(indexes))
        except SlurmError as error:
            raise HfassetsError(f"parts as a job array: {error}") from error


class _Array:
    """An array that was submitted: what its tasks said, and whether they still live."""

    def __init__(self, path: Path, record: ArrayRecord) -> None:
        self.path = path
        self.record = record
        self.outcomes = Outcomes(path, record)
        self.open = set(record.indexes)
        self.left: dict[int, Told] = {}
        self.nodes: dict[int, str] = {}
        self.states: dict[int, JobState] = {}

    @property
    def job(self) -> str:
        """Its id; only of those that have one."""
        return self.record.job or ""


class _Run:
    """One call of `map`."""

    def __init__(self, pool: ArrayPool, plan_file: Path, fingerprint: str) -> None:
        self._pool = pool
        self._plan_file = plan_file
        self._fingerprint = fingerprint
        self._folder = plan_file.parent
        self._client = SlurmClient(pool.settings.cluster)
        self._arrays: list[_Array] = []
        self._failed: dict[int, Told] = {}
        self._losses: dict[int, list[str]] = {}
        self._continued = 0
        self._short: set[int] = set()
        self._looked = float("-inf")

    def outcomes(self, indexes: Sequence[int]) -> Generator[Outcome, None, None]:
        """Each part's outcome, as they end; arrays that still live are waited for, the rest is submitted."""
        waiting = set(indexes)
        try:
            self._attach()
            covered = {index for one in self._arrays for index in one.open}
            self._submit([index for index in indexes if index not in covered], retry=False)
            while waiting:
                yield from self._turn(waiting)
                if waiting:
                    time.sleep(_POLL)
        except BaseException:
            self._cancel()
            raise
        self._forget()

    def _turn(self, waiting: set[int]) -> Iterator[Outcome]:
        """What is new, of every array; those that are over are followed by one for what failed."""
        over = self._over()
        for one in list(self._arrays):
            yield from self._heard(one, waiting)
            # What was left is judged by how its task ended.
            if one in over or not (one.open or one.left):
                yield from self._ended(one, waiting)
                self._arrays.remove(one)
        if not self._arrays and waiting:
            failed = {index: self._failed.pop(index).node for index in sorted(waiting & set(self._failed))}
            self._submit(list(failed), retry=True, without=failed.values())
            yield from self._go_on(waiting, failed)

    def _go_on(self, waiting: set[int], failed: Container[int]) -> Iterator[Outcome]:
        """Another array for what died with its task, and for what there was no time for."""
        rest = sorted(index for index in waiting if index not in failed)
        if self._short:
            self._continued += 1
            self._short.clear()
        if self._continued > self._pool.continuations:
            waiting.difference_update(rest)
            said = f"no time was left for it in {self._continued} arrays, and no more may follow; run again to go on"
            yield from (Outcome(index, error=said) for index in rest)
            return
        # What was cut off comes first in its task: there it has all the time that a task gets.
        rest.sort(key=lambda index: -len(self._losses.get(index, ())))
        nodes = [node for one in rest for node in self._losses.get(one, ())]
        self._submit(rest, retry=False, without=nodes)

    def _heard(self, one: _Array, waiting: set[int]) -> Iterator[Outcome]:
        for told in one.outcomes.fresh():
            one.open.discard(told.index)
            if told.index not in waiting:
                continue
            if told.left:
                one.left[told.index] = told
            elif told.error is None:
                waiting.discard(told.index)
                yield Outcome(told.index, made=told.made)
            else:
                yield from self._failure(one, told, waiting)

    def _lost(self, index: int, node: str, waiting: set[int]) -> Iterator[Outcome]:
        """A part whose task ended before it was made, for the first time or once too often."""
        nodes = self._losses.setdefault(index, [])
        nodes.append(node)
        if len(nodes) == MOST_LOSSES:
            waiting.discard(index)
            limit = self._pool.asked.time
            where = (
                ", ".join(filter(None, nodes)) or f"by their time limit{f' of {clock(60 * limit)}' if limit else ''}"
            )
            yield Outcome(index, error=f"its task ended {MOST_LOSSES} times before it was made ({where})")

    def _failure(self, one: _Array, told: Told, waiting: set[int]) -> Iterator[Outcome]:
        """A part that failed for the first time is tried again; the second time that is its outcome."""
        if one.record.retry:
            waiting.discard(told.index)
            yield Outcome(told.index, error=told.error, trace=told.trace)
        else:
            self._failed[told.index] = told

    def _ended(self, one: _Array, waiting: set[int]) -> Iterator[Outcome]:
        """Parts that their task never spoke of, or left: done by their manifest, cancelled, or for another array."""
        plan, _ = stored_plan(self._plan_file)
        for index in sorted((one.open | set(one.left)) & waiting):
            task = self._task_of(one, index)
            if plan.finished(self._folder, index) is not None:
                waiting.discard(index)
                yield Outcome(index, made=True)
            elif one.states.get(task) == JobState.CANCELLED:
                waiting.discard(index)
                yield Outcome(index, error=f"task {task} of job array {one.job} was cancelled; run again to go on")
            elif index not in one.left:
                yield from self._lost(index, one.nodes.get(task, ""), waiting)
            else:
                self._short.add(index)
                if one.left[index].left == "abandoned":
                    # Cut off again and again, it needs more time than there is.
                    yield from self._lost(index, "", waiting)

    @staticmethod
    def _task_of(one: _Array, index: int) -> int:
        return next(number for number, task in enumerate(one.record.tasks) if index in task)

    def _over(self) -> list[_Array]:
        """The arrays of which no task can say any more; looked at now and then, for the queue is everybody's."""
        if time.monotonic() - self._looked < _LOOK_AT_QUEUE:
            return []
        try:
            queue = self._client.array_tasks([one.job for one in self._arrays])
        except UnreachableError as error:
            self._pool.say(f"{error}; asking again")
            return []
        finally:
            self._looked = time.monotonic()
        for one in self._arrays:
            one.nodes |= {number: task.nodes for task in queue[one.job] for number in task.numbers if task.nodes}
            one.states |= {number: task.state for task in queue[one.job] for number in task.numbers}
        return [one for one in self._arrays if all(task.state.ended for task in queue[one.job])]

    def _attach(self) -> None:
        """Take over the arrays that an earlier run has left; those that are over are read and done with."""
        for path, record in records(self._folder).items():
            job = record.job or self._looked_for(record)
            if job is None:
                forget(path)
            elif record.fingerprint != self._fingerprint:
                self._client.cancel([job])
                forget(path)
            else:
                known = record.submitted(job, self._pool.settings.cluster)
                write_record(path, known)
                self._arrays.append(_Array(path, known))
                count = len(record.indexes)
                self._pool.say(f"job array {job} of an earlier run: its {count:,} parts are waited for")

    def _looked_for(self, record: ArrayRecord) -> str | None:
        """The array of a run that was killed while it was submitting; one may still be on its way for some seconds."""
        while True:
            job = self._client.array_ids().get(record.comment)
            if job is not None or time.time() - record.created > _ON_ITS_WAY:
                return job
            time.sleep(_POLL)

    def _submit(self, indexes: Sequence[int], *, retry: bool, without: Iterable[str] = ()) -> None:
        if not indexes:
            return
        most = min(int(self._client.config.get("MaxArraySize", "1001")), self._pool.max_tasks)
        for tasks in _arrays_of(indexes, self._pool, self._processes(), retry=retry, most=most):
            self._submit_one(tasks, retry=retry, without=sorted(set(filter(None, without))))

    def _processes(self) -> int:
        """Parts at once in a task: on whole nodes, so many as the smallest of them has CPUs."""
        if not self._pool.asked.exclusive:
            return self._pool.processes
        return min(self._client.node_cpus(self._pool.asked.partition).values(), default=self._pool.processes)

    def _submit_one(self, tasks: tuple[tuple[int, ...], ...], *, retry: bool, without: Sequence[str]) -> None:
        path = next_record(self._folder)
        now = time.time()
        comment = f"{COMMENT}:{self._fingerprint[:12]}:{os.getpid()}:{now:.6f}"
        asked = self._pool.asked
        processes = 0 if asked.exclusive else self._pool.processes
        record = ArrayRecord(str(self._plan_file), self._fingerprint, comment, tasks, processes, retry, now)
        write_record(path, record)
        limit = f"%{self._pool.at_once}" if self._pool.at_once else ""
        # Where there is no other node, the same one has to do.
        elsewhere = [f"--exclude={','.join(without)}"] if without and set(without) < self._up() else []
        script = command_script(
            self._pool.settings,
            asked if asked.signal else override(asked, Resources(signal=_warning(asked))),
            (str(self._pool.settings.site.python or sys.executable), "-m", "hfassets.arrays.task", str(path)),
            name=f"parts-{self._fingerprint[:8]}",
            working_directory=self._folder,
            logs=path.with_suffix(".log"),
            environment=self._pool.environment,
            variables=self._pool.variables,
            python=sys.executable,
            comment=comment,
            more=(f"--array=0-{len(tasks) - 1}{limit}", "--no-requeue", *elsewhere),
            ignored=("USR1",),
        )
        job, cluster = self._taken(script, path)
        record = record.submitted(job, cluster)
        write_record(path, record)
        self._arrays.append(_Array(path, record))
        what = "once more, each by itself" if retry else f"in {len(tasks):,} tasks"
        self._pool.say(f"job array {job}: {len(record.indexes):,} parts {what}")

    def _taken(self, script: str, path: Path) -> tuple[str, str | None]:
        """Submit; a cluster that is busy is asked again for some minutes."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return self._client.submit(script)
            except DeferredError as error:
                if error.unknown or time.monotonic() > deadline:
                    # It may be there after all: whoever comes next finds it by its comment.
                    raise
                self._pool.say(f"{error}; submitting again")
                time.sleep(_LOOK_AT_QUEUE)
            except SlurmError:
                forget(path)
                raise

    def _up(self) -> set[str]:
        """The nodes that take jobs; a state with a star is that of a node that does not answer."""
        states = self._client.node_states().items()
        return {node for node, state in states if not state.startswith(("down", "drain", "fail")) and "*" not in state}

    def _cancel(self) -> None:
        """End what was submitted: nobody waits for it any more. What cannot be ended is found by the next run."""
        if not self._arrays:
            return
        jobs = ", ".join(one.job for one in self._arrays)
        try:
            self._client.cancel([one.job for one in self._arrays])
        except SlurmError as error:
            self._pool.say(f"job array {jobs} could not be cancelled: {error}")
            return
        self._pool.say(f"job array {jobs} cancelled")
        for one in self._arrays:
            forget(one.path)

    def _forget(self) -> None:
        for path in records(self._folder):
            forget(path)


def _arrays_of(
    indexes: Sequence[int], pool: ArrayPool, processes: int, *, retry: bool, most: int
) -> Iterator[tuple[tuple[int, ...], ...]]:
    """The tasks of each array: single parts the second time, else so many parts a task that it is worth its while."""
    # A task has to be over in time as well, with room for its beginning and for parts that take longer.
    worth = min(SLICE_SECONDS, 60.0 * (pool.asked.time or 1e9) / 2)
    each = 1 if retry else max(1, int(worth * processes / max(pool.part_seconds, 1e-3)))
    each = max(each, -(-len(indexes) // pool.max_tasks))
    count = -(-len(indexes) // each)
    # Every n-th part: neighbours tend to be alike, and tasks end together.
    tasks = [tuple(indexes[number::count]) for number in range(count)]
    for first in range(0, len(tasks), most):
        yield tuple(tasks[first : first + most])


def _warning(asked: Resources) -> str:
    """When a task is told that its time is short."""
    return f"B:USR1@{min(WARNED_BEFORE, 15 * (asked.time or WARNED_BEFORE))}"
