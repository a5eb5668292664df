"""A `datasets` cache on a node, for code that runs its `.map` again there: every fingerprint is found, and what is read
is read from the node's own disk.

Invariant: nothing on the node leads a writer into the shared cache: folders are the node's own, lock files and JSON are
copies, and only data that others have finished is linked.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from hfassets.errors import DataError
from hfassets.staging.tree import SourceFile, SourceTree, checked_path, plain_files

_DATA = (".arrow", ".parquet")
_UNFINISHED = (".incomplete", ".tmp")
_SMALL = 1 << 20


def read_cache(root: Path, names: Sequence[str] = (), read: Sequence[str] | None = None) -> SourceTree:
    """What of a cache is copied, and what is linked.

    `names`: datasets (`owner/name`) whose folders are brought, none = all. `read`: paths, relative to the cache or in
    it, of files that are read, `*` for any name: they are copied, other data is linked; None = all data is copied.
    Raises DataError for a dataset that is not there, or a path of `read` that is none of its files.
    """
    root = root.absolute()
    if not root.is_dir():
        raise DataError(f"{root}: not a folder; --from names a `datasets` cache, HF_DATASETS_CACHE otherwise")
    starts = [_folder_of(root, name) for name in names] or [""]
    found = {one.path: one for start in starts for one in _files(root, start)}
    patterns = None if read is None else [_relative(root, line) for line in read]
    chosen = set(found) if patterns is None else set(_matched(root, found, patterns))
    copies, links = [], {}
    for path, one in found.items():
        data = path.endswith(_DATA) or (one.size > _SMALL and not path.endswith((".json", ".lock")))
        if data and path not in chosen:
            links[path] = os.path.realpath(root / path)
        else:
            copies.append(one)
    return SourceTree.of(root, copies, links)


def _folder_of(root: Path, name: str) -> str:
    """`owner___name`, as the library names the folder of a dataset; a name without owner as it is."""
    folder = checked_path(name.replace("/", "___"))
    if (root / folder).is_dir():
        return folder
    there = sorted(one.name.replace("___", "/") for one in root.iterdir() if one.is_dir())
    raise DataError(f"{root}: no dataset {name}; there are {', '.join(there[:10]) or 'none'}")


def _files(root: Path, below: str) -> Iterator[SourceFile]:
    """What a killed process has left unfinished is none of them."""
    for path, about in plain_files(root, below, enters=lambda _, name: not name.endswith(_UNFINISHED)):
        if not path.endswith(_UNFINISHED):
            yield SourceFile(path, about.st_size, about.st_mtime_ns)


def _relative(root: Path, line: str) -> str:
    """A path of a list as one of the cache; raises DataError for one that lies elsewhere."""
    path = Path(line)
    if not path.is_absolute():
        return checked_path(line)
    for top in (root, root.resolve()):
        if path.is_relative_to(top):
            return path.relative_to(top).as_posix()
    raise DataError(f"{line}: not in the cache {root}")


def _matched(root: Path, found: dict[str, SourceFile], patterns: Sequence[str]) -> Iterator[str]:
    for pattern in patterns:
        if pattern in found:
            yield pattern
            continue
        # Only `*` means more than itself: the names of caches have brackets and question marks of their own.
        literal = "*".join(part.replace("[", "[[]").replace("?", "[?]") for part in pattern.split("*"))
        matched = fnmatch.filter(found, literal) if "*" in pattern else []
        if not matched:
            raise DataError(f"{root / pattern}: no such file in the cache")
        yield from matched
