"""Rows of any source become documents: a text and an id each.

Invariant: every row is a document or in a named count; an id that is made is the same however the source was cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfassets.distillation.candidates import joined, kept_turns
from hfassets.distillation.mapping import Mapper, RowRefusedError, Span
from hfassets.errors import DataError
from hfassets.hub.listing import RepoFile
from hfassets.mds.inputs import Piece
from hfassets.mds.reader import ShardData, read_shard_file
from hfassets.sources.files import LocalSource, SliceSource, Source, format_of
from hfassets.sources.packed import BadRow, rows_of
from hfassets.sources.records import records

MALFORMED = "malformed"
NO_TEXT = "no_text"
BAD_SPAN = "bad_span"
_SAMPLES = 1024


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns hold a document's text and id; an id that is missing is made of the file's path and the row.

    `span`: the field of a struct, as `metadata.rationale_span`, with a span of the text; None = spans are not wanted.
    """

    text: str = "text"
    id: str = "id"
    span: str | None = None

    def to_list(self) -> list[str]:
        """JSON-ready: what the constructor takes, in order."""
        return [self.text, self.id, *([] if self.span is None else [self.span])]


@dataclass(frozen=True, slots=True)
class Documents:
    """Consecutive documents: ids and texts in UTF-8. `spans`: of each text, in characters, the end excluded, None where
    it has none; empty when they are not wanted.
    """

    ids: list[bytes]
    texts: list[bytes]
    spans: list[Span | None] = field(default_factory=list)


@dataclass
class Reading:
    """What became of the rows that were read: `read` = documents + the sum of `refused`."""

    read: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    _columns: list[str] | None = None
    _lacking: int = 0

    def lacks(self, row: Mapping[str, Any]) -> None:
        """A row without the text column."""
        self._lacking += 1
        self._columns = self._columns or sorted(row)

    def check(self, name: str, columns: Columns, source: Source) -> None:
        """Raise DataError when no row at all had the text column: then it is not the rows that are wrong."""
        if self._lacking and self._lacking == self.read - self.refused[MALFORMED]:
            has = ", ".join(_parquet_columns(source) or self._columns or ()) or "none"
            raise DataError(f"{name}: no column {columns.text!r} for the text; there are {has}")


def documents(
    piece: Piece,
    source: Source,
    columns: Columns,
    mapper: Callable[[Any], Any] | None,
    reading: Reading,
) -> Iterator[Documents]:
    """The documents of a piece of a file, block by block; counts go to `reading`.

    `mapper`: makes the text of a row, as a text or as turns; None = the text column. Raises DataError for a file that
    cannot be read, and for one in which no row has the text column.
    """
    wanted = None if mapper is not None else columns.to_list()
    for first, rows in _rows(source, wanted):
        yield _block(rows, piece.file.path, piece.begin.row + first, columns, mapper, reading)
    if mapper is None:
        reading.check(piece.file.path, columns, source)


def _rows(source: Source, wanted: Sequence[str] | None) -> Iterator[tuple[int, Sequence[Any]]]:
    """Blocks of rows, each with the number of its first one."""
    if isinstance(source, LocalSource) and is_shard(source.file.path):
        yield from _shard_rows(read_shard_file(source.path), wanted)
        return
    for block in records(source, 0, wanted):
        yield block.first, rows_of(block.rows)


def _shard_rows(shard: ShardData, wanted: Sequence[str] | None) -> Iterator[tuple[int, Sequence[Any]]]:
    """The rows of a shard, with all columns when somebody may ask for any, or lacks one."""
    if wanted is None or wanted[0] not in shard.columns:
        names = list(shard.columns)
    else:
        names = [name for name in wanted if name in shard.columns]
    for start in range(0, len(shard), _SAMPLES):
        places = range(start, min(start + _SAMPLES, len(shard)))
        yield start, [{name: sample[name] for name in names} for sample in map(shard.sample, places)]


def is_shard(path: str) -> bool:
    """Whether a file is one of an MDS, by its name."""
    return path.endswith((".mds", ".mds.zstd"))


def _parquet_columns(source: Source) -> list[str]:
    """The columns of a Parquet file that lies here: of its rows only the wanted ones were read. Else none."""
    path = source.file.path
    if not isinstance(source, LocalSource) or is_shard(path) or format_of(path) != "parquet":
        return []
    import pyarrow.parquet as pq

    names: list[str] = pq.read_schema(source.path).names
    return names


def opened(piece: Piece) -> LocalSource | SliceSource:
    """A piece that lies here, as a source of rows."""
    file = RepoFile(piece.file.path, piece.file.size, piece.file.hash)
    place = Path(piece.file.place)
    if piece.begin.byte or piece.end is not None:
        return SliceSource(file, place, piece.begin.byte, piece.file.size if piece.end is None else piece.end.byte)
    return LocalSource(file, place)


def _block(
    rows: Sequence[Any],
    path: str,
    first: int,
    columns: Columns,
    mapper: Callable[[Any], Any] | None,
    reading: Reading,
) -> Documents:
    ids: list[bytes] = []
    texts: list[bytes] = []
    spans: list[Span | None] = []
    for number, row in enumerate(rows, first):
        if row is None:
            continue
        reading.read += 1
        if isinstance(row, BadRow):
            reading.refused[MALFORMED] += 1
            continue
        span: Any = None
        if mapper is not None:
            text, span = _mapped(mapper, row, reading)
        else:
            text = row.get(columns.text)
            if columns.text not in row:
                reading.lacks(row)
            if columns.span is not None:
                span = _field(row, columns.span)
        if not isinstance(text, str):
            if text is not None or mapper is None:
                reading.refused[NO_TEXT] += 1
            continue
        if columns.span is not None:
            if not _fits(span, text):
                reading.refused[BAD_SPAN] += 1
                continue
            spans.append(None if span is None else (span[0], span[1]))
        try:
            data = text.encode()
        except UnicodeEncodeError:
            # Half of a pair, as JSON can write it: no text.
            reading.refused[MALFORMED] += 1
            del spans[len(texts) :]
            continue
        texts.append(data)
        ids.append(_id(row.get(columns.id), path, number))
    return Documents(ids, texts, spans)


def _field(row: Mapping[str, Any], path: str) -> Any:
    """The field of a struct of a row; None when there is none."""
    found: Any = row
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _fits(span: Any, text: str) -> bool:
    """Whether it is a span of the text, or none."""
    if span is None:
        return True
    whole = isinstance(span, Sequence) and len(span) == 2 and all(type(one) is int for one in span)
    return whole and 0 <= span[0] < span[1] <= len(text)


def _id(given: object, path: str, number: int) -> bytes:
    if isinstance(given, str) and given:
        return given.encode(errors="replace")
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given).encode()
    return f"{path}#{number}".encode()


def _mapped(mapper: Mapper, row: Any, reading: Reading) -> tuple[str | None, Span | None]:
    """The text that a mapper makes of a row, and the rationale's span; None when it refuses, counted by its reason."""
    try:
        made: Any = mapper(row)
        return (made, None) if isinstance(made, str) else joined(kept_turns(made), made)
    except RowRefusedError as refused:
        reading.refused[refused.reason] += 1
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        reading.refused[MALFORMED] += 1
    return None, None
