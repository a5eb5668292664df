"""What there is to stage: the files of a folder, by its manifest where it has one, else by looking.

Invariant: the list is made once, before anything is copied; a path is relative, leads nowhere else, and may have any
bytes that a file name may have.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from hfassets.errors import DataError, IntegrityError
from hfassets.mds.stage import ADOPTED
from hfassets.parts.plan import MANIFEST_FILE
from hfassets.storage.manifest import Manifest, read_manifest

STAGED = "staged.json"
JOURNAL = ".staged.hashes"
"""What a copy says of itself, when it is done and meanwhile; of a source that is a copy they are no part."""


class SourceFile(NamedTuple):
    """One file: bytes, modification time in ns, and its SHA-256 ("" where nobody has said it yet)."""

    path: str
    size: int
    mtime_ns: int
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class SourceTree:
    """The files of a folder, in the order of their paths. `fingerprint` tells it from another state of the folder."""

    root: Path
    files: tuple[SourceFile, ...]
    fingerprint: str

    @property
    def bytes(self) -> int:
        """In all files."""
        return sum(file.size for file in self.files)

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders that the files lie in, parents first."""
        found: set[str] = set()
        for file in self.files:
            parent = file.path.rpartition("/")[0]
            while parent and parent not in found:
                found.add(parent)
                parent = parent.rpartition("/")[0]
        return tuple(sorted(found))


def read_tree(root: Path) -> SourceTree:
    """The files of a finished output of ours (its hashes known), or of any other folder, links followed.

    Raises DataError for what is no folder, has no files, or whose files are not what its manifest says.
    """
    root = root.absolute()
    if not root.is_dir():
        raise DataError(f"{root}: not a folder")
    known = _known_hashes(root)
    files = tuple(sorted(_found(root, known)))
    if not files:
        raise DataError(f"{root}: no files in it")
    if known is not None:
        _compare(root, files, known)
    listed = "\0".join([f"{size} {mtime} {sha256} {path}" for path, size, mtime, sha256 in files])
    return SourceTree(root, files, hashlib.sha256(os.fsencode(listed)).hexdigest())


def checked_path(path: str) -> str:
    """A path of a list that was read; raises DataError for one that leads out of its folder."""
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or "\0" in path:
        raise DataError(f"{path!r} leads out of its folder")
    return path


def _known_hashes(root: Path) -> dict[str, tuple[int, str]] | None:
    manifest: Manifest | None = None
    for name in (ADOPTED, MANIFEST_FILE):
        try:
            manifest = manifest or read_manifest(root / name)
        except IntegrityError:
            # Another tool's file of that name: then it is a file like any other.
            continue
    if manifest is None or manifest.root != ".":
        return None
    return {checked_path(file.path): (file.size, file.sha256) for file in manifest.files}


def _found(root: Path, known: dict[str, tuple[int, str]] | None) -> list[SourceFile]:
    found: list[SourceFile] = []
    hashes = {path: sha256 for path, (_, sha256) in known.items()} if known else {}
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while waiting:
        below, above = waiting.pop()
        with opened_folder(root / below) as (folder, mark):
            if mark in above:
                raise DataError(f"{root / below}: a link to a folder above it; it would never end")
            inside = above | {mark}
            # By the folder's descriptor: looking at each file by its whole path takes a third longer.
            with os.scandir(folder) as entries:
                for entry in entries:
                    path = f"{below}/{entry.name}" if below else entry.name
                    if entry.is_dir():
                        waiting.append((path, inside))
                    elif entry.is_file() and path not in (STAGED, JOURNAL):
                        about = entry.stat()
                        found.append(SourceFile(path, about.st_size, about.st_mtime_ns, hashes.get(path, "")))
    return found


@contextmanager
def opened_folder(path: Path) -> Iterator[tuple[int, tuple[int, int]]]:
    """A folder's descriptor, and what tells it from other folders."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        about = os.fstat(folder)
        yield folder, (about.st_dev, about.st_ino)
    finally:
        os.close(folder)


def files_below(target: Path) -> dict[str, tuple[int, int]]:
    """Size and modification time of each plain file, by path; what is none is (-1, -1)."""
    found: dict[str, tuple[int, int]] = {}
    waiting = [""]
    while waiting:
        below = waiting.pop()
        with opened_folder(target / below) as (folder, _), os.scandir(folder) as entries:
            for entry in entries:
                path = f"{below}/{entry.name}" if below else entry.name
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                elif path not in (STAGED, JOURNAL):
                    about = entry.stat(follow_symlinks=False)
                    plain = stat.S_ISREG(about.st_mode)
                    found[path] = (about.st_size, about.st_mtime_ns) if plain else (-1, -1)
    return found


def _compare(root: Path, files: tuple[SourceFile, ...], known: dict[str, tuple[int, str]]) -> None:
    sizes = {one.path: one.size for one in files}
    for path, (size, _) in known.items():
        if path not in sizes:
            raise DataError(f"{root / path}: gone; its manifest has it")
        if sizes[path] != size:
            raise DataError(f"{root / path}: {sizes[path]:,} B, its manifest says {size:,}")
