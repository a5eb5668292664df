"""A seeded sample over the source files of a split, in random order.

Invariant: which rows are taken, and in which order, follows from the seed and the sources alone. Each row has a number
of 64 bits, a hash of (seed, source file, number of the row in it). Source files are taken in an order that the seed
gives, at least `MIN_FILES` of them and as many as it takes to hold the rows wanted; of all rows in these files the ones
with the smallest numbers are the sample, and the order of their numbers is its order. So every file has the same chance
to be read, every row of the files read has the same chance to be drawn, and all orders are equally likely. Memory is
bounded: rows are thrown into buckets by their number, and one bucket at a time is sorted.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hfassets.c4.account import Account
from hfassets.c4.counting import Counted, count_sources, local_source
from hfassets.c4.journal import Position
from hfassets.c4.request import ShardSetRequest
from hfassets.c4.rows import Batch, batches, examine
from hfassets.hub.configs import METADATA_FILES
from hfassets.hub.listing import RepoFile
from hfassets.hub.memory import VerifyMemory
from hfassets.hub.session import HubClient
from hfassets.parts import PartOutput, Plan, run
from hfassets.progress import ProgressCallback
from hfassets.sources.cached import fetch_sources, located
from hfassets.sources.files import Sources, find_sources

STAGE = "c4_draw"
FORMAT = 1
MIN_FILES = 4
BUCKET_BYTES = 64 << 20
MOST_BUCKETS = 4096
_BATCH = 1 << 20
_FLUSH = 32 << 20
_TOP_BITS = 16
_RECORD = struct.Struct("<QI")
_LAST = 2**64 - 1

Numbers = npt.NDArray[np.uint64]


def file_key(seed: int, path: str) -> int:
    """The number of 64 bits from which those of a file's rows, and its place in the order of files, follow."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{path}".encode()).digest()[:8], "little")


def row_numbers(key: int, first: int, end: int) -> Numbers:
    """The numbers of rows `first` to `end` (excluded) of a file: uint64, shape (end - first,).

    SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014) from the file's key.
    """
    with np.errstate(over="ignore"):
        state = np.uint64(key) + np.arange(first + 1, end + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return state ^ (state >> np.uint64(31))


def limits(keys: Sequence[int], counts: Sequence[int], wanted: int) -> tuple[int, list[int]]:
    """The largest number that is drawn, and how many rows of exactly that number each file gives (the first ones).

    Two passes over all numbers, in constant memory: the bin of the top bits that holds it, then that bin alone.
    """
    if sum(counts) <= wanted:
        return _LAST, list(counts)
    shift = np.uint64(64 - _TOP_BITS)
    histogram = np.zeros(1 << _TOP_BITS, np.int64)
    for numbers in _all_numbers(keys, counts):
        histogram += np.bincount((numbers >> shift).astype(np.int64), minlength=len(histogram))
    below = np.cumsum(histogram)
    top = int(np.searchsorted(below, wanted))
    left = wanted - (int(below[top - 1]) if top else 0)
    inside = [numbers[(numbers >> shift) == np.uint64(top)] for numbers in _all_numbers(keys, counts)]
    limit = int(np.sort(np.concatenate(inside))[left - 1])
    ties = left - int(sum(int((numbers < np.uint64(limit)).sum()) for numbers in inside))
    given = []
    for key, count in zip(keys, counts, strict=True):
        equal = sum(int((numbers == np.uint64(limit)).sum()) for numbers in _all_numbers([key], [count]))
        given.append(min(ties, equal))
        ties -= given[-1]
    return limit, given


def _all_numbers(keys: Sequence[int], counts: Sequence[int]) -> Iterator[Numbers]:
    for key, count in zip(keys, counts, strict=True):
        for first in range(0, count, _BATCH):
            yield row_numbers(key, first, min(first + _BATCH, count))


class Sample:
    """The rows of a sample; see the module. `damaged` stays None: sources are proven before they are read."""

    damaged: int | None = None

    def __init__(self, client: HubClient, request: ShardSetRequest, progress: ProgressCallback) -> None:
        self._client = client
        self._request = request
        self._progress = progress
        self._seed = request.seed or 0
        self._memory = VerifyMemory.open(request.state, request.repo)
        self._sources: Sources = find_sources(
            client, request.repo, request.commit, request.config, request.split, request.state, progress
        )
        self._files: list[RepoFile] = []
        self._counted: list[Counted] = []
        self._drawn: list[int] = []
        self._folders: list[Path] = []
        self._buckets = 0

    def prepare(self) -> None:
        """Fetch and count as many source files as are needed, draw, and throw the rows into buckets."""
        order = sorted(self._sources.files, key=lambda file: (file_key(self._seed, file.path), file.path))
        places: list[tuple[RepoFile, Path]] = []
        while len(places) < len(order) and len(places) < self._needed():
            wave = order[len(places) : len(places) + max(MIN_FILES, self._request.workers, self._expected(places))]
            wanted = self._sources.listing.select([*METADATA_FILES, *(file.path for file in wave)])
            fetch_sources(self._client, self._request.repo, wanted, self._memory, self._progress)
            found = located(self._request.repo, self._request.commit, self._sources.listing, wave, self._memory)
            work = self._request.work / f"count-{len(places):05}"
            self._counted += count_sources(found, work, self._request.pool(len(found)), self._progress)
            places += found
        # What was read beyond that belongs to no sample, or the workers would decide what is in it.
        needed = min(len(places), self._needed())
        self._files, self._counted = order[:needed], self._counted[:needed]
        self._draw([place for _, place in places[:needed]])

    def rows(self, begin: Position) -> Generator[tuple[int, str, Batch], None, None]:
        """(bucket, its name, batch) from a place in the sample on."""
        for bucket in range(begin.file, self._buckets):
            lines = self._sorted(bucket)
            start = begin.line if bucket == begin.file else 0
            while start < len(lines):
                end, size = start, 0
                while end < len(lines) and size < _BATCH:
                    size += len(lines[end])
                    end += 1
                yield bucket, f"sample, bucket {bucket}", examine(b"".join(lines[start:end]), start)
                start = end

    def discard(self, index: int) -> None:
        """A bucket is not needed any more; it goes when the shard set is done."""

    def tail(self) -> Account:
        """The lines of the sources that are not in the sample, by what became of them."""
        if not self._counted:
            return Account()
        whole = Account()
        for one in self._counted:
            whole = whole.merge(one.account)
        drawn = sum(self._drawn)
        return Account(
            lines=whole.lines - drawn,
            blank=whole.blank,
            malformed=whole.malformed,
            not_drawn=whole.rows - drawn,
            listed=whole.listed,
        )

    def used(self, end: Position) -> tuple[Mapping[str, Any], ...]:
        """The source files that were read, how many rows each has, and how many were drawn."""
        return tuple(
            {
                "path": file.path,
                "size": file.size,
                "hash": file.etag,
                "read": "whole",
                "rows": counted.rows,
                "drawn": drawn,
            }
            for file, counted, drawn in zip(self._files, self._counted, self._drawn, strict=True)
        )

    def _needed(self) -> int:
        """How many files hold the rows wanted, at least `MIN_FILES`; one more than counted while nobody knows."""
        rows = 0
        for number, one in enumerate(self._counted, 1):
            rows += one.rows
            if rows >= self._request.num_samples and number >= MIN_FILES:
                return number
        return len(self._counted) + 1

    def _expected(self, read: Sequence[tuple[RepoFile, Path]]) -> int:
        """How many more files it will take, if all have as many rows as those read so far."""
        rows = sum(one.rows for one in self._counted)
        if not rows:
            return 0
        return math.ceil((self._request.num_samples - rows) * len(read) / rows)

    def _draw(self, places: Sequence[Path]) -> None:
        keys = [file_key(self._seed, file.path) for file in self._files]
        counts = [one.rows for one in self._counted]
        limit, ties = limits(keys, counts, self._request.num_samples)
        total = sum(counts)
        size = sum(one.size for one in self._counted) * min(1.0, self._request.num_samples / max(1, total))
        buckets = min(MOST_BUCKETS, max(1, -(-int(size) // BUCKET_BYTES)))
        shift = max(0, limit.bit_length() - (buckets - 1).bit_length()) if buckets > 1 else 64
        self._buckets = (limit >> shift) + 1
        parts = [
            {
                "name": f"{number:05}-{file.etag[:12]}", "path": file.path, "size": file.size, "etag": file.etag,
                "local": str(place), "key": str(key), "limit": str(limit), "ties": tie, "shift": shift,
            }
            for number, (file, place, key, tie) in enumerate(zip(self._files, places, keys, ties, strict=True))
        ]  # fmt: skip
        root = self._request.work / "draw"
        plan = Plan(STAGE, FORMAT, {"sources": [file.etag for file in self._files]}, {"seed": self._seed}, parts)
        made = run(plan, draw_part, self._request.pool(len(parts)), root, replace=True, progress=self._progress)
        self._drawn = [int(manifest.account["rows"]) for manifest in made.manifests]
        self._folders = [root / str(part["name"]) for part in parts]

    def _sorted(self, bucket: int) -> list[bytes]:
        numbers: list[int] = []
        lines: list[bytes] = []
        for folder in self._folders:
            path = folder / _bucket_name(bucket)
            data = path.read_bytes() if path.exists() else b""
            place = 0
            while place < len(data):
                number, length = _RECORD.unpack_from(data, place)
                place += _RECORD.size
                numbers.append(number)
                lines.append(data[place : place + length])
                place += length
        # Stable: rows of one number stay in the order of their files.
        order = np.argsort(np.array(numbers, np.uint64), kind="stable")
        return [lines[place] for place in order]


def draw_part(part: dict[str, Any], folder: Path) -> PartOutput:
    """Worker: the drawn rows of one source file, thrown into buckets."""
    key, limit, shift = int(part["key"]), int(part["limit"]), int(part["shift"])
    ties, row, drawn, held = int(part["ties"]), 0, 0, 0
    waiting: dict[int, list[bytes]] = {}

    def flush() -> None:
        for bucket, pieces in waiting.items():
            with (folder / _bucket_name(bucket)).open("ab") as file:
                file.writelines(pieces)
        waiting.clear()

    for batch in batches(local_source(part)):
        numbers = row_numbers(key, row, row + batch.rows)
        chosen = np.flatnonzero(numbers <= np.uint64(limit))
        row += batch.rows
        if not len(chosen):
            continue
        lines = batch.data.split(b"\n")
        for place in chosen:
            number = int(numbers[place])
            if number == limit:
                if ties == 0:
                    continue
                ties -= 1
            line = lines[place] + b"\n"
            waiting.setdefault(number >> shift, []).append(_RECORD.pack(number, len(line)) + line)
            held += len(line)
            drawn += 1
        if held >= _FLUSH:
            flush()
            held = 0
    flush()
    return PartOutput({"rows": drawn})


def _bucket_name(bucket: int) -> str:
    return f"bucket-{bucket:05}"
