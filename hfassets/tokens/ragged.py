"""Many arrays of tokens as one: the values one after the other, and where each array begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """`values`: of shape (tokens,); `offsets`: int64 of shape (arrays + 1,), from 0 to the number of tokens."""

    values: Any
    offsets: Any

    @classmethod
    def of(cls, arrays: Sequence[Any], dtype: str = "uint32") -> Ragged:
        """From one array each."""
        offsets = np.zeros(len(arrays) + 1, dtype=np.int64)
        np.cumsum([len(one) for one in arrays], out=offsets[1:])
        values = np.concatenate([np.asarray(one, dtype=dtype) for one in arrays]) if arrays else np.array([], dtype)
        return cls(values, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, place: int) -> Any:
        return self.values[self.offsets[place] : self.offsets[place + 1]]

    @property
    def lengths(self) -> Any:
        """Tokens of each array, int64."""
        return np.diff(self.offsets)

    def take(self, start: int, stop: int) -> Ragged:
        """The arrays from one place to another, excluded."""
        offsets = self.offsets[start : stop + 1]
        return Ragged(self.values[offsets[0] : offsets[-1]], offsets - offsets[0])


def concatenated(parts: Sequence[Ragged]) -> Ragged:
    """All arrays of all parts, in order."""
    if len(parts) == 1:
        return parts[0]
    ends = np.cumsum([0, *(len(part.values) for part in parts)])
    offsets = [part.offsets[:-1] + end for part, end in zip(parts, ends, strict=False)]
    return Ragged(np.concatenate([part.values for part in parts]), np.concatenate([*offsets, ends[-1:]]))
