"""An MDS given back: as text, as JSON lines, uncompressed, or as a table for people.

Invariant: nothing of the MDS is changed, except that `decompress` puts uncompressed shards beside compressed ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import orjson

from hfassets.errors import DataError
from hfassets.mds.index import INDEX, Shard, collect, read_index, write_index
from hfassets.mds.reader import MdsReader, read_raw
from hfassets.progress import Progress, ProgressCallback, silent
from hfassets.storage.atomic import open_atomic, write_atomic
from hfassets.storage.manifest import MANIFEST_FILE
from hfassets.tokens.engine import Engine


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: samples and bytes."""

    path: Path
    samples: int
    bytes: int


def samples(root: Path, progress: ProgressCallback = silent) -> Iterator[tuple[str, dict[str, Any]]]:
    """All samples below a folder, each with the folder that its shard lies in; raises DataError when there are none."""
    shards = collect(root)
    if not shards:
        raise DataError(f"{root}: no MDS with samples in it")
    reader = MdsReader(root, shards)
    for number, shard in enumerate(shards):
        block = reader.read_shard(number)
        domain = str(PurePosixPath(shard.raw).parent)
        for place in range(len(block)):
            yield domain, block.sample(place)
        progress(Progress("shards", number + 1, len(shards), "shards"))


def to_jsonl(root: Path, out: Path, engine: Engine | None = None, progress: ProgressCallback = silent) -> Exported:
    """JSON lines of all samples; with an engine, `input_ids` becomes `text`. `domain` is the folder of a sample.

    Raises DataError when there is nothing to decode in it.
    """
    count = size = 0
    with open_atomic(out) as file:
        for domain, sample in samples(root, progress):
            if engine is not None:
                if "input_ids" not in sample:
                    raise DataError(f"{root}: no column input_ids to decode; there are {', '.join(sample)}")
                sample["text"] = engine.decode(sample.pop("input_ids"))
            sample.setdefault("domain", domain)
            line = orjson.dumps(sample, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)
            size += file.write(line)
            count += 1
    return Exported(out, count, size)


def decompress(root: Path, *, delete_zip: bool = False, progress: ProgressCallback = silent) -> Exported:
    """Uncompressed shards beside the compressed ones, for readers that take no others; again changes nothing.

    `delete_zip`: the compressed ones go, and the indexes name them no more. A folder that hfassets made is left alone
    then, since its manifest names them: DataError.
    """
    if delete_zip and any(path.exists() for path in (root / MANIFEST_FILE, root.parent / MANIFEST_FILE)):
        raise DataError(f"{root}: its manifest names the compressed shards; make it without compression instead")
    shards = collect(root)
    size = 0
    for number, shard in enumerate(shards):
        target = root / shard.raw
        if shard.zipped is not None and not (target.exists() and target.stat().st_size == shard.raw_bytes):
            write_atomic(target, read_raw(root, shard))
        size += shard.raw_bytes
        progress(Progress("decompress", number + 1, len(shards), "shards"))
    if delete_zip:
        for path in sorted(root.rglob(INDEX)):
            _without_zip(path.parent)
        for shard in shards:
            if shard.zipped is not None:
                (root / shard.zipped).unlink(missing_ok=True)
    return Exported(root, sum(shard.samples for shard in shards), size)


def _without_zip(folder: Path) -> None:
    entries = orjson.loads((folder / INDEX).read_bytes())["shards"]
    write_index(folder, [Shard({**entry, "zip_data": None, "compression": None}) for entry in entries])


def count_instances(index: Path) -> int:
    """The samples of an index, by what it says itself."""
    folder = index.parent if index.name == INDEX else index
    return sum(shard.samples for shard in read_index(folder))


def first_rows(root: Path, count: int, engine: Engine | None = None) -> list[dict[str, Any]]:
    """The first samples, tokens as text if there is an engine, else as their beginning."""
    found = []
    for domain, sample in samples(root):
        if "input_ids" in sample:
            ids = sample.pop("input_ids")
            sample["tokens"] = len(ids)
            sample["text"] = engine.decode(ids) if engine is not None else " ".join(map(str, ids[:32].tolist()))
        sample["where"] = domain
        found.append(sample)
        if len(found) == count:
            break
    return found


def lengths_of(root: Path) -> dict[int, int]:
    """How many samples have so many tokens, or bytes of text."""
    counts: dict[int, int] = {}
    reader = MdsReader(root, collect(root), verify=False)
    for block in reader.blocks():
        if "input_ids" in block.columns:
            found = block.array_lengths("input_ids")
        else:
            row = list(block.columns).index("text") if "text" in block.columns else 0
            found = block.ends[row] - block.starts[row]
        values, times = np.unique(found, return_counts=True)
        for value, time in zip(values.tolist(), times.tolist(), strict=True):
            counts[value] = counts.get(value, 0) + time
    return counts
