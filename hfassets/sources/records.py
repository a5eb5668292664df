"""The rows of a source file as Python objects, from any row on: Parquet, JSON lines and JSON arrays.

Invariant: row n of a file is the same object whether the file is read from its beginning or from any row on, from the
Hub cache or as it arrives; what is no object is told, not skipped.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from hfassets.errors import DataError
from hfassets.sources.decode import decoded
from hfassets.sources.files import RemoteSource, Source, format_of
from hfassets.sources.packed import (
    LARGEST_GROUP,
    BadRow,
    GroupPacker,
    PackedRows,
    ReadAt,
    Row,
    packed_lines,
    row_of,
    unreadable,
)
from hfassets.sources.ranges import RangeFile
from hfassets.storage.ahead import reading_ahead

_LINES = 512
_PARQUET_ROWS = 1024
WHOLE_BELOW = 16 << 20
"""Parquet files up to this many bytes are fetched whole, and so proven."""
_WINDOW = 4 << 20
_LONGEST_OBJECT = 256 << 20
_LONGEST_LITERAL = 8
_DEPTH = 4
_DECODE = json.JSONDecoder().raw_decode


@dataclass(frozen=True, slots=True)
class Records:
    """Consecutive rows, the first of which is row `first` of its file (from 0); None stands for a blank line."""

    first: int
    rows: Sequence[Row | BadRow | None] | PackedRows


def records(
    source: Source, skip: int = 0, columns: Sequence[str] | None = None, *, packed: bool = False
) -> Iterator[Records]:
    """The rows of a source from row `skip` on.

    `columns`: those wanted of a Parquet file (`a`, or `a.b` within a struct); None = all. Other formats give all.
    `packed`: leave rows packed where that is possible. Raises DataError for what cannot be decoded, DamagedSourceError
    and HubError as the source does.
    """
    path = source.file.path
    kind = format_of(path)
    with ExitStack() as stack:
        if kind == "parquet":
            found = _parquet(source, skip, columns, stack, packed=packed)
        else:
            chunks = source.chunks()
            if isinstance(source, RemoteSource):
                chunks = stack.enter_context(reading_ahead(chunks, _DEPTH))
            pieces = stack.enter_context(reading_ahead(decoded(chunks, kind, path), _DEPTH))
            found = _json(pieces, skip, path, packed=packed)
        yield from stack.enter_context(reading_ahead(found, 2)) if kind == "parquet" else found


def _parquet(
    source: Source, skip: int, columns: Sequence[str] | None, stack: ExitStack, *, packed: bool
) -> Iterator[Records]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = source.file.path
    try:
        opened: Any
        if isinstance(source, RemoteSource) and source.file.size > WHOLE_BELOW and not source.spool.exists():
            ranges = stack.enter_context(RangeFile(source))
            opened = pa.PythonFile(ranges, mode="r")
            read_at: ReadAt = ranges.read_at
        else:
            path = source.fetch() if isinstance(source, RemoteSource) else source.path
            opened = stack.enter_context(pa.OSFile(str(path)))
            read_at = opened.read_at
        # Their Arrow schema may promise types of extensions that are not here; the Parquet one says enough.
        file = stack.enter_context(pq.ParquetFile(opened, pre_buffer=True, page_checksum_verification=True))
        wanted = _present(file, columns)
        packer = GroupPacker(name, read_at, opened.size(), file.metadata, wanted)
        number = 0
        for group in range(file.num_row_groups):
            found = file.metadata.row_group(group)
            unwanted = max(0, min(found.num_rows, skip - number))
            if unwanted == found.num_rows:
                number += unwanted
            elif packed and found.total_byte_size <= LARGEST_GROUP:
                number += unwanted
                yield Records(number, packer.pack(group, unwanted))
                number += found.num_rows - unwanted
            else:
                for batch in file.iter_batches(_PARQUET_ROWS, row_groups=[group], columns=wanted):
                    unwanted = max(0, min(batch.num_rows, skip - number))
                    number += unwanted
                    if unwanted < batch.num_rows:
                        yield Records(number, batch.slice(unwanted).to_pylist())
                        number += batch.num_rows - unwanted
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            # The disk's; what Arrow says of damage has no number.
            raise
        raise unreadable(name, error) from error


def _present(file: Any, columns: Sequence[str] | None) -> list[str] | None:
    """Those of the wanted columns that the file has: older files of a dataset may lack a newer one."""
    if columns is None:
        return None
    paths = [file.metadata.schema.column(index).path for index in range(file.metadata.num_columns)]
    plain = [path.replace(".list.element", "").replace(".list.item", "") for path in paths]
    return [
        path
        for path, name in zip(paths, plain, strict=True)
        if any(name == column or name.startswith(f"{column}.") for column in columns)
    ]


def _json(pieces: Iterable[bytes], skip: int, path: str, *, packed: bool) -> Iterator[Records]:
    """Lines; or, if the name promises no lines and the first character is a bracket, one array of objects."""
    if re.search(r"\.(jsonl|ndjson)(\.|$)", path.lower()):
        return _lines(pieces, skip, packed=packed)
    waiting = iter(pieces)
    head = b""
    for piece in waiting:
        head += piece
        if head.lstrip():
            break
    rest = _after(head, waiting)
    if head.lstrip()[:1] == b"[":
        return _array(rest, skip, path)
    return _lines(rest, skip, packed=packed)


def _after(head: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from pieces


def _lines(pieces: Iterable[bytes], skip: int, *, packed: bool) -> Iterator[Records]:
    number, held = 0, b""
    for piece in pieces:
        *lines, held = (held + piece).split(b"\n") if held else piece.split(b"\n")
        yield from _of_lines(lines, number, skip, packed=packed)
        number += len(lines)
    if held:
        yield from _of_lines([held], number, skip, packed=packed)


def _of_lines(lines: Sequence[bytes], number: int, skip: int, *, packed: bool) -> Iterator[Records]:
    for start in range(max(0, skip - number), len(lines), _LINES):
        some = lines[start : start + _LINES]
        rows = packed_lines(some) if packed else [row_of(line) for line in some]
        yield Records(number + start, rows)


class _Text:
    """The text of an array, a window of it at a time."""

    def __init__(self, pieces: Iterable[bytes], path: str) -> None:
        self._pieces = iter(pieces)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._path = path
        self.text = ""
        self.place = 0

    def grow(self) -> bool:
        """Bring in another window; False at the end."""
        taken, size = [self.text[self.place :]], 0
        try:
            while size < _WINDOW and (piece := next(self._pieces, b"")):
                taken.append(self._decoder.decode(piece))
                size += len(piece)
        except UnicodeDecodeError:
            raise DataError(f"{self._path}: not text in UTF-8") from None
        self.text, self.place = "".join(taken), 0
        return size > 0

    def skip_space(self) -> str:
        """The next character that is no space, "" at the end."""
        while True:
            while self.place < len(self.text) and self.text[self.place] in " \t\r\n":
                self.place += 1
            if self.place < len(self.text) or not self.grow():
                return self.text[self.place : self.place + 1]


def _value(window: _Text, number: int, path: str) -> tuple[Any, int]:
    """The value at the window's place, and where it ends."""
    while True:
        try:
            value, end = _DECODE(window.text, window.place)
            # A number may go on in the next window; all others end where they end.
            if end < len(window.text) or isinstance(value, dict | list | str) or not window.grow():
                return value, end
        except json.JSONDecodeError as error:
            cut = error.msg.startswith("Unterminated") or error.pos >= len(window.text) - _LONGEST_LITERAL
            if not cut or len(window.text) - window.place > _LONGEST_OBJECT or not window.grow():
                raise DataError(f"{path}: object {number:,} of the array is damaged: {error.msg}") from None


def _array(pieces: Iterable[bytes], skip: int, path: str) -> Iterator[Records]:
    window = _Text(pieces, path)
    window.skip_space()
    window.place += 1
    number = 0
    rows: list[Row | BadRow | None] = []
    while (sign := window.skip_space()) != "]":
        if number and sign == ",":
            window.place += 1
            sign = window.skip_space()
        elif number:
            raise DataError(f"{path}: the array is damaged after object {number:,}")
        value, end = _value(window, number, path)
        window.place = end
        if number >= skip:
            rows.append(value if isinstance(value, dict) else BadRow(f"a {type(value).__name__}, not an object"))
            if len(rows) == _LINES:
                yield Records(number + 1 - len(rows), rows)
                rows = []
        number += 1
    if rows:
        yield Records(number - len(rows), rows)
