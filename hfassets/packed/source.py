"""Packed rows as a teacher reads them: whose they are, how many, and runs of them.

Invariant: rows have one order, that of the shards by name and of the rows in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from hfassets.errors import DataError, IntegrityError
from hfassets.mds.inputs import hashed_files
from hfassets.packed.shards import PARTS, PATTERN, find_shards
from hfassets.progress import ProgressCallback, silent
from hfassets.storage.state import StateDir
from hfassets.tokens.packed import METADATA
from hfassets.tokens.vocabulary import Vocabulary

_COLUMNS = ("input_ids", "attention_mask", "loss_mask")


@dataclass(frozen=True)
class PackedRows:
    """A packed folder. `identity`: its fingerprint, or name, size and SHA-256 of each shard; `counts`: rows of each
    shard, in order; `vocabulary`: of its tokens, None when its shards do not say.
    """

    folder: Path
    identity: Any
    counts: Mapping[str, int]
    size: int
    shifted: bool
    vocabulary: Vocabulary | None

    def parts(self, most: int) -> list[dict[str, Any]]:
        """Runs of at most so many rows, none over two shards. `row`: the number of a run's first row in the folder."""
        found: list[dict[str, Any]] = []
        before = 0
        for shard, count in self.counts.items():
            for first in range(0, count, most):
                stop = min(first + most, count)
                name = f"part_{len(found):05}"
                found.append({"name": name, "shard": shard, "first": first, "stop": stop, "row": before + first})
            before += count
        return found


def packed_rows(folder: Path, state: StateDir, progress: ProgressCallback = silent) -> PackedRows:
    """A folder as `hfassets distill tokenize` makes them, or of others with such shards; raises DataError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = sorted(folder.glob(PATTERN))
    if not paths:
        raise DataError(f"{folder}: no {PATTERN} in it")
    counts: dict[str, int] = {}
    told: dict[str, Any] = {}
    sizes = set()
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                counts[path.name] = file.metadata.num_rows
                kind = file.schema_arrow
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: not Parquet that can be read: {' '.join(str(error).split())[:200]}") from None
        sizes.add(_size(path, kind))
        told = orjson.loads((kind.metadata or {}).get(METADATA, b"{}"))
    if len(sizes) > 1:
        raise DataError(f"{folder}: its shards have rows of {' and '.join(map(str, sorted(sizes)))} tokens")
    found = find_shards(folder)
    if found is None and (folder / PARTS).exists():
        raise DataError(f"{folder}: not finished; run what packs it again")
    identity: Any = None
    if found is not None:
        identity = found.fingerprint
    else:
        files = hashed_files(folder, paths, state, progress)
        identity = [[file.path, file.size, file.hash] for file in files]
    words = told.get("vocabulary")
    shifted = bool(told.get("rule", {}).get("shifted", True))
    return PackedRows(folder, identity, counts, sizes.pop(), shifted, None if words is None else Vocabulary(**words))


def read_rows(path: Path, first: int, stop: int, count: int) -> Iterator[dict[str, Any]]:
    """Rows of a shard from `first` to before `stop`, at most `count` at a time: int32 of shape (rows, tokens) by
    column. Raises IntegrityError for a shard that is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            names = [name for name in _COLUMNS if name in file.schema_arrow.names]
            begin = 0
            for group in range(file.metadata.num_row_groups):
                end = begin + file.metadata.row_group(group).num_rows
                if end > first and begin < stop:
                    table = file.read_row_group(group, columns=names)
                    wanted = table.slice(max(first - begin, 0), min(stop, end) - max(first, begin))
                    for place in range(0, len(wanted), count):
                        some = wanted.slice(place, count)
                        yield {name: _matrix(some.column(name)) for name in names}
                begin = end
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from error


def _matrix(column: Any) -> Any:
    values = column.combine_chunks()
    size = values.type.list_size
    return np.asarray(values.flatten()).reshape(-1, size)


def _size(path: Path, kind: Any) -> int:
    import pyarrow as pa

    for name in ("input_ids", "attention_mask"):
        one = kind.field(name).type if name in kind.names else None
        if one is None or not pa.types.is_fixed_size_list(one) or not pa.types.is_integer(one.value_type):
            raise DataError(f"{path}: {name} is {one or 'missing'}, not lists of one length of whole numbers")
    return int(kind.field("input_ids").type.list_size)
