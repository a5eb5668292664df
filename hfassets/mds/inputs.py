"""Input files of a conversion: which there are, their hashes, and how they are cut into parts.

Invariant: the same files give the same parts, wherever they lie and however often they were looked at.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from hfassets.errors import DataError
from hfassets.hub.sweep import default_workers
from hfassets.mds.index import collect
from hfassets.progress import Progress, ProgressCallback
from hfassets.sources.files import format_of
from hfassets.storage.atomic import write_atomic
from hfassets.storage.state import StateDir

PART_BYTES = 1 << 30
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Border:
    """Before a line of a file: its byte and its number, both from 0."""

    byte: int = 0
    row: int = 0


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file that rows come from. `path`: for people and ids, relative to its source; `hash`: SHA-256 or a Hub's etag.

    `place`: where it lies here, "" for one that is fetched. `borders`: where it may be cut, the first at its beginning.
    """

    path: str
    size: int
    hash: str
    place: str = ""
    borders: tuple[Border, ...] = (Border(),)


@dataclass(frozen=True, slots=True)
class Piece:
    """Of a file what lies from one border to the next; `end` None = to its end."""

    file: InputFile
    begin: Border = Border()
    end: Border | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return (self.file.size if self.end is None else self.end.byte) - self.begin.byte

    def identity(self) -> list[Any]:
        """What of it decides about bytes."""
        return [self.file.path, self.file.hash, self.begin.byte, None if self.end is None else self.end.byte]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without where it lies."""
        end = None if self.end is None else asdict(self.end)
        file = {"path": self.file.path, "size": self.file.size, "hash": self.file.hash}
        return {"file": file, "begin": asdict(self.begin), "end": end}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], places: Mapping[str, str]) -> Piece:
        """What `to_dict` gave, and where files lie by their paths."""
        end = document["end"]
        file = InputFile(**document["file"], place=places.get(document["file"]["path"], ""))
        return cls(file, Border(**document["begin"]), None if end is None else Border(**end))


@dataclass(frozen=True, slots=True)
class Cut:
    """How large parts are: at least so many bytes of input, or exactly so many rows where a file can be cut there."""

    bytes: int = PART_BYTES
    rows: int | None = None


def local_files(source: Path, state: StateDir, progress: ProgressCallback, cut: Cut) -> list[InputFile]:
    """The JSONL, JSON and Parquet files of a folder, or the one file, in the order of their paths.

    Each is read once for its hash and, if it is plain JSON lines, its borders. What was found is remembered in `state`.
    Raises DataError when there is nothing to read.
    """
    if not source.exists():
        raise DataError(f"{source}: not there")
    paths = [source] if source.is_file() else sorted(_data_files(source))
    if not paths:
        raise DataError(f"{source}: no JSON lines, JSON or Parquet files in it")
    return _hashed(source, source.parent if source.is_file() else source, paths, state, progress, cut)


def shard_files(source: Path, state: StateDir, progress: ProgressCallback, cut: Cut) -> list[InputFile]:
    """The shards of an MDS at any depth, in the order of their paths; each is read once for its hash.

    Raises DataError when there is none, or one that an index names is not there.
    """
    paths = []
    for shard in collect(source):
        names = [name for name in (shard.zipped, shard.raw) if name is not None]
        found = next((source / name for name in names if (source / name).exists()), None)
        if found is None:
            raise DataError(f"{source / names[0]}: the index names it, and it is not there")
        paths.append(found)
    if not paths:
        raise DataError(f"{source}: no MDS with samples in it")
    return _hashed(source, source, paths, state, progress, cut)


def hashed_files(folder: Path, paths: Sequence[Path], state: StateDir, progress: ProgressCallback) -> list[InputFile]:
    """Files below a folder, each read once for its hash, which is remembered in `state`."""
    return _hashed(folder, folder, paths, state, progress, Cut(1 << 62))


def _hashed(
    source: Path, root: Path, paths: Sequence[Path], state: StateDir, progress: ProgressCallback, cut: Cut
) -> list[InputFile]:
    memory = state.work("mds_inputs", str(source.absolute())) / "seen.json"
    seen = _remembered(memory)
    total = sum(path.stat().st_size for path in paths)
    found: dict[Path, InputFile] = {}
    with ThreadPoolExecutor(default_workers(), thread_name_prefix="inputs") as threads:
        for path, about, (digest, borders) in threads.map(lambda one: _looked_at(one, root, seen, cut), paths):
            name = path.relative_to(root).as_posix()
            key = [about.st_size, about.st_mtime_ns, cut.bytes, cut.rows]
            if seen.get(name, [None])[0] != key:
                seen[name] = [key, digest, [[one.byte, one.row] for one in borders]]
                write_atomic(memory, orjson.dumps(seen))
            found[path] = InputFile(name, about.st_size, digest, str(path.absolute()), tuple(borders))
            progress(Progress("hash inputs", sum(one.size for one in found.values()), total, "B"))
    return [found[path] for path in paths]


def _looked_at(
    path: Path, root: Path, seen: Mapping[str, Any], cut: Cut
) -> tuple[Path, os.stat_result, tuple[str, Sequence[Border]]]:
    """A file's hash and borders, as remembered if it has not changed."""
    about = path.stat()
    known = seen.get(path.relative_to(root).as_posix())
    if known is not None and known[0] == [about.st_size, about.st_mtime_ns, cut.bytes, cut.rows]:
        return path, about, (known[1], [Border(*one) for one in known[2]])
    return path, about, _examined(path, cut)


def pieces(files: Iterable[InputFile]) -> Iterator[Piece]:
    """The files, cut at their borders."""
    for file in files:
        for place, begin in enumerate(file.borders):
            yield Piece(file, begin, file.borders[place + 1] if place + 1 < len(file.borders) else None)


def grouped(found: Iterable[Piece], cut: Cut) -> list[list[Piece]]:
    """Consecutive pieces, as many as make a part; the last one may be smaller."""
    groups: list[list[Piece]] = []
    size = cut.bytes
    for piece in found:
        if size >= cut.bytes or cut.rows is not None:
            groups.append([])
            size = 0
        groups[-1].append(piece)
        size += piece.size
    return groups


def _data_files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        inside = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".") for part in inside) and is_data(path.name):
            yield path


def is_data(name: str) -> bool:
    """Whether rows are read from a file of this name; what stands beside our own outputs does not count."""
    if name.endswith((".manifest.json", ".stats.json")) or name in ("manifest.json", "index.json", "stats.json"):
        return False
    try:
        format_of(name)
    except DataError:
        return False
    return not name.endswith(".json") or not name.startswith(("dataset_info", "state", "download_summary", "plan"))


def _remembered(memory: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = orjson.loads(memory.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _examined(path: Path, cut: Cut) -> tuple[str, Sequence[Border]]:
    """The SHA-256 of a file, and its borders."""
    lines = path.name.lower().endswith((".jsonl", ".ndjson"))
    # A file that is no larger than a part is not cut, and nobody asks for its lines.
    lines = lines and (cut.rows is not None or path.stat().st_size > cut.bytes)
    digest = hashlib.sha256()
    borders = [Border()]
    offset = row = 0
    buffer = bytearray(_CHUNK)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            chunk = buffer if size == _CHUNK else buffer[:size]
            digest.update(chunk)
            if lines:
                borders += _borders_in(chunk, offset, row, borders[-1], cut)
                row += chunk.count(b"\n")
            offset += len(chunk)
    return digest.hexdigest(), [one for one in borders if one.byte < offset or one.byte == 0]


def _borders_in(chunk: bytearray, offset: int, row: int, last: Border, cut: Cut) -> Iterator[Border]:
    """The borders behind line ends of a chunk that begins at `offset` in line `row`."""
    place = 0
    if cut.rows is None:
        byte = last.byte + cut.bytes
        while (end := chunk.find(b"\n", max(place, byte - 1 - offset))) >= 0:
            row += chunk.count(b"\n", place, end + 1)
            place = end + 1
            yield Border(offset + place, row)
            byte = offset + place + cut.bytes
        return
    wanted = last.row + cut.rows
    while (end := chunk.find(b"\n", place)) >= 0:
        place, row = end + 1, row + 1
        if row == wanted:
            yield Border(offset + place, row)
            wanted += cut.rows
