"""Where a recipe's rows come from: a prepared dataset config, or a folder of files in place of downloads.

Invariant: a source is Arrow files of splits, and an identity that says which rows they hold, in however
many files.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfassets.errors import DataError, SpaceError
from hfassets.hub.prepare import PrepareRequest, children_die_with_us, find_prepared
from hfassets.mds.inputs import hashed_files
from hfassets.progress import Note, ProgressCallback, silent
from hfassets.storage.state import StateDir


@dataclass(frozen=True)
class ArrowSource:
    """`splits`: the Arrow streams of each, with their rows, in order; `inputs`: the identity."""

    name: str
    splits: Mapping[str, tuple[tuple[Path, int], ...]]
    inputs: Mapping[str, Any]

    def rows(self, split: str) -> int:
        """Of a split."""
        return sum(rows for _, rows in self.splits[split])

    def bytes(self, split: str) -> int:
        """Of a split's files."""
        return sum(path.stat().st_size for path, _ in self.splits[split])

    def schema(self) -> Any:
        """As the first file has it; raises DataError when there is none."""
        import pyarrow as pa

        for files in self.splits.values():
            for path, _ in files:
                with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
                    return stream.schema
        raise DataError(f"{self.name}: no rows in it")


def from_prepared(request: PrepareRequest) -> ArrowSource:
    """A dataset config whose Arrow files lie in the `datasets` cache; raises DataError when they do not."""
    found = find_prepared(request)
    if found is None:
        raise DataError(f"{request.name}: not prepared at {request.commit[:12]}; materialise prepared_dataset first")
    from hfassets.hub import library

    arrow = library.read_prepared(found.folder).arrow
    return ArrowSource(request.key or request.name, dict(arrow), {"prepared_dataset": found.fingerprint})


def from_mirror(
    folder: Path,
    config: str | None,
    datasets_cache: Path,
    state: StateDir,
    num_proc: int | None,
    progress: ProgressCallback = silent,
) -> ArrowSource:
    """The files of a folder, as `load_dataset(folder, config)` reads them, prepared once in the `datasets` cache.

    Raises DataError when the library can make nothing of them, SpaceError.
    """
    from hfassets.hub import library

    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; it is where the files of a local mirror lie")
    errors = state.work("mirror", str(folder.absolute())) / "errors.log"
    errors.parent.mkdir(parents=True, exist_ok=True)
    progress(Note(f"{folder}: prepared as {config or 'its default config'} in {datasets_cache}, unless it is there"))
    try:
        with children_die_with_us(num_proc):
            arrow, files = library.prepare_local(folder, config, datasets_cache, num_proc, errors, progress)
        prepared = library.read_prepared(arrow)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SpaceError(f"{folder}: no space left in {datasets_cache} while it is prepared") from error
        raise DataError(f"{folder}: cannot be read as a dataset: {library.first_line(error, folder)}") from error
    except Exception as error:
        # The library raises its own kinds and plain ValueError for whatever is wrong with files.
        cause = error.__cause__ or error
        raise DataError(f"{folder}: cannot be read as a dataset: {library.first_line(cause, folder)}") from error
    inside = sorted(path for path in files if path.is_relative_to(folder.absolute()))
    hashed = hashed_files(folder.absolute(), inside, state, progress)
    inputs = {"mirror": [[file.path, file.size, file.hash] for file in hashed], "config": config}
    return ArrowSource(str(folder), dict(prepared.arrow), inputs)
