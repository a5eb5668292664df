"""What there is to stage: the files of a folder, by its manifest where it has one, else by looking.

Invariant: the list is made once, before anything is copied; a path is relative, leads nowhere else, and may have any
bytes that a file name may have.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import xxhash

from hfassets.errors import DataError, IntegrityError
from hfassets.storage.manifest import ADOPTED, MANIFEST_FILE, OutputFile, parse_manifest
from hfassets.storage.s3 import S3Prefix

STAGED = "staged.json"
JOURNAL = ".staged.hashes"
"""What a copy says of itself, when it is done and meanwhile; of a source that is a copy they are no part."""
LINK = (-1, -1)
"""What stands for size and time of what is no plain file."""
_OURS = (STAGED, JOURNAL, f".{STAGED}.tmp")
_PARTS = ".parts"
"""Where packed rows (hfassets.packed.shards) have their parts."""


class SourceFile(NamedTuple):
    """One file: bytes, modification time in ns, and its SHA-256 ("" where nobody has said it yet)."""

    path: str
    size: int
    mtime_ns: int
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class SourceTree:
    """The files of a folder, or below an address of S3, in the order of their paths, and `links`: paths that become
    links to places outside. `fingerprint` tells the tree from another state of it, `mark` its files' names, sizes and
    times from others (see `listing_mark`).
    """

    root: Path | S3Prefix
    files: tuple[SourceFile, ...]
    fingerprint: str
    mark: str
    links: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, root: Path | S3Prefix, files: Iterable[SourceFile], links: Mapping[str, str] | None = None
    ) -> SourceTree:
        """With its fingerprint; raises DataError when there is nothing in it."""
        ordered = tuple(sorted(files))
        if not ordered:
            raise DataError(f"{root}: no files in it")
        listed = _listed([(path, size, mtime_ns) for path, size, mtime_ns, _ in ordered])
        more = [sha256 for *_, sha256 in ordered]
        more += [f"{path} -> {to}" for path, to in sorted((links or {}).items())]
        whole = hashlib.sha256(listed)
        whole.update(os.fsencode("\0".join(["", *more])))
        return cls(root, ordered, whole.hexdigest(), xxhash.xxh3_128_hexdigest(listed), dict(links or {}))

    @property
    def bytes(self) -> int:
        """In all files."""
        return sum(file.size for file in self.files)

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders that files and links lie in, parents first."""
        found: set[str] = set()
        for path in (*(file.path for file in self.files), *self.links):
            parent = path.rpartition("/")[0]
            while parent and parent not in found:
                found.add(parent)
                parent = parent.rpartition("/")[0]
        return tuple(sorted(found))


def read_tree(root: Path) -> SourceTree:
    """The files of finished outputs of ours (their hashes known), or of any other folder, links followed.

    Raises DataError for what is no folder, has no files, or whose files are not what its manifest says.
    """
    root = root.absolute()
    if not root.is_dir():
        raise DataError(f"{root}: not a folder")
    contents = {name: (root / name).read_bytes() for name in _manifests_in(one.name for one in root.iterdir())}
    known = known_hashes(contents, str(root))
    packed: dict[str, tuple[int, str]] = {}
    files = _found(root, known, packed)
    compare(str(root), files, known | packed)
    return SourceTree.of(root, files)


def _manifests_in(names: Iterable[str]) -> list[str]:
    """What may say the hashes of a folder's files; those of an adopted one count before all others."""
    return [name for name in sorted(names) if name in (ADOPTED, MANIFEST_FILE) or is_shared(name)]


def is_shared(name: str) -> bool:
    """Whether a file is the manifest of an output that shares its folder."""
    return name.endswith(f".{MANIFEST_FILE}") and not name.startswith(".")


def known_hashes(contents: Mapping[str, bytes], root: str) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of each file that manifests have, by their content and name. `root`: where they lie.

    Raises DataError for a path in them that leads out of the folder.
    """
    known: dict[str, tuple[int, str]] = {}
    for name in sorted(contents, key=lambda one: (one != ADOPTED, one)):
        try:
            manifest = parse_manifest(contents[name], f"{root}/{name}")
        except IntegrityError:
            # Another tool's file of that name: then it is a file like any other.
            continue
        if manifest.root == "." or manifest.root.rstrip("/") == root:
            known = {checked_path(file.path): (file.size, file.sha256) for file in manifest.files} | known
        if name == ADOPTED:
            break
    return known


def checked_path(path: str) -> str:
    """A path of a list that was read; raises DataError for one that leads out of its folder."""
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or "\0" in path:
        raise DataError(f"{path!r} leads out of its folder")
    return path


def _found(root: Path, known: Mapping[str, tuple[int, str]], packed: dict[str, tuple[int, str]]) -> list[SourceFile]:
    """All files; shards of packed rows are in `packed` from now on, and their parts, which are the same, left out."""
    hashes = {path: sha256 for path, (_, sha256) in known.items()}

    def enters(below: str, name: str) -> bool:
        shards = _packed(root / below) if name == _PARTS else None
        prefix = f"{below}/" if below else ""
        packed.update({prefix + shard: (file.size, file.sha256) for shard, file in (shards or {}).items()})
        return shards is None

    found = [
        SourceFile(path, about.st_size, about.st_mtime_ns, hashes.get(path, ""))
        for path, about in plain_files(root, enters=enters)
        if path not in _OURS
    ]
    if packed:
        found = [one._replace(sha256=packed[one.path][1]) if one.path in packed else one for one in found]
    return found


def plain_files(
    root: Path, below: str = "", *, enters: Callable[[str, str], bool] | None = None
) -> Iterator[tuple[str, os.stat_result]]:
    """Each plain file of a folder, links followed, by its path from `root` on. `enters`: whether to go into a folder,
    asked with the path that it lies in and its name. Raises DataError for a link to a folder above it.
    """
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [(below, frozenset())]
    while waiting:
        at, above = waiting.pop()
        # By the folder's descriptor: looking at each file by its whole path takes a third longer.
        with _opened_folder(root / at) as (folder, mark), os.scandir(folder) as entries:
            if mark in above:
                raise DataError(f"{root / at}: a link to a folder above it; it would never end")
            for entry in entries:
                path = f"{at}/{entry.name}" if at else entry.name
                if entry.is_dir():
                    if enters is None or enters(at, entry.name):
                        waiting.append((path, above | {mark}))
                elif entry.is_file():
                    yield path, entry.stat()


def _packed(folder: Path) -> dict[str, OutputFile] | None:
    # Imported when it is needed: numpy comes with it, and takes as long as staging a small folder.
    from hfassets.packed.shards import packed_shards

    return packed_shards(folder)


@contextmanager
def _opened_folder(path: Path) -> Iterator[tuple[int, tuple[int, int]]]:
    """A folder's descriptor, and what tells it from other folders."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        about = os.fstat(folder)
        yield folder, (about.st_dev, about.st_ino)
    finally:
        os.close(folder)


def files_below(target: Path) -> dict[str, tuple[int, int]]:
    """Size and modification time of each plain file, by path; what is none is LINK."""
    found: dict[str, tuple[int, int]] = {}
    waiting = [""]
    while waiting:
        below = waiting.pop()
        with _opened_folder(target / below) as (folder, _), os.scandir(folder) as entries:
            for entry in entries:
                path = f"{below}/{entry.name}" if below else entry.name
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                elif path not in _OURS:
                    about = entry.stat(follow_symlinks=False)
                    plain = stat.S_ISREG(about.st_mode)
                    found[path] = (about.st_size, about.st_mtime_ns) if plain else LINK
    return found


def listing_mark(files: Iterable[tuple[str, int, int]]) -> str:
    """What tells these files (path, bytes, modification time in ns) from others; raises nothing for any path."""
    return xxhash.xxh3_128_hexdigest(_listed(sorted(files)))


def _listed(files: Sequence[tuple[str, int, int]]) -> bytes:
    return "\0".join([f"{size} {mtime_ns} {path}" for path, size, mtime_ns in files]).encode(errors="surrogateescape")


def compare(root: str, files: Iterable[SourceFile], known: Mapping[str, tuple[int, str]]) -> None:
    """Raise DataError when files that a manifest has are not there, or have another size."""
    sizes = {one.path: one.size for one in files}
    for path, (size, _) in known.items():
        if path not in sizes:
            raise DataError(f"{root}/{path}: gone; its manifest has it")
        if sizes[path] != size:
            raise DataError(f"{root}/{path}: {sizes[path]:,} B, its manifest says {size:,}")
