"""What a snapshot needs and what of it is already there, proven by hash. Reads the cache, changes nothing.

Invariant: a file counts as cached only when its bytes have the hash that the Hub lists, by the verifier's memory or by
reading them now; a name alone proves nothing.
"""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hfassets.errors import HubError
from hfassets.hub.hashing import hash_file
from hfassets.hub.layout import RepoCache
from hfassets.hub.listing import Listing, RepoFile
from hfassets.hub.memory import VerifyMemory
from hfassets.hub.ratelimit import Quota
from hfassets.progress import ProgressCallback, silent
from hfassets.report.bytecount import ByteCount
from hfassets.report.units import format_bytes


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """A plan in numbers, for `--dry-run`. `hours` is the least time that the request limit allows."""

    repo_id: str
    commit: str
    files: int
    bytes: int
    cached_files: int
    cached_bytes: int
    fetch_files: int
    fetch_bytes: int
    partial_bytes: int
    damaged_files: int
    requests: int
    hours: float
    quota: Quota

    def __str__(self) -> str:
        partial = f", {format_bytes(self.partial_bytes)} more are here in part" if self.partial_bytes else ""
        damaged = f", {self.damaged_files:,} of them damaged in the cache" if self.damaged_files else ""
        limit = f"{self.quota.requests:,} per {self.quota.window_s:.0f} s{'' if self.quota.learned else ', assumed'}"
        return (
            f"{self.repo_id} at {self.commit[:12]}: {self.files:,} files, {format_bytes(self.bytes)}; "
            f"cached {self.cached_files:,} ({format_bytes(self.cached_bytes)}); "
            f"to fetch {self.fetch_files:,} ({format_bytes(self.fetch_bytes)}{partial}{damaged}) "
            f"in {self.requests:,} requests, {self.hours:.1f} h at the present limit ({limit})"
        )


@dataclass(frozen=True, slots=True)
class SnapshotPlan:
    """What to fetch for the files of `listing`.

    `cached`: proven files. `fetch`: all others. `partial`: those of `fetch` of which so many bytes are here.
    `damaged`: those of `fetch` whose cached bytes are wrong. `real`: paths in the snapshot folder that hold proven
    bytes themselves (caches without links). `force`: everything is fetched, whatever is there.
    """

    listing: Listing
    cached: tuple[RepoFile, ...]
    fetch: tuple[RepoFile, ...]
    partial: tuple[tuple[RepoFile, int], ...] = ()
    damaged: tuple[RepoFile, ...] = ()
    real: tuple[str, ...] = ()
    force: bool = False

    @property
    def blobs(self) -> tuple[RepoFile, ...]:
        """One file of `fetch` for each distinct content."""
        return tuple({file.etag: file for file in reversed(self.fetch)}.values())[::-1]

    @property
    def partial_bytes(self) -> int:
        """Bytes that need not be sent again."""
        return sum(have for _, have in self.partial)

    @property
    def fetch_bytes(self) -> int:
        """Bytes that have to come over the network."""
        return sum(file.size for file in self.blobs) - self.partial_bytes

    @property
    def requests(self) -> int:
        """Requests for files; the listing has been made."""
        return len(self.blobs)

    def describe(self, quota: Quota) -> PlanSummary:
        """The plan in numbers at a limit (`HubClient.quota()`)."""
        return PlanSummary(
            repo_id=self.listing.repo_id,
            commit=self.listing.commit,
            files=len(self.listing.files),
            bytes=self.listing.total_bytes,
            cached_files=len(self.cached),
            cached_bytes=sum(file.size for file in self.cached),
            fetch_files=len(self.fetch),
            fetch_bytes=self.fetch_bytes,
            partial_bytes=self.partial_bytes,
            damaged_files=len(self.damaged),
            requests=self.requests,
            hours=self.requests / quota.requests * quota.window_s / 3600,
            quota=quota,
        )


def plan_snapshot(
    listing: Listing,
    repo: RepoCache,
    memory: VerifyMemory,
    *,
    force: bool = False,
    workers: int | None = None,
    progress: ProgressCallback = silent,
) -> SnapshotPlan:
    """Prove what is there of the files wanted; `workers` threads hash what the memory does not know."""
    by_etag: dict[str, list[RepoFile]] = {}
    for file in listing.files:
        same = by_etag.setdefault(file.etag, [])
        if same and same[0].size != file.size:
            raise HubError(f"{listing.repo_id}: the Hub lists {same[0].path!r} and {file.path!r} as equal, not in size")
        same.append(file)
    if force:
        return SnapshotPlan(listing, (), listing.files, force=True)
    known, suspects = _by_memory(listing.commit, repo, by_etag, memory)
    proven = known | _by_reading(suspects, memory, workers or os.cpu_count() or 1, progress)
    present = {file.etag for path, file in proven}
    damaged = {file.etag for path, file in suspects} - present
    fetch = tuple(file for file in listing.files if file.etag not in present)
    partial = [(files[0], _partial_size(repo, files[0])) for etag, files in by_etag.items() if etag not in present]
    return SnapshotPlan(
        listing,
        cached=tuple(file for file in listing.files if file.etag in present),
        fetch=fetch,
        partial=tuple((file, have) for file, have in partial if have),
        damaged=tuple(file for file in fetch if file.etag in damaged),
        real=tuple(sorted(file.path for path, file in proven if path != repo.blob(file.etag))),
    )


def prove(path: Path, file: RepoFile, memory: VerifyMemory, count: ByteCount | None = None) -> bool:
    """Whether `path` holds exactly the bytes of `file`; what had to be read is remembered.

    A file that is missing or cannot be read proves nothing: False.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size != file.size:
            return False
        if memory.lookup(path, found) == file.etag:
            return True
        if hash_file(path, file.algorithm, count) != file.etag:
            return False
    except OSError:
        return False
    memory.record(path, found, file.etag)
    return True


_Placed = set[tuple[Path, RepoFile]]


def _by_memory(
    commit: str, repo: RepoCache, by_etag: dict[str, list[RepoFile]], memory: VerifyMemory
) -> tuple[_Placed, _Placed]:
    """What the memory vouches for, and what is there but has to be read (or has a wrong size)."""
    known: _Placed = set()
    suspects: _Placed = set()
    for files in by_etag.values():
        places = [(repo.blob(files[0].etag), files[0])]
        if not os.path.lexists(places[0][0]):
            places = [(repo.snapshot(commit) / file.path, file) for file in files]
        for path, file in places:
            try:
                found = path.stat()
            except OSError:
                if path.is_symlink() and path == repo.blob(file.etag):
                    suspects.add((path, file))
                continue
            if not stat.S_ISREG(found.st_mode) or (path.is_symlink() and path != repo.blob(file.etag)):
                continue
            (known if memory.lookup(path, found) == file.etag else suspects).add((path, file))
    return known, suspects


def _by_reading(suspects: _Placed, memory: VerifyMemory, workers: int, progress: ProgressCallback) -> _Placed:
    if not suspects:
        return set()
    ordered = sorted(suspects, key=lambda item: (-item[1].size, item[1].path))
    count = ByteCount("prove cached files", sum(file.size for _, file in ordered), progress)
    with ThreadPoolExecutor(workers) as pool:
        outcomes = pool.map(lambda item: prove(item[0], item[1], memory, count), ordered)
        proven = {item for item, intact in zip(ordered, outcomes, strict=True) if intact}
    count.finish()
    return proven


def _partial_size(repo: RepoCache, file: RepoFile) -> int:
    """How much of a blob an interrupted download has left; 0 when it cannot be a beginning of it."""
    try:
        found = partial_path(repo, file.etag).lstat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) and found.st_size <= file.size else 0


def partial_path(repo: RepoCache, etag: str) -> Path:
    """Where an interrupted download of a blob lies, for us and for `huggingface_hub` alike."""
    blob = repo.blob(etag)
    return blob.with_name(f"{blob.name}.incomplete")
