"""Rows of a source as JSON lines, in batches, the bad ones taken out and told.

Invariant: a line that is a JSON object is passed on as the bytes that it came as; every line that was read is in
exactly one count of the account: rows, blank or malformed.
"""

from __future__ import annotations

import decimal
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import orjson

from hfassets.errors import DataError
from hfassets.sources.decode import decoded
from hfassets.sources.files import RemoteSource, Source, format_of
from hfassets.storage.ahead import reading_ahead

TEXT = "text"
EXCERPT = 80
DEPTH = 8
"""Pieces that are decoded ahead of what is looked at."""
_BATCH = 1 << 19
_PARQUET_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Malformed:
    """A source line that is no JSON object: its number in the file (from 0), why, and how it begins."""

    line: int
    reason: str
    begins: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Some consecutive lines of a source: `first` to `end` (excluded), counted from 0 in the file.

    `data` holds the rows, each with its newline; `numbers` are their line numbers, None when no line was left out.
    `lengths`: characters of the text of each row, -1 where there is no text.
    """

    first: int
    end: int
    data: bytes
    lengths: list[int]
    numbers: list[int] | None = None
    blank: int = 0
    malformed: tuple[Malformed, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.lengths)

    def cut(self, rows: int) -> tuple[Batch, Batch]:
        """The first `rows` rows (fewer than there are), ending right behind the last of them, and the rest."""
        place = -1
        for _ in range(rows):
            place = self.data.index(b"\n", place + 1)
        last = self.first + rows - 1 if self.numbers is None else self.numbers[rows - 1]
        middle = last + 1
        ahead = tuple(one for one in self.malformed if one.line < middle)
        left_out = middle - self.first - rows
        blank = left_out - len(ahead)
        numbers = self.numbers
        return (
            Batch(self.first, middle, self.data[: place + 1], self.lengths[:rows],
                  None if numbers is None else numbers[:rows], blank, ahead),
            Batch(middle, self.end, self.data[place + 1 :], self.lengths[rows:],
                  None if numbers is None else numbers[rows:], self.blank - blank, self.malformed[len(ahead) :]),
        )  # fmt: skip


def batches(source: Source, skip: int = 0) -> Iterator[Batch]:
    """The rows of a source from line `skip` on.

    Raises DataError for what cannot be decoded, DamagedSourceError and HubError as the source does.
    """
    path = source.file.path
    kind = format_of(path)
    if kind == "parquet":
        yield from _parquet_batches(source, skip)
        return

    with ExitStack() as stack:
        chunks = source.chunks()
        if isinstance(source, RemoteSource):
            # Receiving, hashing and keeping what arrives is work enough for a thread of its own.
            chunks = stack.enter_context(reading_ahead(chunks, DEPTH))
        blocks = stack.enter_context(reading_ahead(whole_lines(decoded(chunks, kind, path)), DEPTH))
        yield from line_batches(blocks, skip)


def line_batches(blocks: Iterable[bytes], skip: int = 0) -> Iterator[Batch]:
    """Look at blocks of whole lines, one after the other; lines before `skip` are only counted."""
    number = 0
    for block in blocks:
        data = block
        if number < skip:
            count = block.count(b"\n")
            if number + count <= skip:
                number += count
                continue
            place = -1
            for _ in range(skip - number):
                place = data.index(b"\n", place + 1)
            data, number = data[place + 1 :], skip
        batch = examine(data, number)
        yield batch
        number = batch.end


def whole_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Regroup to blocks that end with a newline, of about `_BATCH` bytes unless a line is longer.

    A last line without a newline gets one.
    """
    held: list[bytes | memoryview] = []
    size = 0
    for piece in pieces:
        end = piece.rfind(b"\n") + 1 if size + len(piece) >= _BATCH else 0
        if end:
            held.append(memoryview(piece)[:end])
            yield b"".join(held)
            piece, held, size = piece[end:], [], 0
        held.append(piece)
        size += len(piece)
    rest = b"".join(held)
    if rest:
        yield rest if rest.endswith(b"\n") else rest + b"\n"


def examine(data: bytes, first: int) -> Batch:
    """The batch of whole lines `data`, the first of which is line `first` of its file."""
    loads, find, view = orjson.loads, data.find, memoryview(data)
    lengths: list[int] = []
    start = 0
    try:
        # Faster than to split first: no line is copied.
        while (end := find(b"\n", start)) >= 0:
            text = loads(view[start:end])[TEXT]
            lengths.append(len(text) if type(text) is str else -1)
            start = end + 1
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
        return _examine_each(data.split(b"\n")[:-1], first)
    return Batch(first, first + len(lengths), data, lengths)


def _examine_each(lines: list[bytes], first: int) -> Batch:
    kept: list[bytes] = []
    numbers: list[int] = []
    lengths: list[int] = []
    malformed: list[Malformed] = []
    blank = 0
    for number, line in enumerate(lines, first):
        if not line.strip():
            blank += 1
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            malformed.append(Malformed(number, f"{error.msg} at byte {error.pos}", _excerpt(line)))
            continue
        if not isinstance(row, dict):
            malformed.append(Malformed(number, f"a {type(row).__name__}, not an object", _excerpt(line)))
            continue
        text = row.get(TEXT)
        kept.append(line)
        numbers.append(number)
        lengths.append(len(text) if isinstance(text, str) else -1)
    data = b"".join(line + b"\n" for line in kept)
    every = len(kept) == len(lines)
    return Batch(first, first + len(lines), data, lengths, None if every else numbers, blank, tuple(malformed))


def _excerpt(line: bytes) -> str:
    return line[:EXCERPT].decode("utf-8", "backslashreplace")


def _parquet_batches(source: Source, skip: int) -> Iterator[Batch]:
    """Parquet rows become JSON lines, columns in file order; a row group is the most that is held."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = source.fetch() if isinstance(source, RemoteSource) else source.path
    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                if number + count <= skip:
                    number += count
                    continue
                for table in file.iter_batches(_PARQUET_ROWS, row_groups=[group]):
                    rows = table.to_pylist()
                    unwanted = max(0, min(len(rows), skip - number))
                    number += unwanted
                    if rows := rows[unwanted:]:
                        yield _rows_batch(rows, number, source.file.path)
                        number += len(rows)
    except pa.ArrowException as error:
        what = str(error).splitlines()[0]
        raise DataError(f"{source.file.path}: not a Parquet file that can be read: {what}") from error


def _plain(value: object) -> str:
    """What JSON has no form for: decimals keep all their digits as text; bytes have no text."""
    if isinstance(value, decimal.Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _rows_batch(rows: list[dict[str, Any]], first: int, path: str) -> Batch:
    try:
        data = b"".join(orjson.dumps(row, default=_plain, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
    except (orjson.JSONEncodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: rows {first:,} and following cannot become JSON: {error}") from error
    lengths = [len(text) if isinstance(text := row.get(TEXT), str) else -1 for row in rows]
    return Batch(first, first + len(rows), data, lengths)
