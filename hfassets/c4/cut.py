"""Rows cut into parts, each written to a temporary file beside its place.

Invariant: a part ends right behind its last row, so that where it ends does not depend on how the lines came in
batches.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from hfassets.c4.journal import Part, Position
from hfassets.c4.request import Compression
from hfassets.c4.rows import Batch
from hfassets.c4.writer import PartWriter

Lines = Iterable[tuple[int, str, Batch]]


@dataclass(frozen=True, slots=True)
class Shape:
    """What the parts of a shard set look like: rows and file name by index, and how they are compressed."""

    rows: Callable[[int], int]
    name: Callable[[int], str]
    compression: Compression


def cut(
    lines: Lines,
    shape: Shape,
    folder: Path,
    first: int,
    stop: int,
    begin: Position,
    on_rows: Callable[[int], None] = lambda _: None,
) -> Generator[tuple[Part, Path], None, None]:
    """Parts `first` to `stop` (excluded) of `lines`, which start at `begin`, each with its temporary file.

    Whoever takes a part gives the file its name before asking for the next, or it is deleted. When the lines end before
    `stop`, the last part is short; one with no rows tells of lines that were read behind the last row. `on_rows` hears
    how many rows the growing part has.
    """
    index = first
    with ExitStack() as stack:
        writer: PartWriter | None = None
        for file, path, batch in lines:
            rest: Batch | None = batch
            while rest is not None:
                if writer is None:
                    writer = stack.enter_context(
                        PartWriter(index, folder / shape.name(index), shape.compression, begin)
                    )
                room = shape.rows(index) - writer.rows
                if rest.rows < room:
                    writer.add(rest, file, path)
                    break
                head, rest = rest.cut(room)
                writer.add(head, file, path)
                yield writer.finish(), writer.temporary
                index, begin, writer = index + 1, writer.end, None
                stack.pop_all().close()
                if index == stop:
                    return
                rest = rest if rest.end > rest.first else None
            on_rows(0 if writer is None else writer.rows)
        if writer is not None:
            yield writer.finish(), writer.temporary
