"""Rows that nobody has looked into yet, fit for another process: lines of JSON, or a row group of a Parquet file.

Invariant: `unpacked` gives what reading the file in the ordinary way gives.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from hfassets.errors import DataError

LARGEST_GROUP = 64 << 20
"""Row groups of more bytes than this, decoded, are not packed: whoever looks at them would need them whole."""
AT_ONCE = 64
"""Rows that are made into objects at once: few enough for what is made of them to stay near the processor."""
_AT_ONE_GO = 8 << 20
_GAP = 1 << 16
"""Unwanted bytes between two wanted stretches that are read along."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no JSON object, and why."""

    reason: str


Row = dict[str, Any]
ReadAt = Callable[[int, int], bytes]
"""So many bytes from a place on."""


@dataclass(frozen=True, slots=True)
class PackedLines:
    """Lines of JSON as uint8, `count` of them; a blank one is no row."""

    data: Any
    count: int

    def __len__(self) -> int:
        return self.count

    def unpacked(self) -> Iterator[list[Row | BadRow | None]]:
        """The rows, some at a time; None for a blank line."""
        lines = self.data.tobytes().split(b"\n")
        for start in range(0, len(lines), AT_ONCE):
            yield [row_of(line) for line in lines[start : start + AT_ONCE]]


@dataclass(frozen=True, slots=True)
class PackedGroup:
    """The rows of a Parquet file's row group from row `skip` of it on, `count` of them, in the wanted columns.

    `stretches`: what of the file's bytes is needed, as uint8, by where they begin; `size`: of the file.
    """

    name: str
    size: int
    stretches: Sequence[tuple[int, Any]]
    group: int
    columns: Sequence[str] | None
    skip: int
    count: int

    def __len__(self) -> int:
        return self.count

    def unpacked(self) -> Iterator[list[Row | BadRow | None]]:
        """The rows, some at a time; raises DataError for bytes that are not Parquet's."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            sparse = pa.PythonFile(_Sparse(self.size, self.stretches), mode="r")
            with pq.ParquetFile(sparse, page_checksum_verification=True) as file:
                table = file.read_row_group(self.group, columns=self.columns, use_threads=False)
                for start in range(self.skip, table.num_rows, AT_ONCE):
                    yield table.slice(start, AT_ONCE).to_pylist()
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                # The disk's; what Arrow says of damage has no number.
                raise
            raise unreadable(self.name, error) from error


PackedRows = PackedLines | PackedGroup


def packed_lines(lines: Sequence[bytes]) -> PackedLines:
    """Lines without their ends, packed."""
    return PackedLines(np.frombuffer(b"\n".join(lines), np.uint8), len(lines))


def rows_of(rows: Sequence[Row | BadRow | None] | PackedRows) -> Sequence[Row | BadRow | None]:
    """Rows, whether they were packed or not."""
    if isinstance(rows, PackedLines | PackedGroup):
        return [row for some in rows.unpacked() for row in some]
    return rows


def unreadable(name: str, error: Exception) -> DataError:
    """What to say of a Parquet file that its reader refuses."""
    return DataError(f"{name}: not a Parquet file that can be read: {str(error).splitlines()[0]}")


def row_of(line: bytes) -> Row | BadRow | None:
    """The row of a line of JSON; None for a blank one."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return BadRow(f"{error.msg} at byte {error.pos}") if line.strip() else None
    return value if isinstance(value, dict) else BadRow(f"a {type(value).__name__}, not an object")


class GroupPacker:
    """The row groups of a Parquet file, packed one after the other. `metadata`: of the file.

    Neighbours are read with one request as long as they are small: a request costs as much as some hundred rows.
    """

    def __init__(self, name: str, read_at: ReadAt, size: int, metadata: Any, columns: Sequence[str] | None) -> None:
        self._name = name
        self._read_at = read_at
        self._size = size
        self._metadata = metadata
        self._columns = columns
        self._footer = size - 8 - metadata.serialized_size
        self._held: list[tuple[int, Any]] = []

    def pack(self, group: int, skip: int) -> PackedGroup:
        """A row group without its first `skip` rows."""
        if not self._held:
            self._held.append((self._footer, self._read(self._footer, self._size)))
        stretches = [(begin, self._stretch(group, begin, end)) for begin, end in _joined(self._wanted(group))]
        rows = self._metadata.row_group(group).num_rows
        return PackedGroup(self._name, self._size, [*stretches, self._held[0]], group, self._columns, skip, rows - skip)

    def _stretch(self, group: int, begin: int, end: int) -> Any:
        for place, data in self._held:
            if place <= begin and end <= place + len(data):
                return data[begin - place : end - place]
        last = end
        for later in range(group, self._metadata.num_row_groups):
            for first, behind in _joined(self._wanted(later)):
                if first >= begin:
                    if first - last > _GAP or behind - begin > _AT_ONE_GO:
                        return self._kept(begin, last)[: end - begin]
                    last = max(last, behind)
        return self._kept(begin, last)[: end - begin]

    def _kept(self, begin: int, end: int) -> Any:
        """Read, and keep for the next row group."""
        data = self._read(begin, end)
        self._held[1:] = [*self._held[1:][-1:], (begin, data)]
        return data

    def _read(self, begin: int, end: int) -> Any:
        return np.frombuffer(self._read_at(end - begin, begin), np.uint8)

    def _wanted(self, group: int) -> list[tuple[int, int]]:
        found = self._metadata.row_group(group)
        wanted = []
        for index in range(found.num_columns):
            column = found.column(index)
            if self._columns is None or column.path_in_schema in self._columns:
                dictionary = column.dictionary_page_offset
                # Some writers name a dictionary page at 0 when there is none.
                begin = min(dictionary, column.data_page_offset) if dictionary else column.data_page_offset
                wanted.append((begin, begin + column.total_compressed_size))
        return sorted(wanted)


def _joined(stretches: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for begin, end in stretches:
        if found and begin - found[-1][1] <= _GAP:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found


class _Sparse(io.RawIOBase):
    """A file of which only some stretches are here; what lies between reads as zeros."""

    def __init__(self, size: int, stretches: Sequence[tuple[int, Any]]) -> None:
        super().__init__()
        self._size = size
        self._stretches = stretches
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence] + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def read(self, size: int = -1, /) -> Any:
        """What is here as it lies, without a copy."""
        for begin, data in self._stretches:
            if 0 <= size <= begin + len(data) - self._place and begin <= self._place:
                start = self._place - begin
                self._place += size
                return memoryview(data)[start : start + size]
        return super().read(size)

    def readinto(self, buffer: Any, /) -> int:
        size = max(0, min(len(buffer), self._size - self._place))
        end = self._place + size
        covered = 0
        for begin, data in self._stretches:
            first, last = max(begin, self._place), min(begin + len(data), end)
            if first < last:
                if first > self._place + covered:
                    buffer[covered : first - self._place] = bytes(first - self._place - covered)
                buffer[first - self._place : last - self._place] = memoryview(data)[first - begin : last - begin]
                covered = last - self._place
        # The end of a file is read in one go, with whatever lies before its footer.
        buffer[covered:size] = bytes(size - covered)
        self._place = end
        return size
