"""What a task begins, and what it leaves, when its time is short."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from hfassets.arrays.clock import MARGIN, JobClock
from hfassets.parts import LocalPool, Plan
from hfassets.parts.plan import PLAN_FILE, store_plan


class Now:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def test_parts_are_begun_while_the_longest_so_far_would_be_over_in_time() -> None:
    """As many as there are processes in any case; then only what fits, with some room, before the end."""
    now = Now()
    clock = JobClock(1000 + MARGIN + 30, 2, lambda: None, now)
    assert clock.begins(0) and clock.begins(1)
    now.time += 10
    clock.ended(0)
    assert clock.begins(2)
    now.time += 7.9
    clock.ended(1)
    # The longest took 17.9 s, and 12.1 are left.
    assert not clock.begins(3)
    assert clock.abandoned == [2] and not clock.over()
    now.time += 12.2
    assert clock.over()


def test_a_job_that_is_short_from_its_beginning_makes_something() -> None:
    """Else it would be followed by another for ever."""
    clock = JobClock(1001, 1, lambda: None, Now())
    assert clock.begins(0) and not clock.begins(1)


@pytest.mark.parametrize(("end", "goes_on"), [(None, False), (5000.0, True), (1004.0, False)])
def test_a_warning_counts_as_far_as_slurm_says_how_much_is_left(end: float | None, goes_on: bool) -> None:
    """It comes up to a minute early. Where nobody knows the end, nothing more is begun."""
    clock = JobClock(None, 1, lambda: end, Now())
    assert clock.begins(0) and clock.begins(1)
    clock.warn()
    assert clock.begins(2) is goes_on


@pytest.mark.parametrize("processes", [1, 3])
def test_a_pool_leaves_what_there_is_no_time_for(tmp_path: Path, processes: int) -> None:
    """What was begun when time is over is abandoned: no outcome, no folder of it, no process."""
    (tmp_path / "stones").mkdir()
    context: dict[str, Any] = {"stones": str(tmp_path / "stones"), "log": str(tmp_path / "log"), "seconds": 0.3}
    plan = Plan("trial", 1, {}, {}, [{"name": f"p{number}"} for number in range(40)], context)
    (tmp_path / "out").mkdir()
    store_plan(tmp_path / "out" / PLAN_FILE, plan, "hfassets_tests.arrays.workers:work")
    clock = JobClock(None, processes, lambda: None)
    outcomes = LocalPool(processes, clock).map(tmp_path / "out" / PLAN_FILE, plan.fingerprint, range(40))
    first = next(outcomes)
    began = time.monotonic()
    clock.stop()
    rest = list(outcomes)
    assert time.monotonic() - began < 10
    told = {one.index for one in (first, *rest)}
    assert all(one.error is None for one in (first, *rest)) and len(told) <= 2 * processes
    assert {index for index in range(40) if plan.finished(tmp_path / "out", index)} >= told
    assert set(clock.abandoned).isdisjoint(told)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]
