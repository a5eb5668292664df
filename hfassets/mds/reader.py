"""Samples of an MDS, one at a time or shard by shard; no torch.

Invariant: what is read has the size, and where the index has hashes the hash, that the index says.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import xxhash
import zstd

from hfassets.errors import DataError, IntegrityError
from hfassets.mds.columns import Column, column
from hfassets.mds.index import Shard, read_index
from hfassets.tokens.ragged import Ragged

_KEPT_SHARDS = 4


@dataclass(frozen=True)
class ShardData:
    """The samples of one shard: its bytes, and where the value of each column begins and ends in each sample.

    `starts`, `ends`: int64 of shape (columns, samples).
    """

    name: str
    data: bytes
    columns: dict[str, Column]
    starts: Any
    ends: Any

    def __len__(self) -> int:
        return int(self.starts.shape[1])

    def sample(self, place: int) -> dict[str, Any]:
        """All values of a sample."""
        return {
            name: one.decode(self.data[self.starts[row, place] : self.ends[row, place]])
            for row, (name, one) in enumerate(self.columns.items())
        }

    def encoded(self, name: str) -> list[bytes]:
        """The bytes of a column's values; raises DataError when there is no such column."""
        row = self._row(name)
        data = self.data
        starts, ends = self.starts[row].tolist(), self.ends[row].tolist()
        return [data[start:end] for start, end in zip(starts, ends, strict=True)]

    def texts(self, name: str) -> list[str]:
        """A column of `str`; raises DataError for another one, or for bytes that are not UTF-8."""
        self._expect(name, "str")
        try:
            return [value.decode() for value in self.encoded(name)]
        except UnicodeDecodeError as error:
            raise DataError(f"{self.name}: column {name} is not UTF-8: {error}") from None

    def ints(self, name: str) -> Any:
        """A column of whole numbers, as int64."""
        self._expect(name, "int")
        return np.frombuffer(b"".join(self.encoded(name)), dtype="<i8")

    def arrays(self, name: str) -> Ragged:
        """A column of arrays of one dimension and one dtype; raises DataError for another one."""
        row = self._row(name)
        which = self.columns[name]
        if not which.is_array:
            raise DataError(f"{self.name}: column {name} is {which.encoding}, not an array")
        if not len(self):
            return Ragged(np.array([], dtype=which.dtype or "uint16"), np.zeros(1, dtype=np.int64))
        raw = np.frombuffer(self.data, dtype=np.uint8)
        begins = self.starts[row]
        dtype = which.dtype
        if dtype is None:
            codes = raw[begins]
            if (codes != codes[0]).any():
                raise DataError(f"{self.name}: column {name} mixes dtypes")
            dtype = which.array_layout(self.data[begins[0] : self.ends[row][0]])[0]
            begins = begins + 1
        if which.shape is None:
            heads = raw[begins]
            if (heads >> 2 != 1).any():
                raise DataError(f"{self.name}: column {name} has arrays that are not of one dimension")
            begins = begins + 1 + (1 << (heads & 3).astype(np.int64))
        pieces = map(self.data.__getitem__, map(slice, begins.tolist(), self.ends[row].tolist()))
        values = np.frombuffer(b"".join(pieces), dtype=np.dtype(dtype))
        offsets = np.zeros(len(self) + 1, dtype=np.int64)
        np.cumsum((self.ends[row] - begins) // np.dtype(dtype).itemsize, out=offsets[1:])
        return Ragged(values, offsets)

    def array_lengths(self, name: str) -> Any:
        """How many numbers each array of a column has, int64."""
        return self.arrays(name).lengths

    def _row(self, name: str) -> int:
        if name not in self.columns:
            raise DataError(f"{self.name}: no column {name!r}; it has {', '.join(self.columns)}")
        return list(self.columns).index(name)

    def _expect(self, name: str, encoding: str) -> None:
        self._row(name)
        if self.columns[name].encoding != encoding:
            raise DataError(f"{self.name}: column {name} is {self.columns[name].encoding}, not {encoding}")


class MdsReader(Sequence[dict[str, Any]]):
    """The samples of a folder's index. `verify`: hash what is read, where the index has hashes."""

    def __init__(self, folder: Path, shards: Sequence[Shard] | None = None, *, verify: bool = True) -> None:
        self._folder = folder
        self._verify = verify
        self.shards: tuple[Shard, ...] = read_index(folder) if shards is None else tuple(shards)
        self._shard_data = lru_cache(maxsize=_KEPT_SHARDS)(self.read_shard)

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(shard.samples for shard in self.shards))

    def __len__(self) -> int:
        return self._ends[-1] if self.shards else 0

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        number = place + len(self) if place < 0 else place
        if not 0 <= number < len(self):
            raise IndexError(f"sample {place} of {len(self):,}")
        shard = bisect_right(self._ends, number)
        before = self._ends[shard - 1] if shard else 0
        return self._shard_data(shard).sample(number - before)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for data in self.blocks():
            for place in range(len(data)):
                yield data.sample(place)

    def blocks(self) -> Iterator[ShardData]:
        """Shard by shard."""
        for place in range(len(self.shards)):
            yield self.read_shard(place)

    def read_shard(self, place: int) -> ShardData:
        """One shard. Raises IntegrityError when it is not what the index says, DataError when it is no MDS."""
        shard = self.shards[place]
        data = read_raw(self._folder, shard, verify=self._verify)
        return parse_shard(data, shard, str(self._folder / shard.raw))


def read_shard_file(path: Path) -> ShardData:
    """A shard as it describes itself, without an index; `.zstd` is decompressed.

    Raises IntegrityError for one that cannot be decompressed, DataError for one that is no MDS.
    """
    data = _read(path)
    if path.name.endswith(".zstd"):
        try:
            data = zstd.decompress(data)
        except zstd.Error as error:
            raise IntegrityError(f"{path}: cannot be decompressed ({error})") from None
    try:
        count = int(np.frombuffer(data, "<u4", 1)[0])
        first = int(np.frombuffer(data, "<u4", 1, 4)[0])
        config = orjson.loads(data[4 + 4 * (count + 1) : first])
        described = {"basename": path.name, "bytes": len(data), "hashes": {}}
        shard = Shard({**config, "samples": count, "raw_data": described, "zip_data": None})
        return parse_shard(data, shard, str(path))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not an MDS shard ({type(error).__name__}: {error})") from None


def read_raw(folder: Path, shard: Shard, *, verify: bool = True) -> bytes:
    """The uncompressed bytes of a shard, from the uncompressed file or the compressed one, whichever is there."""
    raw, zipped = folder / shard.raw, None if shard.zipped is None else folder / shard.zipped
    if zipped is not None and (zipped.exists() or not raw.exists()):
        packed = _read(zipped)
        if verify:
            prove(packed, shard.entry["zip_data"], zipped)
        try:
            data: bytes = zstd.decompress(packed)
        except zstd.Error as error:
            raise IntegrityError(f"{zipped}: cannot be decompressed ({error})") from None
        # Whatever the compressed file's hash proves, decompression has checked by its own.
        if len(data) != shard.raw_bytes:
            raise IntegrityError(f"{zipped}: {len(data):,} B decompressed, the index says {shard.raw_bytes:,}")
        return data
    data = _read(raw)
    if verify:
        prove(data, shard.entry["raw_data"], raw)
    elif len(data) != shard.raw_bytes:
        raise IntegrityError(f"{raw}: {len(data):,} B, the index says {shard.raw_bytes:,}")
    return data


def parse_shard(data: bytes, shard: Shard, name: str) -> ShardData:
    """Where each value of a shard lies; raises DataError for bytes that are no shard of this index."""
    columns = {key: column(encoding) for key, encoding in shard.columns.items()}
    try:
        count = int(np.frombuffer(data, "<u4", 1)[0])
        offsets = np.frombuffer(data, "<u4", count + 1, 4).astype(np.int64)
    except ValueError:
        raise DataError(f"{name}: too short for an MDS shard") from None
    varying = [one for one in columns.values() if one.size is None]
    head = 4 * len(varying)
    lengths = np.diff(offsets)
    if count != shard.samples or offsets[-1] != len(data) or (count and lengths.min() < head):
        raise DataError(f"{name}: not the MDS shard of {shard.samples:,} samples that the index describes")
    begins = offsets[:-1]
    raw = np.frombuffer(data, dtype=np.uint8)
    sizes = raw[begins[:, None] + np.arange(head)].view("<u4").reshape(count, len(varying)) if count else None
    starts = np.empty((len(columns), count), dtype=np.int64)
    ends = np.empty_like(starts)
    place, seen = begins + head, 0
    for row, one in enumerate(columns.values()):
        starts[row] = place
        if one.size is not None:
            place = place + one.size
        elif sizes is not None:
            place = place + sizes[:, seen].astype(np.int64)
            seen += 1
        ends[row] = place
    if count and (place != offsets[1:]).any():
        raise DataError(f"{name}: the sizes of its values do not add up to its samples")
    return ShardData(name, data, columns, starts, ends)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise IntegrityError(f"{path}: the index names it, and it is not there") from None


def prove(data: bytes, described: Any, path: Path) -> None:
    """Hold a file's bytes against what an index says of it; raises IntegrityError, DataError for an unknown hash."""
    if len(data) != described["bytes"]:
        raise IntegrityError(f"{path}: {len(data):,} B, the index says {described['bytes']:,}")
    for algorithm, expected in (described.get("hashes") or {}).items():
        new = getattr(xxhash, algorithm, None) or getattr(hashlib, algorithm, None)
        if new is None:
            raise DataError(f"{path}: the index has a hash {algorithm!r} that is not known here")
        if new(data).hexdigest() != expected:
            raise IntegrityError(f"{path}: its {algorithm} is not what the index says")
