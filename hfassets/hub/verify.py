"""Prove what a Hub cache holds against what its names, links and listings claim.

Invariant: never a false alarm and never a false «intact». A suspicion that another process's work could explain is
looked at again before it is reported; what nothing on disk can prove is reported as unverifiable.
Nothing in the cache is written, so reading rights are enough.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hfassets.errors import HfassetsError
from hfassets.hub import faults as kinds
from hfassets.hub.faults import Fault, Unverifiable, VerifyReport
from hfassets.hub.hashing import algorithm_of
from hfassets.hub.judge import RepoCheck
from hfassets.hub.layout import RepoCache
from hfassets.hub.listing import Listing, RepoFile
from hfassets.hub.listings import kept_listing
from hfassets.hub.memory import MAX_AGE_S, VerifyMemory
from hfassets.hub.scan import find_hub_caches, find_repos, find_store, scan_repo, scan_store
from hfassets.hub.sweep import Outcome, Task, sweep
from hfassets.progress import Note, ProgressCallback, silent
from hfassets.storage.state import StateDir

__all__ = [
    "Fault",
    "ListingFor",
    "RepoSummary",
    "Unverifiable",
    "VerifyReport",
    "list_repos",
    "verify_cache",
    "verify_files",
]

ListingFor = Callable[[RepoCache, str], Listing | None]


@dataclass(frozen=True, slots=True)
class RepoSummary:
    """A repo in a cache: how many blobs (or, without links, files) it has, and their bytes."""

    repo_id: str
    repo_type: str
    blobs: int
    bytes: int
    folder: Path


def list_repos(cache_dir: Path) -> tuple[RepoSummary, ...]:
    """Every repo below `cache_dir` (HF_HOME or a hub cache), by folder name."""
    rows = []
    for hub_cache in find_hub_caches(cache_dir):
        for repo in find_repos(hub_cache):
            scan = scan_repo(repo)
            files = [*scan.blobs.values(), *(blob for _, blob in scan.real_files)]
            size = sum(blob.size for blob in files)
            rows.append(RepoSummary(repo.repo_id, repo.repo_type, len(files), size, repo.folder))
    return tuple(rows)


def verify_cache(
    cache_dir: Path,
    *,
    state: StateDir,
    repos: Collection[str] | None = None,
    workers: int | None = None,
    full: bool = False,
    max_age_s: float = MAX_AGE_S,
    progress: ProgressCallback = silent,
    listing_for: ListingFor | None = None,
) -> VerifyReport:
    """Verify all blobs of a cache, or those of the repos named.

    `full` reads also what the memory says is proven. With a listing of a commit, link-less files can be proven and
    wrong links are seen: `listing_for` may give one (the Hub's own, say), else the one kept from our download is taken,
    else the library's `trees/`.
    Raises HfassetsError when `cache_dir` is no cache or a repo named is not in it.
    """
    started = time.monotonic()
    hub_caches = find_hub_caches(cache_dir)

    def known(repo: RepoCache, commit: str) -> Listing | None:
        listing = None if listing_for is None else listing_for(repo, commit)
        if listing is None:
            with suppress(OSError):  # a state folder we may not read knows nothing
                listing = kept_listing(state, repo, commit)
        return listing

    checks = _checks(hub_caches, state, repos, full, max_age_s, known)
    if not checks:
        progress(Note(f"{cache_dir}: no repos in it", "warning"))
    by_memory = {id(check.memory): check for check in checks}
    tasks = [task for check in checks for task in check.tasks]
    checked = bytes_read = 0
    for outcome in sweep(tasks, workers, progress):
        by_memory[id(outcome.task.memory)].take(outcome)
        checked += outcome.digest is not None
        bytes_read += outcome.size
    found = _once(_settle(checks))
    if repos is None:
        for check in checks:
            check.prune_memory()
    notices = tuple(notice for check in checks for notice in check.notices)
    for notice in notices:
        progress(Note(notice, "warning"))
    return VerifyReport(
        repo_ids=tuple(check.repo.repo_id for check in checks if not check.repo.is_store),
        checked=checked,
        remembered=sum(check.remembered for check in checks),
        bytes_read=bytes_read,
        bytes_proven=sum(check.bytes_proven for check in checks),
        faults=found,
        unverifiable=tuple(entry for check in checks for entry in check.unverifiable),
        in_progress=tuple(path for check in checks for path in check.in_progress),
        not_downloaded=sum(check.not_downloaded for check in checks),
        purged=tuple(check.repo.repo_id for check in checks if check.purged),
        notices=notices,
        seconds=time.monotonic() - started,
        hub_caches=hub_caches,
    )


def _checks(
    hub_caches: Sequence[Path],
    state: StateDir,
    repos: Collection[str] | None,
    full: bool,
    max_age_s: float,
    listing_for: ListingFor,
) -> list[RepoCheck]:
    folders = [repo for hub_cache in hub_caches for repo in find_repos(hub_cache)]
    if repos is not None:
        present = {repo.repo_id for repo in folders}
        absent = sorted(set(repos) - present)
        if absent:
            raise HfassetsError(
                f"{absent[0]} is not in {hub_caches[0]}; it has {', '.join(sorted(present)) or 'no repos'}"
            )
        folders = [repo for repo in folders if repo.repo_id in repos]
    else:
        folders += [store for hub_cache in hub_caches if (store := find_store(hub_cache)) is not None]
    checks = []
    for repo in folders:
        scan = scan_store(repo) if repo.is_store else scan_repo(repo)
        memory = VerifyMemory.open_folder(state, repo.hub_cache, repo.name, max_age_s)
        checks.append(RepoCheck(scan, memory, full, listing_for))
    return checks


def _settle(checks: Sequence[RepoCheck]) -> list[Fault]:
    """All faults; when there are suspicions, each is looked at once more after a moment."""
    if any(check.suspicions for check in checks):
        time.sleep(0.1)
    return [fault for check in checks for fault in check.conclude()]


def _once(found: Iterable[Fault]) -> tuple[Fault, ...]:
    """Without what the store says again of a file that a repo's blob leads to."""
    found = sorted(found, key=lambda fault: (fault.repo_type == "store", fault.repo_type, fault.repo_id, fault.file))
    of_repos = {fault.file.resolve() for fault in found if fault.repo_type != "store"}
    return tuple(fault for fault in found if fault.repo_type != "store" or fault.file.resolve() not in of_repos)


def verify_files(
    repo: RepoCache,
    listing: Listing,
    memory: VerifyMemory,
    *,
    workers: int | None = None,
    full: bool = False,
    progress: ProgressCallback = silent,
) -> VerifyReport:
    """Verify the files of `listing` (those of one config, at its commit) in a cache; each that is not there is missing.

    `purged` holds the repo when its folder, or at least ten files and half of them, are gone at once.
    """
    started = time.monotonic()
    places: dict[str, list[RepoFile]] = defaultdict(list)
    found: list[Fault] = []
    remembered = bytes_proven = 0
    tasks: dict[str, Task] = {}
    for file in listing.files:
        place = _place(repo, listing.commit, file)
        if isinstance(place, Fault):
            found.append(place)
            continue
        path, status = place
        places[str(path)].append(file)
        if str(path) in tasks or len(places[str(path)]) > 1:
            continue
        if not full and memory.lookup(path, status) == file.etag:
            remembered += 1
            bytes_proven += status.st_size
        else:
            tasks[str(path)] = Task(str(path), status.st_size, file.algorithm, file.etag, memory)
    gone = sum(fault.kind == kinds.MISSING for fault in found)
    checked = bytes_read = 0
    for outcome in sweep(tasks.values(), workers, progress):
        checked += outcome.digest is not None
        bytes_read += outcome.size
        if outcome.is_proven:
            bytes_proven += outcome.size
        else:
            links = tuple((listing.commit, file.path) for file in places[outcome.task.path])
            found.append(_file_fault(repo, outcome, places[outcome.task.path][0], links))
    purged = kinds.is_purge(gone, len(listing.files)) or (gone and not repo.folder.is_dir())
    notices = (memory.error,) if memory.error else ()
    for notice in notices:
        progress(Note(notice, "warning"))
    return VerifyReport(
        repo_ids=(repo.repo_id,),
        checked=checked,
        remembered=remembered,
        bytes_read=bytes_read,
        bytes_proven=bytes_proven,
        faults=tuple(sorted(found, key=lambda fault: fault.path or "")),
        purged=(repo.repo_id,) if purged else (),
        notices=notices,
        seconds=time.monotonic() - started,
        hub_caches=(repo.hub_cache,),
    )


def _place(repo: RepoCache, commit: str, file: RepoFile) -> tuple[Path, os.stat_result] | Fault:
    """The file that proves a listed one (its blob, or itself in a link-less cache), or what is wrong at once."""
    pointer, blob = repo.snapshot(commit) / file.path, repo.blob(file.etag)
    place = pointer
    try:
        if pointer.is_symlink():
            target = pointer.parent / pointer.readlink()
            if target.parent.resolve() != blob.parent.resolve():
                return _fault(repo, kinds.FOREIGN_LINK, commit, file, pointer, f"leads to {target}")
            if target.name != file.etag:
                return _fault(repo, kinds.WRONG_LINK, commit, file, pointer, f"leads to the blob {target.name}")
            place = blob
        status = place.stat()
    except (FileNotFoundError, NotADirectoryError):
        detail = "its blob is gone" if place == blob else "its link is gone" if blob.exists() else "is gone"
        return _fault(repo, kinds.MISSING, commit, file, place, detail)
    except (OSError, RuntimeError) as error:
        return _fault(repo, kinds.UNREADABLE, commit, file, place, getattr(error, "strerror", None) or str(error))
    if not place.is_file():
        return _fault(repo, kinds.NOT_A_FILE, commit, file, place, "is not a file")
    return place, status


def _file_fault(repo: RepoCache, outcome: Outcome, file: RepoFile, links: tuple[tuple[str, str], ...]) -> Fault:
    path = Path(outcome.task.path)
    commit = links[0][0]
    if outcome.error is not None:
        return _fault(repo, kinds.UNREADABLE, commit, file, path, f"cannot be read ({outcome.error})", links)
    if outcome.vanished:
        return _fault(repo, kinds.MISSING, commit, file, path, "went away while it was verified", links)
    if outcome.changing:
        return _fault(repo, kinds.UNREADABLE, commit, file, path, "is being written while it is verified", links)
    kind = kinds.TRUNCATED if outcome.size < file.size else kinds.CORRUPT
    detail = f"{algorithm_of(file.etag)} is {outcome.digest}, {outcome.size:,} of {file.size:,} bytes"
    return replace(_fault(repo, kind, commit, file, path, detail, links), identity=outcome.identity)


def _fault(
    repo: RepoCache,
    kind: str,
    commit: str,
    file: RepoFile,
    place: Path,
    detail: str,
    links: tuple[tuple[str, str], ...] = (),
) -> Fault:
    return Fault(
        kind=kind,
        repo_id=repo.repo_id,
        repo_type=repo.repo_type,
        commit=commit,
        path=file.path,
        file=place,
        expected=file.etag,
        detail=detail,
        hub_cache=repo.hub_cache,
        links=links or ((commit, file.path),),
    )
