"""MDS shards, written from values that are bytes already.

Invariant: shards and index are byte for byte those of mosaicml-streaming's MDSWriter for the same samples; the index
is written last, and only when everything before it succeeded. Source of the format: streaming/base/format/mds there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import xxhash
import zstd

from hfassets.errors import DataError, UsageError
from hfassets.mds.columns import Column, column
from hfassets.mds.index import Shard, write_index

SIZE_LIMIT = 1 << 26
_ZSTD_LEVELS = range(1, 23)
_ZSTD_LEVEL = 3
_PIECES = 4096


class SideBySide(NamedTuple):
    """The encoded values of a column in pieces: value n is piece n of the first list, then of the second, and so on."""

    pieces: tuple[Sequence[Any], ...]


Encoded = Sequence[bytes] | SideBySide


class MdsWriter:
    """Writes samples to a new folder; a context manager, whose body's failure leaves no index.

    `columns`: encodings by name. `compression`: None, `zstd` or `zstd:LEVEL`. `hashes`: names of hashlib or xxhash, for
    the index. `size_limit`: bytes of an uncompressed shard, None = one shard.
    """

    def __init__(
        self,
        folder: Path,
        columns: Mapping[str, str],
        compression: str | None = None,
        hashes: Sequence[str] = (),
        size_limit: int | None = SIZE_LIMIT,
    ) -> None:
        if size_limit is not None and not 0 < size_limit < 1 << 32:
            raise UsageError(f"a shard of {size_limit:,} B: it has to be between 1 B and 4 GiB")
        self._folder = folder
        self._names = sorted(columns)
        self._columns: list[Column] = [column(columns[name]) for name in self._names]
        self._level = zstd_level(compression)
        # The library refuses any other order.
        self._hashes = [(name, _hash(name)) for name in sorted(set(hashes))]
        self._config: dict[str, Any] = {
            "version": 2,
            "format": "mds",
            "compression": compression,
            "hashes": [name for name, _ in self._hashes],
            "size_limit": size_limit,
            "column_names": self._names,
            "column_encodings": [columns[name] for name in self._names],
            "column_sizes": [one.size for one in self._columns],
        }
        self._config_data = json.dumps(self._config, sort_keys=True).encode()
        self._limit = size_limit
        self._pieces: list[bytes] = []
        self._sizes: list[int] = []
        self._filled = self._empty = 8 + len(self._config_data)
        self._shards: list[Shard] = []
        self.samples = 0
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise DataError(f"{folder} is not empty; an MDS is written into a new folder")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()

    def write(self, sample: Mapping[str, Any]) -> None:
        """One sample of Python values; raises DataError for one that does not fit."""
        self.write_encoded(
            {name: [one.encode(sample[name])] for name, one in zip(self._names, self._columns, strict=True)}
        )

    def write_encoded(self, values: Mapping[str, Encoded]) -> None:
        """Samples, the encoded values of each column; raises DataError for values of another size than a column's."""
        columns = [_pieces(values[name]) for name in self._names]
        given = [piece for column in columns for piece in column]
        count = len(given[0])
        lengths = [sum(np.fromiter(map(len, one), dtype=np.int64, count=count) for one in column) for column in columns]
        varying = [one for one, which in zip(lengths, self._columns, strict=True) if which.size is None]
        for one, which, name in zip(lengths, self._columns, self._names, strict=True):
            if which.size is not None and count and bool((one != which.size).any()):  # type: ignore[union-attr]
                raise DataError(f"a value of column {name} has not the {which.size} B of {which.encoding}")
        heads = np.stack(varying, axis=1).astype("<u4").tobytes() if varying and count else b""
        width = 4 * len(varying)
        totals = sum(lengths) + width
        sizes = totals.tolist()  # type: ignore[union-attr]
        pieces = [heads[start : start + width] for start in range(0, len(heads), width)] if width else []
        rows = list(zip(*([pieces] if width else []), *given, strict=True))
        start = 0
        for stop in self._borders(totals):
            self._pieces += chain.from_iterable(rows[start:stop])
            self._sizes += sizes[start:stop]
            start = stop
            self._flush()
        self._pieces += chain.from_iterable(rows[start:])
        self._sizes += sizes[start:]
        self.samples += count

    def finish(self) -> tuple[Shard, ...]:
        """Write what is left, and the index; raises DataError when there was no sample at all."""
        if not self.samples:
            raise DataError(f"{self._folder}: an MDS without samples cannot be read; there was nothing to write")
        if self._sizes:
            self._flush()
        write_index(self._folder, self._shards)
        return tuple(self._shards)

    def _borders(self, sizes: Any) -> list[int]:
        """Before which samples a new shard begins; the bytes of the last, unfinished one are remembered."""
        if self._limit is None or not len(sizes):
            return []
        ends = np.cumsum(sizes + 4)
        found: list[int] = []
        filled, before = self._filled, 0
        while True:
            place = int(np.searchsorted(ends, self._limit - filled + before, side="right"))
            # A sample that is too large for a shard has one to itself.
            place = max(place, found[-1] + 1) if found else place
            if place >= len(ends):
                break
            found.append(place)
            filled, before = self._empty, int(ends[place - 1]) if place else 0
        self._filled = filled + int(ends[-1]) - before
        return found

    def _flush(self) -> None:
        count = len(self._sizes)
        offsets = np.zeros(count + 1, dtype=np.int64)
        np.cumsum(self._sizes, out=offsets[1:])
        offsets += 4 + 4 * (count + 1) + len(self._config_data)
        head = [np.uint32(count).tobytes(), offsets.astype("<u4").tobytes(), self._config_data]
        pieces, self._pieces, self._sizes = [*head, *self._pieces], [], []
        name = f"shard.{len(self._shards):05}.mds"
        packed = None
        if self._level is None:
            raw = self._written(name, (b"".join(some) for some in _batched(pieces)))
        else:
            data = b"".join(pieces)
            raw = self._described(name, len(data), [new(data) for _, new in self._hashes])
            zipped = zstd.compress(data, self._level)
            packed = self._written(f"{name}.zstd", [zipped])
        self._shards.append(Shard({**self._config, "samples": count, "raw_data": raw, "zip_data": packed}))

    def _written(self, name: str, blocks: Iterable[bytes]) -> dict[str, Any]:
        """Write a file block by block: a buffer for all of it would be new to the machine for every shard."""
        hashes, size = [new() for _, new in self._hashes], 0
        with (self._folder / name).open("xb", buffering=0) as file:
            for block in blocks:
                for one in hashes:
                    one.update(block)
                # A plain file takes all of it, or raises.
                size += file.write(block)
        return self._described(name, size, hashes)

    def _described(self, name: str, size: int, hashes: Sequence[Any]) -> dict[str, Any]:
        named = {algorithm: one.hexdigest() for (algorithm, _), one in zip(self._hashes, hashes, strict=True)}
        return {"basename": name, "bytes": size, "hashes": named}


def _batched(pieces: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The same pieces, some at a time."""
    for start in range(0, len(pieces), _PIECES):
        yield pieces[start : start + _PIECES]


def _pieces(values: Encoded) -> tuple[Sequence[Any], ...]:
    return values.pieces if isinstance(values, SideBySide) else (values,)


def zstd_level(compression: str | None) -> int | None:
    """The level of `zstd[:LEVEL]`; raises UsageError for what is not written here."""
    if compression is None:
        return None
    name, _, level = compression.partition(":")
    if name != "zstd" or (level and not (level.isdecimal() and int(level) in _ZSTD_LEVELS)):
        raise UsageError(f"compression {compression!r}: zstd, zstd:1 to zstd:22, or none")
    return int(level) if level else _ZSTD_LEVEL


def _hash(name: str) -> Any:
    if name in xxhash.algorithms_available:
        return getattr(xxhash, name)
    if name in hashlib.algorithms_guaranteed and not name.startswith("shake"):
        return getattr(hashlib, name)
    raise UsageError(f"no hash {name!r}; sha1, sha256, xxh3_64 and others of hashlib and xxhash are there")
