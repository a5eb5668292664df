"""Which texts were there before: an exact set of 16-byte digests in bounded memory.

Invariant: `add` is True for the first digest of its value and for no other. In memory are the newest digests, at most
`limit` of them; older ones lie sorted in files, 16 bytes each: 10^8 rows take 1.6 GB of disk, and of memory what
`limit` says (about 100 bytes each) and the pages that the kernel likes to keep.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import xxhash

Method = Literal["xxh3_128", "md5_hash"]
WIDTH = 16
LIMIT = 500_000
_MERGE_AT = 8
_BLOCK = 1 << 16
_MERGE_BLOCK = 1 << 20

Digest = Callable[[bytes], bytes]


def digest_of(method: Method) -> Digest:
    """Bytes to 16 bytes."""
    if method == "md5_hash":
        return lambda data: hashlib.md5(data, usedforsecurity=False).digest()
    return xxhash.xxh3_128_digest


class DigestSet:
    """Use as a context manager; `folder` (default: the system's for temporary files) gets the files."""

    def __init__(self, folder: Path | None = None, limit: int = LIMIT) -> None:
        self._limit = limit
        self._parent = folder
        self._new: set[bytes] = set()
        self._runs: list[Any] = []
        self._known: set[bytes] = set()
        self._count = 0
        self._written = 0

    def __enter__(self) -> Self:
        self._exits = ExitStack()
        if self._parent is not None:
            self._parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(self._exits.enter_context(tempfile.TemporaryDirectory(prefix="digests-", dir=self._parent)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runs.clear()
        self._exits.close()

    def __len__(self) -> int:
        return self._count

    def look_up(self, digests: Sequence[bytes]) -> None:
        """Prepare `add` of these digests: what of them lies in the files is found for all at once."""
        self._known.clear()
        if len(self._new) >= self._limit:
            self._spill()
        if self._runs and digests:
            wanted = _halves(digests)
            # In order, so that neighbours are looked for in neighbouring pages.
            order = np.argsort(wanted[0])
            for run in self._runs:
                found = order[_contains(run, wanted[:, order])]
                self._known.update(digests[place] for place in found)

    def add(self, digest: bytes) -> bool:
        """Whether it is new; it was in the last `look_up`."""
        if not self.is_new(digest):
            return False
        self._new.add(digest)
        self._count += 1
        return True

    def is_new(self, digest: bytes) -> bool:
        """Whether `add` would be True; it was in the last `look_up`."""
        return digest not in self._new and digest not in self._known

    def add_some(self, digests: Sequence[bytes], most: int) -> list[bool]:
        """`add` of one after the other until it was True `most` times: what it was for those that were come to."""
        new, known = self._new, self._known
        before = len(new)
        found = []
        for digest in digests:
            if digest in known:
                found.append(False)
                continue
            size = len(new)
            new.add(digest)
            found.append(len(new) > size)
            if len(new) - before == most:
                break
        self._count += len(new) - before
        return found

    def clear(self) -> None:
        """Forget all."""
        self._new.clear()
        self._known.clear()
        for run in self._runs:
            Path(str(run.filename)).unlink()
        self._runs.clear()
        self._count = 0

    def add_all(self, digests: Iterable[bytes]) -> None:
        """Add many, whether new or not."""
        block: list[bytes] = []
        for digest in digests:
            block.append(digest)
            if len(block) == _BLOCK:
                self._add_block(block)
                block = []
        self._add_block(block)

    def _add_block(self, block: Sequence[bytes]) -> None:
        self.look_up(block)
        for digest in block:
            self.add(digest)

    def _spill(self) -> None:
        self._runs.append(self._stored([_sorted(_halves(list(self._new)))]))
        self._new.clear()
        size = self._runs[-1].shape[1]
        alike = [run for run in self._runs if run.shape[1] < _MERGE_AT * size]
        if len(alike) >= _MERGE_AT:
            self._runs = [run for run in self._runs if run.shape[1] >= _MERGE_AT * size]
            self._runs.append(self._stored(_merged(alike)))
            for run in alike:
                Path(str(run.filename)).unlink()

    def _stored(self, blocks: Iterable[Any]) -> Any:
        """Blocks, one after the other, as a file: all high halves and then all low ones."""
        path = self._folder / f"{self._written}.u8"
        self._written += 1
        lows = path.with_suffix(".low")
        size = 0
        with path.open("wb") as high, lows.open("w+b") as low:
            for block in blocks:
                block[0].tofile(high)
                block[1].tofile(low)
                size += block.shape[1]
            low.seek(0)
            high.flush()
            shutil.copyfileobj(low, high, 1 << 22)
        lows.unlink()
        return np.memmap(path, dtype="<u8", mode="r", shape=(2, size))


def _halves(digests: Sequence[bytes]) -> Any:
    """Digests as numbers, shape (2, n): their high halves and their low ones."""
    return np.frombuffer(b"".join(digests), dtype=">u8").astype("<u8").reshape(-1, 2).T


def _sorted(halves: Any) -> Any:
    return np.ascontiguousarray(halves[:, np.lexsort((halves[1], halves[0]))])


def _contains(run: Any, wanted: Any) -> Any:
    """Which of the wanted digests a sorted run has, as places in `wanted`."""
    highs, lows = run[0], run[1]
    places = np.searchsorted(highs, wanted[0])
    open_ones = np.arange(wanted.shape[1])
    found = []
    while len(open_ones):
        inside = places[open_ones] < highs.shape[0]
        open_ones = open_ones[inside]
        open_ones = open_ones[highs[places[open_ones]] == wanted[0][open_ones]]
        hit = lows[places[open_ones]] == wanted[1][open_ones]
        found.append(open_ones[hit])
        # Another digest may share the high half: look one further.
        open_ones = open_ones[~hit]
        places[open_ones] += 1
    return np.concatenate(found) if found else np.array([], dtype=np.int64)


def _merged(runs: Sequence[Any]) -> Iterator[Any]:
    """The digests of sorted runs in order, a range of them at a time; they are spread evenly, as digests are."""
    total = sum(run.shape[1] for run in runs)
    count = max(1, total // _MERGE_BLOCK)
    edges = [place * (1 << 64) // count for place in range(count + 1)]
    starts = [0] * len(runs)
    for edge in edges[1:]:
        last = edge == 1 << 64
        ends = [run.shape[1] if last else int(np.searchsorted(run[0], np.uint64(edge))) for run in runs]
        parts = [run[:, start:end] for run, start, end in zip(runs, starts, ends, strict=True)]
        yield _sorted(np.concatenate(parts, axis=1))
        starts = ends
