"""What there is to stage below an address of S3: its objects, with the hashes that a manifest among them has.

Invariant: a name from the network becomes a path only when it leads nowhere else.
"""

from __future__ import annotations

from pathlib import Path

from hfassets.errors import DataError
from hfassets.staging.tree import (
    JOURNAL,
    STAGED,
    SourceFile,
    SourceTree,
    checked_path,
    compare,
    is_shared,
    known_hashes,
)
from hfassets.storage.manifest import MANIFEST_FILE
from hfassets.storage.s3 import S3Prefix, S3Store


def read_objects(place: S3Prefix) -> SourceTree:
    """The objects below an address; raises DataError when there are none or a manifest has others, S3Error."""
    store = S3Store(place)
    # A key that ends with a slash stands for an empty folder.
    listed = [one for one in store.listing() if not one[0].endswith("/") and one[0] not in (STAGED, JOURNAL)]
    names = [name for name, _, _ in listed if "/" not in name and (name == MANIFEST_FILE or is_shared(name))]
    contents = {name: store.read_bytes(name) or b"" for name in names}
    known = known_hashes(contents, str(place))
    files = [
        SourceFile(_path(place, name), size, written, known[name][1] if name in known else "")
        for name, size, written in listed
    ]
    compare(str(place), files, known)
    return SourceTree.of(place, files)


def _path(place: S3Prefix, name: str) -> str:
    if "//" in name or any(step in (".", "") for step in Path(name).parts) or name != Path(name).as_posix():
        raise DataError(f"{place.uri(name)}: cannot be the name of a file; rename the object, or stage another prefix")
    return checked_path(name)
