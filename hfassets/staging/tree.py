"""What there is to stage: the files of a folder, by its manifest where it has one, else by looking.

Invariant: the list is made once, before anything is copied; a path is relative, leads nowhere else, and may have any
bytes that a file name may have.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hfassets.errors import DataError, IntegrityError
from hfassets.mds.stage import ADOPTED
from hfassets.parts.plan import MANIFEST_FILE
from hfassets.storage.manifest import Manifest, read_manifest

STAGED = "staged.json"
JOURNAL = ".staged.hashes"
"""What a copy says of itself, when it is done and meanwhile; of a source that is a copy they are no part."""


@dataclass(frozen=True, slots=True)
class SourceFile:
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
    files = tuple(sorted(_found(root, "", known, frozenset()), key=lambda one: one.path))
    if not files:
        raise DataError(f"{root}: no files in it")
    if known is not None:
        _compare(root, files, known)
    digest = hashlib.sha256()
    for one in files:
        digest.update(f"{one.size} {one.mtime_ns} {one.sha256} ".encode() + os.fsencode(one.path) + b"\0")
    return SourceTree(root, files, digest.hexdigest())


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


def _found(
    root: Path, below: str, known: dict[str, tuple[int, str]] | None, above: frozenset[tuple[int, int]]
) -> Iterator[SourceFile]:
    here = (root / below).stat()
    if (here.st_dev, here.st_ino) in above:
        raise DataError(f"{root / below}: a link to a folder above it; it would never end")
    inside = above | {(here.st_dev, here.st_ino)}
    with os.scandir(root / below) as entries:
        for entry in entries:
            path = f"{below}/{entry.name}" if below else entry.name
            if entry.is_dir():
                yield from _found(root, path, known, inside)
            elif entry.is_file() and path not in (STAGED, JOURNAL):
                about = entry.stat()
                hashed = known.get(path) if known else None
                yield SourceFile(path, about.st_size, about.st_mtime_ns, hashed[1] if hashed else "")


def _compare(root: Path, files: tuple[SourceFile, ...], known: dict[str, tuple[int, str]]) -> None:
    sizes = {one.path: one.size for one in files}
    for path, (size, _) in known.items():
        if path not in sizes:
            raise DataError(f"{root / path}: gone; its manifest has it")
        if sizes[path] != size:
            raise DataError(f"{root / path}: {sizes[path]:,} B, its manifest says {size:,}")
