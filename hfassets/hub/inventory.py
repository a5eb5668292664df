"""Every repo in a Hub cache: how much, how old, how well proven. Sizes are those that `scan_cache_dir` reports.

Invariant: reads no content and writes nothing; a repo that `scan_cache_dir` leaves out as corrupted is listed here too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hfassets.hub.faults import printable
from hfassets.hub.memory import VerifyMemory
from hfassets.hub.scan import RepoFolder, RepoScan, find_hub_caches, find_repos, find_store, scan_repo, scan_store
from hfassets.storage.state import StateDir


@dataclass(frozen=True, slots=True)
class Revision:
    """A commit in a cache: the refs that are at it, its paths, and their bytes (each content once)."""

    commit: str
    refs: tuple[str, ...]
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class RepoInventory:
    """One repo, or the shared store (`repo_type` "store"). Bytes; times in s since 1970.

    `bytes` and `files`: distinct contents that snapshots have. `orphan_*`: blobs no snapshot links. `leftover_*`:
    broken-off or running downloads. `proven`: how many of `blobs` the verifier's memory vouches for; `last_verified` is
    the oldest of these proofs, None while any blob has none. `accessed` is as good as the file system's access times.
    """

    hub_cache: Path
    repo_id: str
    repo_type: str
    bytes: int
    files: int
    revisions: tuple[Revision, ...]
    modified: float | None
    accessed: float | None
    blobs: int
    proven: int
    last_verified: float | None
    orphans: int
    orphan_bytes: int
    leftovers: int
    leftover_bytes: int
    unreadable: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "hub_cache": printable(self.hub_cache)}


def inventory(cache_dir: Path, state: StateDir) -> tuple[RepoInventory, ...]:
    """One row a repo below `cache_dir` (HF_HOME or a hub cache), largest first. Raises HfassetsError for no cache."""
    rows = []
    for hub_cache in find_hub_caches(cache_dir):
        rows += [_row(scan_repo(repo), state) for repo in find_repos(hub_cache)]
        store = find_store(hub_cache)
        if store is not None:
            rows.append(_row(scan_store(store), state))
    return tuple(sorted(rows, key=lambda row: (-row.bytes, row.repo_type, row.repo_id)))


def _row(scan: RepoScan, state: StateDir) -> RepoInventory:
    sizes = _contents(scan)
    linked = {link.etag for link in scan.links}
    orphans = [] if scan.repo.is_store else [blob for blob in scan.blobs.values() if blob.name not in linked]
    if scan.repo.is_store:
        sizes = {blob.path: blob.size for blob in scan.blobs.values()}
    leftovers = [size for path in scan.leftovers if (size := _size(path)) is not None]
    proofs = _proofs(scan, state)
    blobs = len(scan.blobs) + len(scan.real_files)
    modified, accessed = _times(scan.repo, sizes)
    return RepoInventory(
        hub_cache=scan.repo.hub_cache,
        repo_id=scan.repo.repo_id,
        repo_type=scan.repo.repo_type,
        bytes=sum(sizes.values()),
        files=len(sizes),
        revisions=_revisions(scan),
        modified=modified,
        accessed=accessed,
        blobs=blobs,
        proven=len(proofs),
        last_verified=min(proofs) if proofs and len(proofs) == blobs else None,
        orphans=len(orphans),
        orphan_bytes=sum(blob.size for blob in orphans),
        leftovers=len(leftovers),
        leftover_bytes=sum(leftovers),
        unreadable=len(scan.unreadable),
    )


def _contents(scan: RepoScan) -> dict[str, int]:
    """Bytes by file of what snapshots have, each once however many links lead to it."""
    linked = {link.etag for link in scan.links}
    sizes = {blob.path: blob.size for blob in scan.blobs.values() if blob.name in linked}
    sizes.update((file.path, file.size) for _, file in scan.real_files)
    return sizes


def _revisions(scan: RepoScan) -> tuple[Revision, ...]:
    refs: Mapping[str, list[str]] = defaultdict(list)
    for ref, commit in sorted(scan.refs.items()):
        refs[commit].append(ref)
    contents: Mapping[str, dict[str, int]] = defaultdict(dict)
    paths: Counter[str] = Counter()
    for link in scan.links:
        blob = scan.blobs.get(link.etag)
        if blob is not None:
            contents[link.commit][blob.path] = blob.size
            paths[link.commit] += 1
    for link, file in scan.real_files:
        contents[link.commit][file.path] = file.size
        paths[link.commit] += 1
    return tuple(
        Revision(commit, tuple(refs[commit]), paths[commit], sum(contents[commit].values()))
        for commit in sorted(scan.commits)
    )


def _proofs(scan: RepoScan, state: StateDir) -> list[float]:
    """When each file that the memory vouches for was proven."""
    memory = VerifyMemory.open_folder(state, scan.repo.hub_cache, scan.repo.name)
    files = [(blob, blob.name) for blob in scan.blobs.values()] + [(file, "") for _, file in scan.real_files]
    proofs = []
    for blob, name in files:
        digest = memory.lookup_values(blob.path, blob.size, blob.mtime_ns, blob.inode)
        at = memory.proven_at(blob.path)
        if digest is not None and at is not None and name in ("", digest):
            proofs.append(at)
    return proofs


def _times(repo: RepoFolder, contents: Mapping[str, int]) -> tuple[float | None, float | None]:
    """The latest modification and access of the contents, or of the folder when there are none."""
    modified: list[float] = []
    accessed: list[float] = []
    for path in contents or [str(repo.folder)]:
        try:
            status = Path(path).stat()
        except OSError:
            continue
        modified.append(status.st_mtime)
        accessed.append(status.st_atime)
    return max(modified, default=None), max(accessed, default=None)


def _size(path: Path) -> int | None:
    try:
        return path.lstat().st_size
    except OSError:
        return None
