"""The parts of a large shard set, made by several processes: one piece of work for each source file.

Invariant: the parts are those of one process going through the sources in order; how many processes there are changes
when they are made, and nothing else.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hfassets.c4.counting import Counted, begins, count_sources, local_source
from hfassets.c4.cut import Shape, cut
from hfassets.c4.journal import Part, Position
from hfassets.c4.request import ShardSetRequest
from hfassets.c4.rows import Batch, batches
from hfassets.errors import IntegrityError, PartialFailureError
from hfassets.hub.listing import RepoFile
from hfassets.parts import PartOutput, Plan
from hfassets.parts.make import entry_point
from hfassets.parts.plan import PLAN_FILE, load_plan, store_plan
from hfassets.progress import ProgressCallback
from hfassets.storage.manifest import MANIFEST_FILE, read_manifest

STAGE = "c4_write"
FORMAT = 2


Located = Sequence[tuple[RepoFile, Path]]
"""Source files in their order, each with the place where it lies, proven."""


def count_enough(located: Located, request: ShardSetRequest, progress: ProgressCallback) -> list[Counted]:
    """Count files from the first on until they hold the rows asked for, or there are no more."""
    counted: list[Counted] = []
    while len(counted) < len(located):
        rows = sum(one.rows for one in counted)
        if rows >= request.num_samples:
            break
        done = sum(file.size for file, _ in located[: len(counted)])
        left = located[len(counted) :]
        wanted = request.workers
        if rows:
            bytes_wanted = (request.num_samples - rows) * done / rows
            wanted = max(wanted, next(_reaching(left, bytes_wanted)))
        wave = left[:wanted]
        counted += count_sources(wave, request.work / f"count-{len(counted):05}", request.pool(len(wave)), progress)
    return counted


def _reaching(files: Sequence[tuple[RepoFile, Path]], size: float) -> Iterator[int]:
    """How many files it takes to have `size` bytes."""
    total = 0
    for number, (file, _) in enumerate(files, 1):
        total += file.size
        if total >= size:
            yield number
    yield len(files)


def write_in_parallel(
    located: Located,
    counted: Sequence[Counted],
    request: ShardSetRequest,
    done: Collection[int],
    folder: Path,
) -> Generator[tuple[Part, Path], None, None]:
    """The parts that are not `done` (by index), as far as the counted files reach, in any order.

    Each comes with its file in a folder of its own below `folder`. Raises PartialFailureError naming the source files
    at which parts could not be made, after all others.
    """
    each = request.max_lines_per_file or request.num_samples
    starts = list(begins(counted, each, request.num_samples))
    runs = list(_runs(starts))
    work: list[dict[str, Any]] = [
        {
            "name": f"{first:07}",
            "first": first,
            "begin": list(starts[first]),
            "parts": [[request.part_name(index), request.part_rows(index)] for index in range(first, stop)],
            "compression": request.compression,
            "source": starts[first].file,
        }
        for first, stop in runs
    ]
    sources = [_described(file, path) for file, path in located[: len(counted)]]
    # The whole plan, whatever is done already: so a run that was killed is gone on with, and not begun anew.
    plan = Plan(STAGE, FORMAT, dict(request.inputs), {}, work, {"sources": sources})
    todo = [place for place, (first, stop) in enumerate(runs) if not all(one in done for one in range(first, stop))]
    _make_folder(folder, plan)
    failures: list[tuple[str, str]] = []
    for outcome in request.pool(len(todo)).map(folder / PLAN_FILE, plan.fingerprint, todo):
        made = folder / str(work[outcome.index]["name"])
        manifest = read_manifest(made / MANIFEST_FILE) if outcome.error is None else None
        if manifest is None:
            source = located[starts[int(work[outcome.index]["first"])].file][0]
            failures.append((source.path, outcome.error or "its parts are not there"))
            continue
        for document in manifest.details["parts"]:
            part = Part.from_dict(document)
            if part.index not in done:
                yield part, made / part.name
        shutil.rmtree(made)
    shutil.rmtree(folder)
    if failures:
        raise PartialFailureError("source files", failures, len(work))


def _make_folder(folder: Path, plan: Plan) -> None:
    """Make it this plan's; what another plan has left goes, but for what a backend keeps there of its own."""
    with suppress(IntegrityError):
        stored = load_plan(folder / PLAN_FILE)
        if stored is not None and stored[0].fingerprint == plan.fingerprint:
            return
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
            shutil.rmtree(path)
    store_plan(folder / PLAN_FILE, plan, entry_point(write_parts))


def write_parts(part: dict[str, Any], folder: Path) -> PartOutput:
    """Worker: the parts that begin in one source file."""
    first, begin = int(part["first"]), Position(*part["begin"])
    wanted = part["parts"]
    shape = Shape(
        rows=lambda index: int(wanted[index - first][1]),
        name=lambda index: str(wanted[index - first][0]),
        compression=part["compression"],
    )

    def lines() -> Iterator[tuple[int, str, Batch]]:
        for number, described in enumerate(part["context"]["sources"][part["source"] :]):
            source = local_source(described)
            for batch in batches(source, begin.line if number == 0 else 0):
                yield begin.file + number, source.file.path, batch

    parts = []
    for made, temporary in cut(lines(), shape, folder, first, first + len(wanted), begin):
        if made.rows:
            temporary.replace(folder / made.name)
            parts.append(made.to_dict())
    return PartOutput({"rows": sum(one["rows"] for one in parts)}, {"parts": parts})


def _runs(starts: Sequence[Position]) -> Iterator[tuple[int, int]]:
    """Runs of parts that begin in one source file, as (first, stop)."""
    first = 0
    for index in range(1, len(starts) + 1):
        if index == len(starts) or starts[index].file != starts[first].file:
            yield first, index
            first = index


def _described(file: RepoFile, path: Path) -> dict[str, Any]:
    return {"path": file.path, "size": file.size, "etag": file.etag, "local": str(path)}
