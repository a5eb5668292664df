"""Tree listings kept in the state folder, so that a commit is listed once and is known offline.

Invariant: a listing that is given back is, name for name and hash for hash, the one that was kept (its digest is part
of the manifest's identity and is recomputed on reading).
"""

from __future__ import annotations

import os
from pathlib import Path

from hfassets.errors import IntegrityError, UnsafePathError
from hfassets.hub.layout import RepoCache
from hfassets.hub.listing import Listing, RepoFile
from hfassets.storage.manifest import Manifest, OutputFile, provenance, read_manifest, write_manifest
from hfassets.storage.state import StateDir

STAGE = "hub_listing"


def keep_listing(state: StateDir, listing: Listing) -> None:
    """Remember the listing of a commit."""
    files = tuple(OutputFile(file.path, file.size, file.etag) for file in listing.files)
    inputs = {"repo_id": listing.repo_id, "repo_type": listing.repo_type, "commit": listing.commit}
    path = _path(state, listing.repo_id, listing.repo_type, listing.commit)
    write_manifest(path, Manifest(STAGE, 1, inputs, {"digest": listing.digest}, "", files, recorded=provenance()))


def kept_listing(state: StateDir, repo: RepoCache, commit: str) -> Listing | None:
    """The listing of a commit, or None when it was never kept or its file is damaged (so: list again)."""
    try:
        manifest = read_manifest(_path(state, repo.repo_id, repo.repo_type, commit))
        if manifest is None:
            return None
        files = tuple(RepoFile(file.path, file.size, file.sha256) for file in manifest.files)
        listing = Listing(repo.repo_id, commit, files, repo.repo_type)
    except (IntegrityError, UnsafePathError):
        return None
    return listing if listing.digest == manifest.parameters.get("digest") else None


def linked_listing(repo: RepoCache, commit: str) -> Listing:
    """What of a commit lies in the cache, as its links tell: paths, sizes, and hashes from the blobs' names.

    Files that are no links (caches without symlinks) are left out: nothing here says what they should be.
    """
    files = []
    for name in local_names(repo, commit):
        path = repo.snapshot(commit) / name
        if path.is_symlink() and path.exists():
            target = path.readlink().name
            if len(target) in (40, 64) and not set(target) - set("0123456789abcdef"):
                files.append(RepoFile(name, path.stat().st_size, target))
    return Listing(repo.repo_id, commit, tuple(files), repo.repo_type)


def local_names(repo: RepoCache, commit: str) -> tuple[str, ...]:
    """Paths of the files of a commit that lie in the cache, sorted; empty when there is no such snapshot."""
    root = repo.snapshot(commit)
    found = []
    for folder, _, names in os.walk(root):
        relative = Path(folder).relative_to(root)
        found += [(relative / name).as_posix() for name in names if (Path(folder) / name).is_file()]
    return tuple(sorted(found))


def _path(state: StateDir, repo_id: str, repo_type: str, commit: str) -> Path:
    return state.manifest(STAGE, f"{repo_type}:{repo_id}@{commit}")
