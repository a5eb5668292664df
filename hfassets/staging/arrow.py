"""Arrow files of a split as one sequence of rows, read by their numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_ROWS = 1000


def read_rows(files: Sequence[tuple[str, int]], start: int, stop: int, columns: Sequence[str] | None = None) -> Any:
    """Record batches of the rows from `start` to `stop`, excluded; `files`: Arrow streams with the rows of each.

    Batches have at most 1,000 rows. Memory-mapped: a batch that is not asked for costs its header.
    """
    before = 0
    for path, rows in files:
        if before + rows > start and before < stop:
            yield from _rows_of(Path(path), max(0, start - before), min(rows, stop - before), columns)
        before += rows
        if before >= stop:
            return


def _rows_of(path: Path, start: int, stop: int, columns: Sequence[str] | None) -> Iterator[Any]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as batches:
        before = 0
        for batch in batches:
            first, last = max(start, before), min(stop, before + batch.num_rows)
            chosen = batch if columns is None else batch.select(list(columns))
            for place in range(first, last, _ROWS):
                yield chosen.slice(place - before, min(_ROWS, last - place))
            before += batch.num_rows
            if before >= stop:
                return
