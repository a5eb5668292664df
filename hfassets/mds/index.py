"""The index of an MDS: which shards there are, in which order, with how many samples each.

Invariant: an index that is written names shards relative to its own folder, is byte-identical to what MDSWriter writes
for the same shards, and is written last.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from hfassets.errors import DataError
from hfassets.storage.atomic import write_atomic

INDEX = "index.json"
VERSION = 2


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard as the index describes it; `entry` is its JSON object."""

    entry: Mapping[str, Any]

    @property
    def samples(self) -> int:
        """How many samples it has."""
        return int(self.entry["samples"])

    @property
    def raw(self) -> str:
        """Path of the uncompressed file, relative to the index."""
        return str(self.entry["raw_data"]["basename"])

    @property
    def raw_bytes(self) -> int:
        """Size of the uncompressed file."""
        return int(self.entry["raw_data"]["bytes"])

    @property
    def zipped(self) -> str | None:
        """Path of the compressed file, relative to the index; None without compression."""
        found = self.entry.get("zip_data")
        return None if found is None else str(found["basename"])

    @property
    def columns(self) -> dict[str, str]:
        """Encodings by column name, in the order in which a sample has them."""
        return dict(zip(self.entry["column_names"], self.entry["column_encodings"], strict=True))

    def below(self, folder: str) -> Shard:
        """The same shard for an index that is so many folders up."""
        entry = dict(self.entry)
        for key in ("raw_data", "zip_data"):
            if entry.get(key) is not None:
                entry[key] = {**entry[key], "basename": str(PurePosixPath(folder) / entry[key]["basename"])}
        return Shard(entry)


def read_index(folder: Path) -> tuple[Shard, ...]:
    """The shards of an MDS folder; raises DataError when there is no index, or none that can be read."""
    path = folder / INDEX
    try:
        return parse_index(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise DataError(f"{folder}: no {INDEX}, so no finished MDS") from None
    except NotADirectoryError:
        raise DataError(f"{folder}: not a folder") from None


def parse_index(data: bytes, where: str) -> tuple[Shard, ...]:
    """The shards of an index; raises DataError. Paths that lead out of its folder are refused."""
    try:
        document = orjson.loads(data)
        if document["version"] != VERSION:
            raise DataError(f"{where}: version {document['version']} of MDS; {VERSION} can be read")
        shards = tuple(Shard(entry) for entry in document["shards"])
        for shard in shards:
            if shard.entry["format"] != "mds":
                raise DataError(f"{where}: a shard of format {shard.entry['format']!r}; only mds can be read")
            for path in filter(None, (shard.raw, shard.zipped)):
                pure = PurePosixPath(path)
                if pure.is_absolute() or ".." in pure.parts:
                    raise DataError(f"{where}: the path {path!r} leads out of the folder")
            _ = (shard.samples, shard.raw_bytes, shard.columns)
        return shards
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{where}: not the index of an MDS ({type(error).__name__}: {error})") from error


def index_bytes(shards: Iterable[Shard]) -> bytes:
    """The content of an index: as the standard library writes it with sorted keys."""
    document = {"version": VERSION, "shards": [dict(shard.entry) for shard in shards]}
    return json.dumps(document, sort_keys=True).encode()


def write_index(folder: Path, shards: Iterable[Shard]) -> None:
    """Write atomically; the shards have to be on disk."""
    write_atomic(folder / INDEX, index_bytes(shards))


def collect(root: Path) -> list[Shard]:
    """Every shard below a folder once, at any depth, in the order of their paths; empty shards are left out.

    Where an index lists shards of other folders, as a merged one does, those folders' own indexes count, and its list
    only where they have none. Raises DataError for an index that cannot be read.
    """
    found: list[Shard] = []
    folders = [path.parent for path in root.rglob(INDEX)] if root.is_dir() else []
    for folder in sorted(folders, key=lambda one: one.relative_to(root).parts):
        below = folder.relative_to(root)
        if any(part.startswith(".") for part in below.parts):
            continue
        indexed: dict[str, bool] = {"": False}
        for shard in read_index(folder):
            parent = shard.raw.rpartition("/")[0]
            if parent not in indexed:
                indexed[parent] = (folder / parent / INDEX).exists()
            if shard.samples and not indexed[parent]:
                found.append(shard.below(below.as_posix()))
    return sorted(found, key=lambda shard: PurePosixPath(shard.raw).parts)


def write_merged(root: Path) -> list[Shard]:
    """Write the index of all that lies below a folder, and give its shards; doing so again changes nothing.

    Raises DataError when there is nothing, or when the columns differ: no reader could take them for one MDS.
    """
    shards = collect(root)
    if not shards:
        raise DataError(f"{root}: no MDS with samples below it")
    for shard in shards:
        if shard.columns != shards[0].columns:
            raise DataError(
                f"{root}: {shard.raw} has the columns {_named(shard)}, {shards[0].raw} has {_named(shards[0])}"
            )
    write_index(root, shards)
    return shards


def _named(shard: Shard) -> str:
    return ", ".join(f"{name}: {encoding}" for name, encoding in shard.columns.items())
