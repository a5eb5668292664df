"""Which split a row of the source is of: its own, or for splits that the source lacks a seeded share of its rows.

Invariant: a row's split follows from the seed and the row alone; equal texts are in one split. Source of the rule: as
for MDS (hfassets.mds.sides), the first 8 bytes (big-endian) of SHA-256(seed in decimal, a zero byte, the content), over
2^64: below the share of `validation` it is of that one, below the sum with `test` of that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hfassets.errors import DataError

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """`sources`: the source's split that each of ours is read from; `shares`: what is drawn from the training rows."""

    seed: int
    sources: Mapping[str, str]
    shares: Mapping[str, float]

    @property
    def names(self) -> tuple[str, ...]:
        """Our splits, in order."""
        return tuple(name for name in SPLITS if name in self.sources or name in self.shares)

    def outputs(self, name: str) -> tuple[str, ...]:
        """The splits that rows of one of ours end in."""
        return (TRAIN, *self._drawn) if name == TRAIN else (name,)

    @property
    def _drawn(self) -> tuple[str, ...]:
        """In the order of the rule: a plan that was stored has its keys sorted."""
        return tuple(name for name in (VALIDATION, TEST) if name in self.shares)

    def sides(self, contents: Sequence[bytes]) -> np.ndarray[tuple[int], np.dtype[np.int8]]:
        """For training rows: the place in `outputs` of each, int8 of shape (rows,)."""
        found = np.zeros(len(contents), dtype=np.int8)
        if not self.shares:
            return found
        head, sha256 = b"%d\0" % self.seed, hashlib.sha256
        draws = np.array(
            [int.from_bytes(sha256(head + content).digest()[:8], "big") for content in contents], dtype=np.uint64
        )
        below, sum_ = np.zeros(len(contents), dtype=bool), 0.0
        for place, name in enumerate(self._drawn, 1):
            sum_ += self.shares[name]
            inside = draws < np.uint64(int(sum_ * (1 << 64)))
            found[inside & ~below] = place
            below |= inside
        return found


def plan_splits(
    there: Sequence[str], wanted: Mapping[str, str], shares: Mapping[str, float], seed: int, source: str
) -> SplitPlan:
    """`there`: the source's splits; `wanted`: which of them is ours, if it is named otherwise; `shares`: of those
    that are missing.

    Raises DataError when there is no split to train on, or a named one is not there.
    """
    sources = {}
    for name in SPLITS:
        theirs = wanted.get(name, name)
        if theirs in there:
            sources[name] = theirs
        elif name in wanted:
            raise DataError(f"{source}: no split {theirs!r}; it has {', '.join(there)}")
    if TRAIN not in sources:
        raise DataError(f"{source}: no split train; it has {', '.join(there)}: name one of them in splits")
    drawn = {name: shares[name] for name in (VALIDATION, TEST) if shares.get(name) and name not in sources}
    return SplitPlan(seed, sources, drawn)
