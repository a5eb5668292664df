"""Which documents are taken to meet a target of tokens: the same ones whatever the parts and their order of reading.

Invariant: documents come in the order of a hash of the seed and their ids; those taken have at least as many tokens as
asked for, and without the last one of them fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from hfassets.errors import DataError

_BINS_BITS = 16


@dataclass(frozen=True)
class Survey:
    """The documents of a part: `priorities` uint64 and `tokens` int64, each of shape (documents,), and how many rows
    each has, `rows` int64."""

    priorities: Any
    tokens: Any
    rows: Any


@dataclass(frozen=True, slots=True)
class Threshold:
    """Taken is what comes before this document: by its priority, its part and its place there."""

    priority: int
    part: int
    place: int

    def takes(self, survey: Survey, part: int) -> Any:
        """Which documents of a part are taken, as booleans."""
        below = survey.priorities < np.uint64(self.priority)
        same = survey.priorities == np.uint64(self.priority)
        if part < self.part:
            return below | same
        if part == self.part:
            return below | (same & (np.arange(len(below)) < self.place))
        return below


def survey_of(ids: Sequence[bytes], tokens: Any, seed: int) -> Survey:
    """The documents that rows belong to: rows one after the other with the same id are one."""
    if not ids:
        empty = np.zeros(0, dtype=np.int64)
        return Survey(empty.astype(np.uint64), empty, empty)
    begins = [0, *(place for place in range(1, len(ids)) if ids[place] != ids[place - 1])]
    head = b"%d\0" % seed
    digest = xxhash.xxh3_64_intdigest
    priorities = np.fromiter((digest(head + ids[place]) for place in begins), dtype=np.uint64, count=len(begins))
    counts = np.diff([*begins, len(ids)])
    return Survey(priorities, np.add.reduceat(np.asarray(tokens, dtype=np.int64), begins), counts)


def threshold(parts: Sequence[Callable[[], Survey]], target: int) -> Threshold:
    """Where to stop for a target of tokens; `parts` are asked twice, so that one survey at a time is in memory.

    Raises DataError when all of them together have fewer.
    """
    bins = np.zeros(1 << _BINS_BITS, dtype=np.int64)
    shift = np.uint64(64 - _BINS_BITS)
    for part in parts:
        survey = part()
        np.add.at(bins, (survey.priorities >> shift).astype(np.int64), survey.tokens)
    ends = np.cumsum(bins)
    if target > (ends[-1] if len(ends) else 0):
        raise DataError(f"{target:,} tokens are asked for, and there are {int(ends[-1]):,}")
    if target <= 0:
        return Threshold(0, 0, 0)
    last = int(np.searchsorted(ends, target))
    missing = target - int(ends[last - 1] if last else 0)
    found: list[tuple[int, int, int, int]] = []
    for number, part in enumerate(parts):
        survey = part()
        for place in np.flatnonzero((survey.priorities >> shift).astype(np.int64) == last).tolist():
            found.append((int(survey.priorities[place]), number, place, int(survey.tokens[place])))
    for priority, number, place, tokens in sorted(found):
        missing -= tokens
        if missing <= 0:
            return Threshold(priority, number, place + 1)
    raise AssertionError("the bin has what is missing")


def row_mask(survey: Survey, taken: Any) -> Any:
    """Which rows belong to documents that are taken."""
    return np.repeat(taken, survey.rows)


def total_tokens(surveys: Iterable[Survey]) -> int:
    """Of all documents."""
    return sum(int(survey.tokens.sum()) for survey in surveys)
