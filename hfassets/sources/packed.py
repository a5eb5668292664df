"""Rows that nobody has looked into yet, fit for another process: lines of JSON, or a row group of a Parquet file.

Invariant: `unpacked` gives what reading the file in the ordinary way gives.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from hfassets.errors import DataError

LARGEST_GROUP = 64 << 20
"""Row groups of more bytes than this, decoded, are not packed: whoever looks at them would need them whole."""
AT_ONCE = 64
"""Rows that are made into objects at once: few enough for what is made of them to stay near the processor."""
_GAP = 1 << 16
"""Unwanted bytes between two wanted stretches that are read along."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no JSON object, and why."""

    reason: str


Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PackedLines:
    """Lines of JSON, `count` of them; a blank one is no row."""

    data: bytes
    count: int

    def __len__(self) -> int:
        return self.count

    def unpacked(self) -> Iterator[list[Row | BadRow | None]]:
        """The rows, some at a time; None for a blank line."""
        lines = self.data.split(b"\n")
        for start in range(0, len(lines), AT_ONCE):
            yield [row_of(line) for line in lines[start : start + AT_ONCE]]


@dataclass(frozen=True, slots=True)
class PackedGroup:
    """The rows of a Parquet file's row group from row `skip` of it on, `count` of them, in the wanted columns.

    `stretches`: what of the file's bytes is needed, by where they begin; `size`: of the file.
    """

    name: str
    size: int
    stretches: Sequence[tuple[int, bytes]]
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


def pack_group(
    name: str, opened: Any, size: int, metadata: Any, group: int, columns: Sequence[str] | None, skip: int
) -> PackedGroup:
    """A row group of a Parquet file that is open as an Arrow file; `metadata`: of the whole."""
    found = metadata.row_group(group)
    wanted = []
    for index in range(found.num_columns):
        column = found.column(index)
        if columns is None or column.path_in_schema in columns:
            dictionary = column.dictionary_page_offset
            # Some writers name a dictionary page at 0 when there is none.
            begin = min(dictionary, column.data_page_offset) if dictionary else column.data_page_offset
            wanted.append((begin, begin + column.total_compressed_size))
    footer = size - 8 - metadata.serialized_size
    stretches = []
    for begin, end in [*_joined(sorted(wanted)), (footer, size)]:
        opened.seek(begin)
        stretches.append((begin, opened.read(end - begin)))
    return PackedGroup(name, size, stretches, group, columns, skip, found.num_rows - skip)


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

    def __init__(self, size: int, stretches: Sequence[tuple[int, bytes]]) -> None:
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
