"""How many rows each source file has, and which of its lines are none: counted by source file, in parallel.

Invariant: a source is counted from the bytes that the Hub lists (its proven blob), so that a count belongs to its hash
for ever.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from hfassets.c4.account import Account
from hfassets.c4.journal import Position
from hfassets.c4.rows import batches
from hfassets.hub.listing import RepoFile
from hfassets.parts import PartOutput, Plan, run
from hfassets.parts.pool import Backend
from hfassets.progress import ProgressCallback
from hfassets.sources.files import LocalSource, format_of

STAGE = "c4_count"
FORMAT = 1
_COUNTS = "counts.json"


@dataclass(frozen=True, slots=True)
class Counted:
    """A source file with `rows` rows of `size` bytes; `others`: the lines (from 0) that are none; `account` of all."""

    rows: int
    size: int
    others: tuple[int, ...]
    account: Account

    def line_of(self, row: int) -> int:
        """The line at which row number `row` (from 0) stands; that behind the last row for `row` = rows."""
        if row == 0:
            return 0
        # A part begins right behind the last row of the one before it.
        others = np.asarray(self.others, np.int64)
        before = row - 1
        skipped = int(np.searchsorted(others - np.arange(len(others)), before, side="right"))
        return before + skipped + 1


def count_sources(
    found: Sequence[tuple[RepoFile, Path]], work: Path, pool: Backend, progress: ProgressCallback
) -> list[Counted]:
    """Count these files, each as a part of its own; those counted by an earlier run are not counted again.

    Raises PartialFailureError naming each file that could not be read.
    """
    names = [f"{number:05}-{file.etag[:12]}" for number, (file, _) in enumerate(found)]
    parts = [
        {"name": name, "path": file.path, "size": file.size, "etag": file.etag, "local": str(local)}
        for name, (file, local) in zip(names, found, strict=True)
    ]
    plan = Plan(STAGE, FORMAT, {"sources": [file.etag for file, _ in found]}, {}, parts)
    run(plan, count_part, pool, work, replace=True, progress=progress)
    return [_load(work / name / _COUNTS) for name in names]


def count_part(part: dict[str, Any], folder: Path) -> PartOutput:
    """Worker: count one source file."""
    source = local_source(part)
    account, size = Account(), 0
    others: list[int] = []
    for batch in batches(source):
        account = account.add(batch, source.file.path)
        size += len(batch.data)
        if batch.rows < batch.end - batch.first:
            kept = set(batch.numbers if batch.numbers is not None else range(batch.first, batch.end))
            others += [line for line in range(batch.first, batch.end) if line not in kept]
    document = {"rows": account.rows, "size": size, "others": others, "account": account.close().to_dict()}
    (folder / _COUNTS).write_bytes(orjson.dumps(document))
    return PartOutput(account.counts)


def local_source(part: dict[str, Any]) -> LocalSource:
    """The source that a part of a plan names."""
    format_of(part["path"])
    return LocalSource(RepoFile(part["path"], part["size"], part["etag"]), Path(part["local"]))


def begins(counted: Sequence[Counted], each: int, total: int) -> Iterator[Position]:
    """Where part 0, 1, 2 … begin, when each has `each` rows of the `total`, as far as the counted files reach."""
    ends = list(itertools.accumulate(one.rows for one in counted))
    file = 0
    for row in range(0, min(total, ends[-1] if ends else 0), each):
        if row == 0:
            yield Position(0, 0)
            continue
        # The part begins where the one before it ended: behind its last row, be it the last of a file.
        while ends[file] < row:
            file += 1
        before = ends[file - 1] if file else 0
        yield Position(file, counted[file].line_of(row - before))


def _load(path: Path) -> Counted:
    document = orjson.loads(path.read_bytes())
    account = Account.from_dict(document["account"])
    return Counted(document["rows"], document["size"], tuple(document["others"]), account)
