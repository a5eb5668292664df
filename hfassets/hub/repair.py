"""Put right what a verification found: move the damage aside, then fetch just those files again, at their own commits.

Invariant: nothing is fetched but files that a snapshot had, from the commit it had them at, proven by the Hub's listing
of that commit. A repair that was killed after the quarantine is taken up by the next one: what was moved aside and has
not come back is still owed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfassets.errors import HfassetsError, HubError, PartialFailureError
from hfassets.hub import faults as kinds
from hfassets.hub.faults import Fault, VerifyReport, printable
from hfassets.hub.layout import RepoCache
from hfassets.hub.listing import Listing
from hfassets.hub.memory import VerifyMemory
from hfassets.hub.names import check_commit
from hfassets.hub.quarantine import QuarantineResult, quarantine, read_quarantine
from hfassets.hub.scan import RepoFolder, read_tree
from hfassets.hub.session import HubClient
from hfassets.hub.snapshot import SnapshotPlan, fetch_snapshot, plan_snapshot
from hfassets.progress import Note, ProgressCallback, silent
from hfassets.storage.state import StateDir


@dataclass(frozen=True, slots=True, order=True)
class RepairFile:
    """A file at a commit that a repair is about."""

    repo_id: str
    repo_type: str
    commit: str
    path: str

    def __str__(self) -> str:
        return f"{self.repo_id}: {printable(self.path)} at {self.commit[:12]}"


@dataclass(frozen=True, slots=True)
class RepairResult:
    """What was moved aside, what came back (`bytes_fetched` over the network), and what did not, with the reason.

    `deferred`: files left for another day because they would have exceeded the byte budget.
    """

    quarantined: QuarantineResult
    repaired: tuple[RepairFile, ...] = ()
    not_repaired: tuple[tuple[str, str], ...] = ()
    deferred: tuple[RepairFile, ...] = ()
    bytes_fetched: int = 0

    @property
    def complete(self) -> bool:
        """Whether everything was put right."""
        return not self.not_repaired and not self.deferred and not self.quarantined.not_moved

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "complete": self.complete,
            "quarantined": self.quarantined.to_dict(),
            "repaired": [str(file) for file in self.repaired],
            "not_repaired": [{"what": what, "reason": reason} for what, reason in self.not_repaired],
            "deferred": [str(file) for file in self.deferred],
            "bytes_fetched": self.bytes_fetched,
        }


@dataclass(slots=True)
class _Work:
    """What one repair has done so far."""

    budget: int | None
    repaired: list[RepairFile] = field(default_factory=list)
    not_repaired: list[tuple[str, str]] = field(default_factory=list)
    deferred: list[RepairFile] = field(default_factory=list)
    bytes_fetched: int = 0


def repair(
    client: HubClient,
    report: VerifyReport,
    state: StateDir,
    *,
    workers: int = 8,
    byte_budget: int | None = None,
    progress: ProgressCallback = silent,
) -> RepairResult:
    """Quarantine the faults of `report` and fetch the files behind them again, at most `byte_budget` bytes.

    Files and repos that the Hub no longer has, and whatever else could not be put right, are in the result with their
    reasons; nothing is raised for them. What earlier quarantines took out of the same repos, and was never fetched
    again, is part of the work.
    """
    quarantined = quarantine(state, report.faults, progress)
    work = _Work(byte_budget)
    for (repo, commit), paths in sorted(_owed(report, state, quarantined).items(), key=_by_place):
        files = [RepairFile(repo.repo_id, repo.repo_type, commit, path) for path in sorted(paths)]
        try:
            listing = client.list_files(repo.repo_id, check_commit(commit), repo.repo_type)
            _fetch(client, repo, listing, files, state, work, workers, progress)
            _distrust_tree(state, repo, listing, files, progress)
        except (HfassetsError, OSError) as error:
            work.not_repaired += [(str(file), str(error)) for file in files]
    for what, reason in work.not_repaired:
        progress(Note(f"not repaired: {what}: {reason}", "warning"))
    return RepairResult(
        quarantined, tuple(work.repaired), tuple(work.not_repaired), tuple(work.deferred), work.bytes_fetched
    )


_Owed = dict[tuple[RepoCache, str], set[str]]


def _owed(report: VerifyReport, state: StateDir, quarantined: QuarantineResult) -> _Owed:
    """Paths to fetch by repo and commit: what is at fault now, and what was moved aside and never came back."""
    owed: _Owed = defaultdict(set)
    stuck = {id(fault) for fault, _ in quarantined.not_moved}
    for fault in report.faults:
        if id(fault) not in stuck:
            _owe(owed, fault.hub_cache, fault.repo_id, fault.repo_type, fault.links)
    for entry in (*quarantined.moved, *read_quarantine(state, report.hub_caches)):
        if entry.is_missed and entry.repo in report.repo_ids:
            links = [(commit, path) for commit, path, _ in entry.links]
            _owe(owed, Path(entry.hub_cache), entry.repo, entry.repo_type, links)
    return owed


def _owe(owed: _Owed, hub_cache: Path, repo_id: str, repo_type: str, links: Iterable[tuple[str, str]]) -> None:
    with suppress(HubError):  # a folder that is named like no repo of the Hub has nothing there to come back from
        repo = RepoCache(hub_cache, repo_id, repo_type)
        for commit, path in links:
            if path:
                owed[repo, commit].add(path)


def _by_place(item: tuple[tuple[RepoCache, str], set[str]]) -> tuple[str, str]:
    (repo, commit), _ = item
    return str(repo.folder), commit


def _fetch(
    client: HubClient,
    repo: RepoCache,
    listing: Listing,
    files: list[RepairFile],
    state: StateDir,
    work: _Work,
    workers: int,
    progress: ProgressCallback,
) -> None:
    """Fetch of one commit what the Hub still has, as far as the budget goes."""
    listed = {file.path for file in listing.files}
    gone = [file for file in files if file.path not in listed]
    work.not_repaired += [(str(file), "the Hub does not have it at this commit") for file in gone]
    files = [file for file in files if file.path in listed]
    memory = VerifyMemory.open(state, repo)
    plan = plan_snapshot(listing.select(file.path for file in files), repo, memory, progress=progress)
    left = None if work.budget is None else work.budget - work.bytes_fetched
    if left is not None and plan.fetch_bytes > left:
        affordable = _affordable(plan, left)
        work.deferred += [file for file in files if file.path not in affordable]
        files = [file for file in files if file.path in affordable]
        plan = plan_snapshot(listing.select(affordable), repo, memory, progress=progress)
    if not files:
        return
    try:
        result = fetch_snapshot(client, plan, repo, memory, workers=workers, progress=progress)
    except PartialFailureError as error:
        work.bytes_fetched += plan.fetch_bytes
        failed = dict(error.failures)
        work.not_repaired += [(f"{repo.repo_id}: {name}", reason) for name, reason in error.failures]
        work.repaired += [file for file in files if file.path not in failed and _is_there(repo, file)]
        return
    work.bytes_fetched += result.bytes_fetched
    work.repaired += files


def _affordable(plan: SnapshotPlan, left: int) -> set[str]:
    """Paths that cost nothing, and as many others, the smallest first, as `left` bytes pay for."""
    etags = {file.etag for file in plan.cached}
    for file in sorted(plan.blobs, key=lambda file: (file.size, file.path)):
        left -= file.size
        if left >= 0:
            etags.add(file.etag)
    return {file.path for file in plan.listing.files if file.etag in etags}


def _is_there(repo: RepoCache, file: RepairFile) -> bool:
    return (repo.snapshot(file.commit) / file.path).exists()


def _distrust_tree(
    state: StateDir, repo: RepoCache, listing: Listing, files: list[RepairFile], progress: ProgressCallback
) -> None:
    """Move a stored tree listing aside that contradicts the Hub about a file: then it was the liar, not the link."""
    folder = RepoFolder(repo.hub_cache, repo.folder_name, repo.repo_type, repo.repo_id)
    try:
        tree = read_tree(folder, listing.commit)
    except ValueError:
        return  # already moved aside as damaged
    etags = {file.path: file.etag for file in listing.files}
    lies = [file.path for file in files if tree and file.path in tree and tree[file.path].etag != etags.get(file.path)]
    if lies:
        fault = Fault(
            kind=kinds.BAD_TREE,
            repo_id=repo.repo_id,
            repo_type=repo.repo_type,
            commit=listing.commit,
            path=None,
            file=repo.folder / "trees" / f"{listing.commit}.json",
            expected=None,
            detail=f"contradicts the Hub about {lies[0]}",
            hub_cache=repo.hub_cache,
        )
        quarantine(state, [fault], progress)
