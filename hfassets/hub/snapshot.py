"""The files of a repo at a pinned commit, brought into the Hub cache and proven on arrival.

Invariant: `snapshots/<commit>/<path>` is linked only to a proven blob, and `refs/<revision>` is written only when every
file wanted is there. A failed file does not stop the others; the call then fails, naming each.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from hfassets.errors import HfassetsError, HubError, IntegrityError, PartialFailureError, SpaceError
from hfassets.hub.layout import RepoCache
from hfassets.hub.links import adopt, place_link, write_ref
from hfassets.hub.listing import RepoFile
from hfassets.hub.memory import VerifyMemory
from hfassets.hub.partial import ensure_folder, remove_leftovers
from hfassets.hub.plan import PlanSummary, SnapshotPlan, plan_snapshot
from hfassets.hub.refusals import HubRefusalError
from hfassets.hub.session import HubClient
from hfassets.hub.transfer import TRANSFERS, FetchedBlob, fetch_blob
from hfassets.progress import Note, ProgressCallback, silent
from hfassets.report.bytecount import ByteCount
from hfassets.report.units import format_bytes
from hfassets.storage.atomic import fsync_directory
from hfassets.storage.space import require_space

__all__ = ["PlanSummary", "SnapshotPlan", "SnapshotResult", "fetch_snapshot", "plan_snapshot"]

_GIVE_UP_AFTER = 20
_LOST = {
    "hf_transfer": "hf_transfer: request budget, retries and resume are not ours; a file that is cut starts again",
    "xet": "xet: request budget, retries and resume are not ours; arrived files are still proven by hash",
}


@dataclass(frozen=True, slots=True)
class SnapshotResult:
    """What was done. Bytes; `refetched`: paths whose bytes in the cache, or on first arrival, were wrong."""

    files: int
    bytes_fetched: int
    bytes_cached: int
    refetched: tuple[str, ...]
    waited_s: float
    seconds: float


@dataclass(slots=True)
class _Outcome:
    """What the threads of one fetch have done so far."""

    received: int = 0
    second: dict[str, str] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)
    final: HubRefusalError | None = None
    in_a_row: int = 0
    not_tried: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def succeeded(self, file: RepoFile, fetched: FetchedBlob) -> None:
        with self.lock:
            self.received += fetched.received
            self.in_a_row = 0
            if fetched.second:
                self.second[file.etag] = fetched.second

    def failed(self, name: str, error: HfassetsError | OSError) -> None:
        with self.lock:
            self.failures.append((name, _reason(error)))
            if isinstance(error, HubRefusalError) and error.is_final:
                self.final = error
            # Wrong bytes, or a file the Hub does not have, say nothing about the other files.
            about_one_file = isinstance(error, IntegrityError) or (
                isinstance(error, HubRefusalError) and error.code == "EntryNotFound"
            )
            self.in_a_row += not about_one_file

    def skips(self) -> bool:
        """Whether to leave the next file out, since all is refused or fails; counts it."""
        with self.lock:
            hopeless = self.final is not None or self.in_a_row >= _GIVE_UP_AFTER
            self.not_tried += hopeless
            return hopeless


def fetch_snapshot(
    client: HubClient,
    plan: SnapshotPlan,
    repo: RepoCache,
    memory: VerifyMemory,
    *,
    workers: int = 8,
    max_bytes: int | None = None,
    transfer: str = "http",
    revision: str | None = None,
    progress: ProgressCallback = silent,
) -> SnapshotResult:
    """Fetch what the plan lacks, link all its files, and record `revision` (a branch or tag) as being at its commit.

    Raises SpaceError before the first byte when it would not fit (or exceeds `max_bytes`), HubRefusalError when the Hub
    refuses the whole repo, PartialFailureError naming every file that failed.
    """
    if transfer not in TRANSFERS:
        raise HubError(f"transfer {transfer!r} is not one of {', '.join(TRANSFERS)}")
    began, waited = time.monotonic(), client.waited
    _require_room(plan, repo, max_bytes)
    _prepare_folders(plan, repo)
    if plan.fetch and transfer in _LOST:
        progress(Note(_LOST[transfer], "warning"))
    outcome = _Outcome()
    folders: set[Path] = {repo.blob("0" * 40).parent}
    _link_cached(plan, repo, folders, outcome)
    with client.library_session(xet=True) if transfer == "xet" else nullcontext():
        _fetch_all(client, plan, repo, memory, workers, transfer, progress, outcome, folders)
    for folder in folders:
        fsync_directory(folder)
    if not memory.save() and memory.error:
        progress(Note(memory.error, "warning"))
    if outcome.final is not None:
        raise outcome.final
    if outcome.not_tried:
        outcome.failures.append((f"{outcome.not_tried:,} more", f"not tried after {_GIVE_UP_AFTER} failures in a row"))
    if outcome.failures:
        raise PartialFailureError(f"files of {repo.repo_id}", sorted(outcome.failures), len(plan.listing.files))
    remove_leftovers(repo, {file.etag for file in plan.listing.files})
    if revision is not None:
        write_ref(repo, revision, plan.listing.commit)
    wrong = {file.etag for file in plan.damaged} | outcome.second.keys()
    return SnapshotResult(
        files=len(plan.listing.files),
        bytes_fetched=outcome.received,
        bytes_cached=sum(file.size for file in plan.cached),
        refetched=tuple(file.path for file in plan.listing.files if file.etag in wrong),
        waited_s=client.waited - waited,
        seconds=time.monotonic() - began,
    )


def _require_room(plan: SnapshotPlan, repo: RepoCache, max_bytes: int | None) -> None:
    need = plan.fetch_bytes
    if max_bytes is not None and need > max_bytes:
        raise SpaceError(
            f"{repo.repo_id}: {format_bytes(need)} to fetch, max_bytes allows {format_bytes(max_bytes)}; "
            "raise it or choose fewer configs or files"
        )
    if plan.fetch:
        # Each blob has a lock file, each path a link, and a few folders.
        require_space(repo.folder, need, 2 * len(plan.blobs) + len(plan.listing.files) + 8)


def _prepare_folders(plan: SnapshotPlan, repo: RepoCache) -> None:
    try:
        for folder in (repo.blob("0" * 40).parent, repo.snapshot(plan.listing.commit)):
            ensure_folder(repo, folder)
            if plan.fetch and not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(folder)
    except (PermissionError, FileExistsError, NotADirectoryError):
        raise HfassetsError(
            f"{repo.folder} cannot be written by this user (uid {os.getuid()}); "
            "ask its owner for group write access, or name another hub cache"
        ) from None


def _link_cached(plan: SnapshotPlan, repo: RepoCache, folders: set[Path], outcome: _Outcome) -> None:
    commit, real = plan.listing.commit, set(plan.real)
    uses = Counter(file.etag for file in plan.cached)
    for file in plan.cached:
        if file.path in real and uses[file.etag] > 1:
            adopt(repo.pointer(commit, file.path), repo.blob(file.etag))
    for file in plan.cached:
        if file.path in real:
            continue
        try:
            folders.add(place_link(repo, commit, file.path, file.etag).parent)
        except (HfassetsError, OSError) as error:
            outcome.failed(file.path, error)


def _fetch_all(
    client: HubClient,
    plan: SnapshotPlan,
    repo: RepoCache,
    memory: VerifyMemory,
    workers: int,
    transfer: str,
    progress: ProgressCallback,
    outcome: _Outcome,
    folders: set[Path],
) -> None:
    commit = plan.listing.commit
    count = ByteCount(f"download {repo.repo_id}", sum(file.size for file in plan.blobs), progress)
    stopped = threading.Event()
    slots = threading.BoundedSemaphore(max(1, workers))

    def on_bytes(size: int) -> None:
        if stopped.is_set():
            raise HubError("stopped")
        count(size)

    paths: dict[str, list[str]] = {}
    for file in plan.fetch:
        paths.setdefault(file.etag, []).append(file.path)

    def one(file: RepoFile) -> None:
        name = ", ".join(paths[file.etag])
        if outcome.skips():
            return
        try:
            fetched = fetch_blob(
                client, repo, commit, file, memory,
                transfer=transfer, force=plan.force, on_bytes=on_bytes, slots=slots,
            )  # fmt: skip
            placed = {place_link(repo, commit, path, file.etag).parent for path in paths[file.etag]}
        except (HfassetsError, OSError) as error:
            outcome.failed(name, error)
            return
        folders.update(placed)
        outcome.succeeded(file, fetched)
        if fetched.second:
            progress(Note(f"{name}: fetched a second time, {fetched.second}", "warning"))

    for file in plan.damaged:
        progress(Note(f"{file.path}: what the cache held was damaged; fetching it again", "warning"))
    ordered = sorted(plan.blobs, key=lambda file: (-file.size, file.path))
    _run_all(one, ordered, 2 * max(1, workers), stopped)  # half of them fetch, half make durable what has come
    count.finish()


def _run_all(work: Callable[[RepoFile], None], files: list[RepoFile], workers: int, stopped: threading.Event) -> None:
    """Run `work` for each file on threads; what it raises (a defect, or an interrupt of ours) stops the others."""
    with ThreadPoolExecutor(workers, thread_name_prefix="hub") as pool:
        futures: list[Future[None]] = [pool.submit(work, file) for file in files]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        except BaseException:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _reason(error: HfassetsError | OSError) -> str:
    if isinstance(error, HfassetsError):
        return str(error)
    return f"{error.strerror or type(error).__name__} ({error.filename})" if error.filename else str(error)
