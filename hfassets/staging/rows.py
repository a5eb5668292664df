"""Worker that takes rows as they are: images and audio, with what their paths lead to put into the rows.

Invariant: nothing in a written row leads out of it: its folder can be carried anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hfassets.errors import DataError
from hfassets.parts import PartOutput
from hfassets.staging.arrow import read_rows
from hfassets.staging.splits import SplitPlan

_MEDIA_ROWS = 32


def rows_part(part: dict[str, Any], folder: Path) -> PartOutput:
    """Worker: some rows, an Arrow file for each split that they end in."""
    import pyarrow as pa

    context = part["context"]
    plan = SplitPlan(context["seed"], {}, context["shares"])
    outputs = plan.outputs(part["split"])
    # A row is told from others by its place: what it holds may be a path.
    sides = plan.sides([b"%d" % number for number in range(part["start"], part["stop"])])
    written = dict.fromkeys(outputs, 0)
    place = 0
    writers: dict[str, Any] = {}
    try:
        for batch in read_rows(context["files"][part["split"]], part["start"], part["stop"]):
            of = sides[place : place + batch.num_rows]
            place += batch.num_rows
            for number, name in enumerate(outputs):
                chosen = batch.filter(pa.array(of == number)) if len(outputs) > 1 else batch
                for piece in _embedded(chosen):
                    if name not in writers:
                        writers[name] = pa.ipc.new_stream(str(folder / f"data-{name}.arrow"), piece.schema)
                    writers[name].write_table(piece)
                    written[name] += piece.num_rows
    finally:
        for writer in writers.values():
            writer.close()
    return PartOutput({"rows_in": part["stop"] - part["start"], "rows": sum(written.values())}, {"rows": written})


def _embedded(batch: Any) -> Iterator[Any]:
    """Tables of a batch's rows with their media in them, few rows at a time: each may be large."""
    import pyarrow as pa

    from hfassets.hub import library

    table = pa.Table.from_batches([batch])
    if not library.has_media(table.schema):
        yield table
        return
    for start in range(0, table.num_rows, _MEDIA_ROWS):
        try:
            yield library.with_media(table.slice(start, _MEDIA_ROWS))
        except FileNotFoundError as error:
            raise DataError(f"{error.filename or error}: a row refers to it, and it is not there") from error
