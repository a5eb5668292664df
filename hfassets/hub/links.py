"""The names under which a snapshot's files are found: links into the blobs, and refs.

Invariant: a link or ref is replaced in one step and never written through; none is made outside the repo's folder.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from hfassets.errors import UnsafePathError
from hfassets.hub.layout import RepoCache
from hfassets.hub.partial import ensure_folder
from hfassets.storage.atomic import write_atomic


def place_link(repo: RepoCache, commit: str, path: str, etag: str) -> Path:
    """Make `snapshots/<commit>/<path>` a relative link to the blob; returns it. An older name is replaced."""
    pointer = repo.pointer(commit, path)
    ensure_folder(repo, pointer.parent)
    blob = repo.blob(etag)
    target = os.path.relpath(blob, pointer.parent)
    try:
        pointer.symlink_to(target)
    except FileExistsError:
        if pointer.is_dir() and not pointer.is_symlink():
            raise UnsafePathError(f"{pointer} is a folder where the Hub lists a file; move it away") from None
        if not _leads_to(pointer, blob):
            temporary = pointer.with_name(f".link.{secrets.token_hex(4)}.tmp")
            temporary.symlink_to(target)
            temporary.replace(pointer)
    return pointer


def adopt(real: Path, blob: Path) -> None:
    """Give the bytes of a snapshot file of a cache without links their blob name, so that others can link to it."""
    with suppress(FileExistsError):
        try:
            os.link(real, blob)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.EMLINK):
                raise
            temporary = blob.with_name(f"{blob.name}.{secrets.token_hex(4)}.incomplete")
            shutil.copyfile(real, temporary)
            temporary.replace(blob)


def write_ref(repo: RepoCache, revision: str, commit: str) -> None:
    """Record which commit a branch or tag is at; a revision that is the commit itself needs none."""
    if revision == commit:
        return
    ref = repo.ref(revision)
    ensure_folder(repo, ref.parent)
    with suppress(FileNotFoundError, IsADirectoryError):
        if not ref.is_symlink() and ref.read_bytes() == commit.encode():
            return
    write_atomic(ref, commit.encode())


def _leads_to(pointer: Path, blob: Path) -> bool:
    if not pointer.is_symlink():
        return False
    # A blob may itself be a link (into a store shared by repos), so the link is read, not followed.
    return os.path.normpath(pointer.parent / pointer.readlink()) == os.path.normpath(blob)
