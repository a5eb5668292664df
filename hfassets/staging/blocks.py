"""Which tokens of a split become which rows: blocks of one size, cut from all documents one after the other. Pure.

Invariant: every token is in one block or in the dropped ones, whatever the number of workers, parts and shards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Remainders = Literal["carry", "drop"]
BATCH_ROWS = 1000
"""Rows of a batch of `datasets.map`, in which the older pipeline cut its blocks."""


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens of a split that follow each other: from `start` on, `tokens` of them, in blocks; the last can be short."""

    start: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Blocks:
    """The rows of a split, of `size` tokens but for the last of a run. `dropped`: tokens that are in no row."""

    size: int
    runs: tuple[Run, ...]
    dropped: int

    @property
    def rows(self) -> int:
        """How many."""
        return sum(-(-run.tokens // self.size) for run in self.runs)

    @property
    def tokens(self) -> int:
        """In all rows."""
        return sum(run.tokens for run in self.runs)

    def shards(self, rows: int) -> Iterator[tuple[Run, ...]]:
        """The same rows, so many at a time, the last time fewer."""
        room, held = rows, []
        for run in self.runs:
            start, left = run.start, run.tokens
            while left:
                taken = min(left, room * self.size)
                held.append(Run(start, taken))
                start, left = start + taken, left - taken
                room -= -(-taken // self.size)
                if not room:
                    yield tuple(held)
                    room, held = rows, []
        if held:
            yield tuple(held)


def carried(total: int, size: int) -> Blocks:
    """What is left of a document goes on in the next one's block; only the split's tail is dropped.

    A split that does not fill one block is one short row.
    """
    if total < size:
        return Blocks(size, (Run(0, total),) if total else (), 0)
    kept = total - total % size
    return Blocks(size, (Run(0, kept),), total - kept)


def dropped(lengths: Sequence[Any], size: int) -> Blocks:
    """The older rule: what is left of each batch of BATCH_ROWS documents is dropped, and a batch that does not fill one
    block is one short row. `lengths`: tokens of the documents, int arrays, one after the other.
    """
    runs: list[Run] = []
    lost = start = 0
    for total in _batches(lengths):
        kept = total if total < size else total - total % size
        if kept:
            runs.append(Run(start, kept))
        lost += total - kept
        start += total
    return Blocks(size, tuple(runs), lost)


def _batches(lengths: Sequence[Any]) -> Iterator[int]:
    """The tokens of each batch, over the borders of the arrays."""
    held, rows = 0, 0
    for part in lengths:
        sums = np.concatenate([[0], np.cumsum(part, dtype=np.int64)])
        place = 0
        while place < len(part):
            stop = min(len(part), place + BATCH_ROWS - rows)
            held += int(sums[stop] - sums[place])
            rows, place = rows + stop - place, stop
            if rows == BATCH_ROWS:
                yield held
                held, rows = 0, 0
    if rows:
        yield held
