"""The raw files of one dataset config (or a whole repo) at a pinned commit, fetched, proven and recorded.

Invariant: the manifest of a snapshot is written after every file it names was proven against the Hub's hash, and a
snapshot counts as there only while the verifier's memory still vouches for each of these files.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from hfassets.errors import DataError, HubError, IntegrityError
from hfassets.hub.configs import METADATA_FILES, config_files
from hfassets.hub.hashing import new_hash
from hfassets.hub.layout import RepoCache
from hfassets.hub.listing import Listing, RepoFile
from hfassets.hub.listings import keep_listing, kept_listing, linked_listing
from hfassets.hub.memory import VerifyMemory
from hfassets.hub.plan import SnapshotPlan, plan_snapshot
from hfassets.hub.session import HubClient
from hfassets.hub.snapshot import SnapshotResult, fetch_snapshot
from hfassets.progress import Note, ProgressCallback, silent
from hfassets.storage.lease import lease
from hfassets.storage.manifest import Manifest, OutputFile, provenance, read_manifest, write_manifest
from hfassets.storage.state import StateDir

STAGE = "hub_snapshot"
FORMAT = 1

Files = Literal["config", "all"]
Transfer = Literal["http", "hf_transfer", "xet"]


@dataclass(frozen=True, slots=True)
class SnapshotRequest:
    """What to fetch, and how. `config` None, or `files` "all", is the whole repo.

    `key` names the manifest (default `<repo>:<config>`, or the repo id); `revision` is recorded as a ref of the cache.
    Of these files only those that match one of `include` (if any) and none of `exclude`; metadata files always.
    """

    repo: RepoCache
    commit: str
    state: StateDir
    config: str | None = None
    files: Files = "config"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    key: str | None = None
    revision: str | None = None
    workers: int = 8
    max_bytes: int | None = None
    transfer: Transfer = "http"
    force: bool = False
    run_id: str = ""
    lease_wait: float = 0.0

    @property
    def name(self) -> str:
        """`<repo>:<config>`, or the repo id, for people."""
        return self.repo.repo_id if self.config is None else f"{self.repo.repo_id}:{self.config}"

    @property
    def manifest(self) -> Path:
        """Where the manifest lies."""
        return self.state.manifest(STAGE, self.key or self.name)

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The identity's parameters."""
        patterns = {"include": list(self.include), "exclude": list(self.exclude)}
        return {
            "config": self.config,
            "files": "all" if self.config is None else self.files,
            **{name: globs for name, globs in patterns.items() if globs},
        }


@dataclass(frozen=True, slots=True)
class TakenSnapshot:
    """A snapshot that is whole. Sizes in bytes; `bytes_cached` were there already, `refetched` arrived wrong at first.

    `reused`: nothing had to be asked of the Hub.
    """

    repo_id: str
    config: str | None
    commit: str
    folder: Path
    files: tuple[OutputFile, ...]
    size: int
    bytes_fetched: int
    bytes_cached: int
    refetched: tuple[str, ...]
    waited_s: float
    seconds: float
    reused: bool
    fingerprint: str


def find_snapshot(request: SnapshotRequest) -> TakenSnapshot | None:
    """The snapshot that an earlier run recorded, if each of its files is still the one that was proven.

    Costs a stat a file; nothing is read but the manifest and the memory.
    """
    try:
        manifest = read_manifest(request.manifest)
    except IntegrityError:
        return None
    if manifest is None or manifest.stage != STAGE or manifest.format != FORMAT:
        return None
    listing = recorded_listing(request.repo, request.commit, manifest)
    if manifest.parameters != request.parameters or manifest.inputs != _inputs(request, listing):
        return None
    memory = VerifyMemory.open(request.state, request.repo)
    if not all(_is_proven(request.repo, request.commit, file, memory) for file in listing.files):
        return None
    return TakenSnapshot(
        repo_id=request.repo.repo_id,
        config=request.config,
        commit=request.commit,
        folder=request.repo.snapshot(request.commit),
        files=manifest.files,
        size=manifest.total_bytes,
        bytes_fetched=0,
        bytes_cached=manifest.total_bytes,
        refetched=(),
        waited_s=0.0,
        seconds=0.0,
        reused=True,
        fingerprint=manifest.fingerprint,
    )


def recorded_listing(repo: RepoCache, commit: str, manifest: Manifest) -> Listing:
    """The files of a `hub_snapshot` manifest as the Hub listed them."""
    files = tuple(RepoFile(file.path, file.size, file.sha256.removeprefix("git-sha1:")) for file in manifest.files)
    return Listing(repo.repo_id, commit, files, repo.repo_type)


def take_snapshot(client: HubClient, request: SnapshotRequest, progress: ProgressCallback = silent) -> TakenSnapshot:
    """Fetch what is missing of a config's files, prove all of them, record it.

    With an offline client only what the cache holds is used. Raises HubError, DataError (an unknown config …),
    SpaceError, IntegrityError (the Hub itself serves wrong bytes), LeaseHeldError.
    """
    if not request.force and (found := find_snapshot(request)) is not None:
        return found
    started = time.monotonic()
    held = request.state.lease(f"hub_snapshot:{request.repo.hub_cache.resolve()}:{request.name}")
    with lease(
        held,
        f"{request.name} in {request.repo.hub_cache}",
        run_id=request.run_id,
        wait=request.lease_wait,
        on_wait=lambda line: progress(Note(line)),
    ):
        if not request.force and (found := find_snapshot(request)) is not None:
            return found
        listing = commit_listing(client, request.repo, request.commit, request.state, progress)
        memory = VerifyMemory.open(request.state, request.repo)
        first = _fetch(client, request, listing.select(METADATA_FILES), memory, request.max_bytes, None, progress)
        wanted = _wanted(request, listing, _read_metadata(request, listing))
        others = wanted.select(file.path for file in wanted.files if file.path not in METADATA_FILES)
        left = None if request.max_bytes is None else max(0, request.max_bytes - first.bytes_fetched)
        second = _fetch(client, request, others, memory, left, request.revision, progress)
        return _record(request, wanted, (first, second), time.monotonic() - started)


def plan_only(client: HubClient, request: SnapshotRequest, progress: ProgressCallback = silent) -> SnapshotPlan:
    """What `take_snapshot` would do. Writes nothing, neither to the cache nor to the state folder."""
    listing = commit_listing(client, request.repo, request.commit, request.state, progress, keep=False)
    memory = VerifyMemory.open(request.state, request.repo)
    wanted = _wanted(request, listing, read_metadata(client, request.repo, listing, memory))
    return plan_snapshot(wanted, request.repo, memory, force=request.force, progress=progress)


def commit_listing(
    client: HubClient,
    repo: RepoCache,
    commit: str,
    state: StateDir,
    progress: ProgressCallback = silent,
    *,
    keep: bool = True,
) -> Listing:
    """The listing of a commit: the one kept, else the Hub's (then kept), else, offline, what the cache's links tell."""
    listing = kept_listing(state, repo, commit)
    if listing is not None:
        return listing
    if client.options.offline:
        return _linked(repo, commit, progress)
    listing = client.list_files(repo.repo_id, commit, repo.repo_type)
    if keep:
        keep_listing(state, listing)
    return listing


def read_metadata(client: HubClient, repo: RepoCache, listing: Listing, memory: VerifyMemory) -> dict[str, bytes]:
    """Bytes of the metadata files, proven, without writing to the cache: from it where they are intact, else fetched.

    Raises IntegrityError when the Hub sends other bytes than it lists.
    """
    files = listing.select(METADATA_FILES)
    cached = {file.path for file in plan_snapshot(files, repo, memory).cached}
    found = {}
    for file in files.files:
        blob, pointer = repo.blob(file.etag), repo.snapshot(listing.commit) / file.path
        if file.path in cached:
            found[file.path] = (blob if blob.exists() else pointer).read_bytes()
            continue
        data = client.read_file(repo.repo_id, listing.commit, file.path, repo.repo_type)
        digest = new_hash(file.algorithm, len(data))
        digest.update(data)
        if digest.hexdigest() != file.etag:
            raise IntegrityError(f"{repo.repo_id}: the Hub sent other bytes for {file.path} than it lists; try again")
        found[file.path] = data
    return found


def _linked(repo: RepoCache, commit: str, progress: ProgressCallback) -> Listing:
    listing = linked_listing(repo, commit)
    if not listing.files:
        raise HubError(f"{repo.repo_id}: offline, and {repo.hub_cache} has no snapshot of {commit}; go online once")
    progress(
        Note(f"{repo.repo_id}: offline, and never listed from here: files never downloaded go unnoticed", "warning")
    )
    return listing


def _wanted(request: SnapshotRequest, listing: Listing, metadata: Mapping[str, bytes]) -> Listing:
    whole = request.config is None or request.repo.repo_type != "dataset"
    needed = listing if whole else config_files(listing, metadata, request.config).needed(listing)
    chosen = listing if request.files == "all" else needed
    if not request.include and not request.exclude:
        return chosen
    left = matching(chosen, request.include, request.exclude)
    if all(file.path in METADATA_FILES for file in left.files):
        raise DataError(f"{request.name}: include and exclude leave none of its {len(chosen.files):,} files")
    return left


def matching(listing: Listing, include: Sequence[str], exclude: Sequence[str]) -> Listing:
    """The files that match one of `include` (if any) and none of `exclude`, and the metadata files.

    `*` matches slashes too, as in `huggingface_hub`.
    """
    wanted, unwanted = ([f"{glob}*" if glob.endswith("/") else glob for glob in globs] for globs in (include, exclude))
    return listing.select(
        file.path
        for file in listing.files
        if file.path in METADATA_FILES
        or (
            (not wanted or any(fnmatchcase(file.path, glob) for glob in wanted))
            and not any(fnmatchcase(file.path, glob) for glob in unwanted)
        )
    )


def _read_metadata(request: SnapshotRequest, listing: Listing) -> dict[str, bytes]:
    folder = request.repo.snapshot(request.commit)
    return {file.path: (folder / file.path).read_bytes() for file in listing.select(METADATA_FILES).files}


def _fetch(
    client: HubClient,
    request: SnapshotRequest,
    wanted: Listing,
    memory: VerifyMemory,
    max_bytes: int | None,
    revision: str | None,
    progress: ProgressCallback,
) -> SnapshotResult:
    plan = plan_snapshot(wanted, request.repo, memory, force=request.force, progress=progress)
    if client.options.offline and plan.fetch:
        names = ", ".join(file.path for file in plan.fetch[:3])
        raise HubError(
            f"{request.name}: offline, and {len(plan.fetch)} of {len(wanted.files)} files are not intact in "
            f"{request.repo.hub_cache} ({names}{', …' if len(plan.fetch) > 3 else ''}); go online to fetch them"
        )
    return fetch_snapshot(
        client,
        plan,
        request.repo,
        memory,
        workers=request.workers,
        max_bytes=max_bytes,
        transfer=request.transfer,
        revision=revision,
        progress=progress,
    )


def _inputs(request: SnapshotRequest, listing: Listing) -> Mapping[str, Any]:
    repo = request.repo
    return {
        "repo_id": repo.repo_id,
        "repo_type": repo.repo_type,
        "commit": request.commit,
        "listing": listing.digest,
    }


def _record(
    request: SnapshotRequest, wanted: Listing, results: tuple[SnapshotResult, ...], seconds: float
) -> TakenSnapshot:
    files = tuple(
        OutputFile(file.path, file.size, file.etag if file.algorithm == "sha256" else f"git-sha1:{file.etag}")
        for file in wanted.files
    )
    folder = request.repo.snapshot(request.commit)
    fetched = sum(result.bytes_fetched for result in results)
    manifest = Manifest(
        STAGE,
        FORMAT,
        _inputs(request, wanted),
        request.parameters,
        str(folder),
        files,
        account={"files": len(files), "bytes": wanted.total_bytes},
        recorded=provenance() | {"revision": request.revision, "bytes_fetched": fetched, "seconds": round(seconds, 3)},
    )
    write_manifest(request.manifest, manifest)
    return TakenSnapshot(
        repo_id=request.repo.repo_id,
        config=request.config,
        commit=request.commit,
        folder=folder,
        files=files,
        size=wanted.total_bytes,
        bytes_fetched=fetched,
        bytes_cached=sum(result.bytes_cached for result in results),
        refetched=tuple(path for result in results for path in result.refetched),
        waited_s=sum(result.waited_s for result in results),
        seconds=seconds,
        reused=False,
        fingerprint=manifest.fingerprint,
    )


def _is_proven(repo: RepoCache, commit: str, file: RepoFile, memory: VerifyMemory) -> bool:
    pointer = repo.snapshot(commit) / file.path
    try:
        if pointer.is_symlink():
            if os.path.basename(pointer.readlink()) != file.etag:  # noqa: PTH119 - a link's text is no path of ours
                return False
            place = repo.blob(file.etag)
        else:
            place = pointer
        return memory.lookup(place, place.stat()) == file.etag
    except OSError:
        return False
