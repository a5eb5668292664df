"""What a folder is, by what lies in it; and what one reading of a file of each kind tells.

Invariant: a file is read whole; what it says of itself (an index, a footer, its lines) is held against its bytes.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import orjson
import zstandard
from isal import igzip_threaded

from hfassets.errors import DataError
from hfassets.mds.index import INDEX, Shard, collect
from hfassets.mds.reader import parse_shard, prove, read_raw
from hfassets.storage.manifest import ADOPTED

Kind = Literal["hub cache", "datasets cache", "mds", "parquet", "json lines"]
_REPOS = ("datasets--*", "models--*", "spaces--*")
_JSON = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst")
_BLOCK = 8 << 20


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file turned out to be: SHA-256 of its bytes, and rows, where it has any."""

    sha256: str
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Reader:
    """A file below a folder, and how to read it. Reading raises DataError or IntegrityError."""

    path: str
    size: int
    read: Callable[[], Reading] = field(compare=False)


def kind_of(root: Path) -> Kind:
    """Raises DataError when it is nothing that can be adopted."""
    if not root.is_dir():
        raise DataError(f"{root}: not a folder")
    if any(any(root.glob(pattern)) for pattern in _REPOS):
        return "hub cache"
    if _first(root, lambda path: path.name == INDEX and _is_mds(path)):
        return "mds"
    if _first(root, lambda path: path.suffix == ".arrow" and (path.parent / "dataset_info.json").exists()):
        return "datasets cache"
    if _first(root, lambda path: path.suffix == ".parquet"):
        return "parquet"
    if _first(root, lambda path: path.name.endswith(_JSON)):
        return "json lines"
    raise DataError(
        f"{root}: nothing in it that can be adopted: a Hub cache (datasets--…), a `datasets` cache, an MDS with its"
        f" {INDEX}, Parquet or JSON lines"
    )


def readers(root: Path, kind: Kind) -> list[Reader]:
    """All files of a folder of that kind, in the order of their paths. Raises DataError for an index that is none."""
    if kind == "mds":
        return sorted(_mds_readers(root), key=lambda one: one.path)
    if kind == "parquet":
        return [_reader(root, path, _read_parquet) for path in _files(root, (".parquet",))]
    if kind == "json lines":
        return [_reader(root, path, _read_json_lines) for path in _files(root, _JSON)]
    raise DataError(f"{root}: a {kind} is adopted by the catalog's partitions, not as a folder")


def _first(root: Path, wanted: Callable[[Path], bool]) -> bool:
    return any(wanted(path) for path in _below(root))


def _below(root: Path) -> Iterator[Path]:
    """Files below a folder, but for our own; what is hidden is somebody's unfinished business."""
    for path in root.rglob("*"):
        if (
            path.is_file()
            and path.name != ADOPTED
            and not any(part.startswith(".") for part in path.relative_to(root).parts)
        ):
            yield path


def _files(root: Path, endings: Sequence[str]) -> list[Path]:
    return sorted(path for path in _below(root) if path.name.endswith(tuple(endings)))


def _is_mds(index: Path) -> bool:
    try:
        return "shards" in orjson.loads(index.read_bytes())
    except (ValueError, TypeError):
        return False


def _reader(root: Path, path: Path, read: Callable[[Path], Reading]) -> Reader:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        said = ascii(str(path))
        raise DataError(f"{said}: its name is no text in UTF-8, which a manifest could not name; rename it") from None
    return Reader(path.relative_to(root).as_posix(), path.stat().st_size, lambda: read(path))


def _mds_readers(root: Path) -> Iterator[Reader]:
    for index in sorted(path for path in _below(root) if path.name == INDEX):
        yield _reader(root, index, lambda path: Reading(_digest(path.read_bytes())))
    for shard in collect(root):
        there = [name for name in (shard.raw, shard.zipped) if name is not None and (root / name).exists()]
        if not there:
            raise DataError(f"{root / shard.raw}: an {INDEX} names it, and it is not there")
        for name in there:
            # Rows are counted once, where a shard is there both ways.
            counted = name == there[0]
            size = (root / name).stat().st_size
            yield Reader(name, size, lambda s=shard, n=name, c=counted: _read_shard(root, s, n, counted=c))  # type: ignore[misc]


def _read_shard(root: Path, shard: Shard, name: str, *, counted: bool) -> Reading:
    data = (root / name).read_bytes()
    prove(data, shard.entry["raw_data" if name == shard.raw else "zip_data"], root / name)
    raw = data if name == shard.raw else read_raw(root, shard, verify=False)
    parse_shard(raw, shard, name)
    return Reading(_digest(data), shard.samples if counted else 0)


def _read_parquet(path: Path) -> Reading:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not Parquet: {' '.join(str(error).split())[:200]}") from None
    return Reading(_hashed(path), int(rows))


def _read_json_lines(path: Path) -> Reading:
    digest, rows = _hashed(path), 0
    try:
        for number, line in enumerate(_lines(path), 1):
            if not line.strip():
                continue
            try:
                orjson.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: not JSON ({error})") from None
            rows += 1
    except (EOFError, OSError, zlib.error, zstandard.ZstdError) as error:
        raise DataError(f"{path}: cannot be decompressed ({error})") from None
    return Reading(digest, rows)


def _lines(path: Path) -> Iterator[bytes]:
    if path.suffix == ".gz":
        with igzip_threaded.open(path, "rb", threads=0) as file:  # type: ignore[no-untyped-call]
            yield from file
    elif path.suffix == ".zst":
        with path.open("rb") as packed, zstandard.ZstdDecompressor().stream_reader(packed) as stream:
            rest = b""
            while block := stream.read(_BLOCK):
                *lines, rest = (rest + block).split(b"\n")
                yield from lines
            yield rest
    else:
        with path.open("rb") as plain:
            yield from plain


def _hashed(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
