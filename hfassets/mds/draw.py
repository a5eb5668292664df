"""Which documents are taken to meet a target of tokens: the same ones whatever the parts and their order of reading.

Invariant: documents come in the order of a hash of the seed and their ids. Those taken have no more tokens than asked
for, and lack fewer than the first document that is left has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from hfassets.errors import DataError

_BINS_BITS = 16
_TRIED = 1024
"""Documents behind the threshold that are tried, in order, for what is left of a target."""


@dataclass(frozen=True)
class Survey:
    """The documents of a part: `priorities` uint64 and `tokens` int64, each of shape (documents,), and how many rows
    each has, `rows` int64."""

    priorities: Any
    tokens: Any
    rows: Any


@dataclass(frozen=True, slots=True)
class Threshold:
    """Taken is what comes before this document, by its priority, its part and its place there; and a few after it that
    fill what is left, `extra`, as (part, place)."""

    priority: int
    part: int
    place: int
    extra: tuple[tuple[int, int], ...] = ()

    def takes(self, survey: Survey, part: int) -> Any:
        """Which documents of a part are taken, as booleans."""
        taken = survey.priorities < np.uint64(self.priority)
        same = survey.priorities == np.uint64(self.priority)
        if part < self.part:
            taken |= same
        elif part == self.part:
            taken |= same & (np.arange(len(taken)) < self.place)
        taken[[place for number, place in self.extra if number == part]] = True
        return taken


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

    `target`: 1 or more. Raises DataError when all of them together have fewer.
    """
    tokens, documents = (np.zeros(1 << _BINS_BITS, dtype=np.int64) for _ in range(2))
    for part in parts:
        survey = part()
        places = _bins(survey)
        np.add.at(tokens, places, survey.tokens)
        np.add.at(documents, places, 1)
    ends = np.cumsum(tokens)
    if target > ends[-1]:
        raise DataError(f"{target:,} tokens are asked for, and there are {int(ends[-1]):,}")
    first = int(np.searchsorted(ends, target))
    left = target - int(ends[first - 1] if first else 0)
    # As many of the documents that follow as may be tried to fill what is left.
    counted = np.cumsum(documents)
    last = int(np.searchsorted(counted, min(counted[first] + _TRIED, counted[-1])))
    found: list[tuple[int, int, int, int]] = []
    for number, part in enumerate(parts):
        survey = part()
        places = _bins(survey)
        for place in np.flatnonzero((places >= first) & (places <= last)).tolist():
            found.append((int(survey.priorities[place]), number, place, int(survey.tokens[place])))
    stop: tuple[int, int, int] | None = None
    extra = []
    for priority, number, place, size in sorted(found):
        if size <= left:
            left -= size
            if stop is not None:
                extra.append((number, place))
        elif stop is None:
            stop = (priority, number, place)
        if not left:
            break
    # Met exactly before any document was too large: all that were looked at are taken, and nothing behind them.
    priority, number, place = stop or (priority, number, place + 1)
    return Threshold(priority, number, place, tuple(extra))


def _bins(survey: Survey) -> Any:
    """The first bits of each priority, int64."""
    return (survey.priorities >> np.uint64(64 - _BINS_BITS)).astype(np.int64)


def row_mask(survey: Survey, taken: Any) -> Any:
    """Which rows belong to documents that are taken."""
    return np.repeat(taken, survey.rows)
