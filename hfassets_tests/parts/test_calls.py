"""Calls in other processes: what is sent is what comes, and nothing is left behind."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfassets.errors import DataError
from hfassets.parts.calls import ANSWERS, CallProcesses, ProcessKilledError
from hfassets.sources.packed import PackedLines, packed_lines


def _doubled(arrays: list[Any]) -> list[Any]:
    return [np.concatenate((one, one)) for one in arrays]


def _lines(packed: PackedLines) -> list[Any]:
    return [row for rows in packed.unpacked() for row in rows]


def _fails(text: str) -> None:
    raise DataError(text)


def _dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def calls() -> Any:
    with CallProcesses(1) as found:
        yield found


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.integers(0, 255), max_size=300), max_size=5), st.sampled_from([1, 5000]))
def test_arrays_come_as_they_were_sent(calls: CallProcesses, values: list[list[int]], repeat: int) -> None:
    """Empty ones, many, and ones that are larger than any before."""
    arrays = [np.array(one * repeat, np.uint8) for one in values]
    first = calls.submit(_doubled, arrays)
    second = calls.submit(_doubled, [~one for one in arrays])
    # Both are there before the first is looked at.
    answers = [first.result(), second.result()]
    for answer, expected in zip(answers, (arrays, [~one for one in arrays]), strict=True):
        assert [one.tolist() for one in answer.result] == [one.tolist() * 2 for one in expected]
        answer.release()


def test_lines_go_by_shared_memory(calls: CallProcesses) -> None:
    """And come out as rows."""
    answer = calls.submit(_lines, packed_lines([b'{"a": 1}', b"", b'{"a": 2}'])).result()
    assert answer.result == [{"a": 1}, None, {"a": 2}]
    answer.release()


def test_a_process_is_only_so_far_ahead(calls: CallProcesses) -> None:
    """What nobody is done with is not written over."""
    waiting = [calls.submit(_doubled, [np.full(3, number, np.uint8)]) for number in range(3 * ANSWERS)]
    for number, future in enumerate(waiting):
        answer = future.result()
        assert sum(one.done() for one in waiting) <= number + ANSWERS
        assert answer.result[0].tolist() == [number] * 6
        answer.result[0][:] = 255
        answer.release()


def test_an_error_comes_as_it_was_raised(calls: CallProcesses) -> None:
    """The process answers on."""
    with pytest.raises(DataError, match="so it is"):
        calls.submit(_fails, "so it is").result()
    answer = calls.submit(_doubled, []).result()
    assert answer.result == []
    answer.release()


def test_nothing_stays_open() -> None:
    """No descriptor of a process that ended, or was killed."""
    before = _descriptors()
    with CallProcesses(1) as calls:
        for killed in [calls.submit(_dies) for _ in range(2 * ANSWERS)]:
            with pytest.raises(ProcessKilledError):
                killed.result()
    # What others have left open may be closed meanwhile; a leak would be one for each that died.
    assert _descriptors() <= before


def _descriptors() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))
