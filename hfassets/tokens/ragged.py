"""Many arrays of tokens as one: the values one after the other, and where each array begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_SHORT = 64
"""Arrays of fewer values on average are put together all at once, longer ones one by one."""


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


def concatenated(parts: Sequence[Ragged], end: int | None = None) -> Ragged:
    """All arrays of all parts, in order; with `end`, that value behind each that is not empty and has another last."""
    if not parts:
        return Ragged.of([])
    lengths = np.concatenate([part.lengths for part in parts])
    if end is None:
        values = parts[0].values if len(parts) == 1 else np.concatenate([part.values for part in parts])
        return Ragged(values, _offsets(lengths))
    lacking = [_lacking(part, end) for part in parts]
    dtype = parts[0].values.dtype
    short = len(lengths) * _SHORT > int(lengths.sum())
    values = _inserted(parts, lacking, end) if short else _joined(parts, lacking, end)
    return Ragged(values.astype(dtype, copy=False), _offsets(lengths + np.concatenate(lacking)))


def _lacking(part: Ragged, end: int) -> Any:
    """Which arrays have no such last value, as booleans; empty ones need none."""
    full = part.lengths > 0
    lacking = np.zeros(len(part), dtype=bool)
    lacking[full] = part.values[part.offsets[1:][full] - 1] != end
    return lacking


def _inserted(parts: Sequence[Ragged], lacking: Sequence[Any], end: int) -> Any:
    """One copy of all values and another with the ends in it: quick where there are many arrays."""
    return np.concatenate(
        [np.insert(part.values, part.offsets[1:][ones], end) for part, ones in zip(parts, lacking, strict=True)]
    )


def _joined(parts: Sequence[Ragged], lacking: Sequence[Any], end: int) -> Any:
    """One copy, array by array: quick where they are long."""
    dtype = parts[0].values.dtype
    mark = np.array([end], dtype=dtype).tobytes()
    pieces: list[Any] = []
    for part, ones in zip(parts, lacking, strict=True):
        data: Any = memoryview(np.ascontiguousarray(part.values)).cast("B")  # type: ignore[arg-type]
        begin = 0
        for stop in (part.offsets[1:][ones] * dtype.itemsize).tolist():
            pieces += (data[begin:stop], mark)
            begin = stop
        pieces.append(data[begin:])
    return np.frombuffer(b"".join(pieces), dtype=dtype)


def _offsets(lengths: Any) -> Any:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
