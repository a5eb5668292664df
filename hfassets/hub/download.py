"""`hfassets hub download` and `prepare`: all configs asked for, from the Hub to Arrow, with nothing swallowed.

Invariant: configs fail one by one. What can be done is done; then every failure is in the report file and in the
error raised. That configs could not be enumerated is an error, never «the default config».
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hfassets.errors import HfassetsError, HubError, PartialFailureError, UsageError
from hfassets.hub.acquire import (
    Files,
    SnapshotRequest,
    TakenSnapshot,
    Transfer,
    commit_listing,
    find_snapshot,
    matching,
    plan_only,
    read_metadata,
    take_snapshot,
)
from hfassets.hub.configs import config_files, list_configs
from hfassets.hub.failures import write_report
from hfassets.hub.layout import RepoCache
from hfassets.hub.memory import VerifyMemory
from hfassets.hub.names import check_revision
from hfassets.hub.plan import PlanSummary
from hfassets.hub.prepare import PreparedDataset, PrepareRequest, find_prepared, prepare
from hfassets.hub.session import HubClient, HubOptions, Wait
from hfassets.progress import Note, ProgressCallback, silent
from hfassets.storage.state import StateDir

__all__ = [
    "WHOLE_REPO",
    "DownloadError",
    "DownloadRequest",
    "DownloadResult",
    "SnapshotRequest",
    "TakenSnapshot",
    "download_dataset",
    "find_snapshot",
    "parse_configs",
    "plan_download",
    "take_snapshot",
]

WHOLE_REPO = "(all files)"
"""Stands for the config where raw files alone are asked for, and all of them: no config has to make sense then."""


@dataclass(frozen=True, slots=True)
class DownloadRequest:
    """What to download. `configs` empty = all that the repo has; `raw_only` stops before Arrow.

    `prepare_only` leaves the raw files alone where the config is prepared already.
    """

    repo_id: str
    hub_cache: Path
    datasets_cache: Path
    state: StateDir
    configs: tuple[str, ...] = ()
    revision: str = "main"
    files: Files = "config"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    transfer: Transfer = "http"
    workers: int = 8
    max_bytes: int | None = None
    num_proc: int | None = None
    raw_only: bool = False
    prepare_only: bool = False
    force_redownload: bool = False
    force_prepare: bool = False
    lease_wait: float = 0.0

    @property
    def repo(self) -> RepoCache:
        """The repo in the Hub cache."""
        return RepoCache(self.hub_cache, self.repo_id)


@dataclass(frozen=True, slots=True)
class DownloadResult:
    """What is there now, by config, and what failed (`failures`: config and full reason; `report` lists them).

    `waits`: what the Hub was waited for; `waited_s`: the time in which at least one request waited.
    """

    repo_id: str
    commit: str
    snapshots: tuple[TakenSnapshot, ...]
    prepared: tuple[PreparedDataset, ...]
    failures: tuple[tuple[str, str], ...] = ()
    report: Path | None = None
    waits: tuple[Wait, ...] = ()
    waited_s: float = 0.0


class DownloadError(PartialFailureError):
    """Some configs failed; `result` has those that did not, and the report."""

    def __init__(self, result: DownloadResult, failures: Sequence[tuple[str, str]], total: int) -> None:
        super().__init__(f"configs of {result.repo_id}", failures, total)
        self.result = result

    def __str__(self) -> str:
        return f"{super().__str__()} (report: {self.result.report})"


def parse_configs(text: str | None) -> tuple[str, ...]:
    """`--subset-name`: a comma list, trimmed, empty items and repeats dropped; None and "" give () = all configs."""
    return tuple(dict.fromkeys(item.strip() for item in (text or "").split(",") if item.strip()))


def resolve_revision(client: HubClient, repo: RepoCache, revision: str) -> str:
    """The commit of a revision; offline, what the cache has recorded for it. Raises HubError."""
    check_revision(revision)
    if len(revision) == 40 and not set(revision) - set("0123456789abcdef"):
        return revision
    if not client.options.offline:
        return client.resolve_commit(repo.repo_id, revision, repo.repo_type)
    try:
        commit = repo.ref(revision).read_text().strip()
    except OSError:
        raise HubError(
            f"{repo.repo_id}: offline, and {repo.hub_cache} has not recorded the revision {revision!r}; "
            "go online once, or name a commit that is there"
        ) from None
    repo.snapshot(commit)
    return commit


def download_dataset(
    request: DownloadRequest, options: HubOptions, progress: ProgressCallback = silent
) -> DownloadResult:
    """Fetch, prove and prepare all configs asked for; with `options.offline`, from what the cache holds.

    Raises DownloadError when a config failed (the others are done), and HfassetsError at once when the commit, its
    listing or its configs cannot be told.
    """
    with HubClient(options, progress) as client:
        commit, configs = _enumerate(client, request, progress, keep=True)
        snapshots, prepared = [], []
        failures: list[tuple[str, str]] = []
        reasons: list[tuple[str, str]] = []
        left = request.max_bytes
        for number, config in enumerate(configs, 1):
            progress(Note(f"{request.repo_id}:{config} ({number} of {len(configs)})"))
            try:
                wanted = _prepare_request(request, commit, config)
                if request.prepare_only and not wanted.force and (found := find_prepared(wanted)) is not None:
                    prepared.append(found)
                    continue
                if not request.raw_only:
                    _require_all_data(client, request, commit, config, progress)
                taken = take_snapshot(client, _snapshot_request(request, commit, config, left), progress)
                snapshots.append(taken)
                left = None if left is None else max(0, left - taken.bytes_fetched)
                if not request.raw_only:
                    prepared.append(prepare(wanted, progress))
            except Exception as error:
                known = isinstance(error, HfassetsError)
                line = str(error) if known else f"{type(error).__name__}: {error}"
                failures.append((config, line))
                reasons.append((config, line if known else "".join(traceback.format_exception(error))))
                progress(Note(f"{request.repo_id}:{config} failed: {line}", "warning"))
        waits, waited_s = tuple(client.waits), client.waited
    result = DownloadResult(
        request.repo_id,
        commit,
        tuple(snapshots),
        tuple(prepared),
        tuple(reasons),
        waits=waits,
        waited_s=waited_s,
    )
    if failures:
        result = replace(result, report=write_report(request.state, request.repo_id, reasons, len(configs)))
        raise DownloadError(result, failures, len(configs))
    return result


def plan_download(
    request: DownloadRequest, options: HubOptions, progress: ProgressCallback = silent
) -> tuple[tuple[str, PlanSummary], ...]:
    """`--dry-run`: for each config, what would be fetched. Writes nothing."""
    with HubClient(options, progress) as client:
        commit, configs = _enumerate(client, request, progress, keep=False)
        plans = {
            config: plan_only(client, _snapshot_request(request, commit, config, None), progress) for config in configs
        }
        return tuple((config, plan.describe(client.quota())) for config, plan in plans.items())


def _enumerate(
    client: HubClient, request: DownloadRequest, progress: ProgressCallback, *, keep: bool
) -> tuple[str, tuple[str, ...]]:
    if request.num_proc is not None and request.num_proc < 1:
        raise UsageError(f"num_proc is {request.num_proc}; it is at least 1")
    commit = resolve_revision(client, request.repo, request.revision)
    if request.configs:
        return commit, request.configs
    if request.raw_only and request.files == "all":
        return commit, (WHOLE_REPO,)
    listing = commit_listing(client, request.repo, commit, request.state, progress, keep=keep)
    memory = VerifyMemory.open(request.state, request.repo)
    return commit, list_configs(listing, read_metadata(client, request.repo, listing, memory))


def _require_all_data(
    client: HubClient, request: DownloadRequest, commit: str, config: str, progress: ProgressCallback
) -> None:
    """Refuse, before anything is fetched, patterns that leave out data files: `load_dataset` would take the rest for
    the whole."""
    if not request.include and not request.exclude:
        return
    listing = commit_listing(client, request.repo, commit, request.state, progress)
    metadata = read_metadata(client, request.repo, listing, VerifyMemory.open(request.state, request.repo))
    needed = config_files(listing, metadata, config).needed(listing)
    kept = {file.path for file in matching(needed, request.include, request.exclude).files}
    lost = [file.path for file in needed.files if file.path not in kept]
    if lost:
        raise UsageError(
            f"include and exclude leave out {len(lost)} files that {request.repo_id}:{config} is prepared from "
            f"({lost[0]}{', …' if len(lost) > 1 else ''}); take the raw files alone, or change the patterns"
        )


def _snapshot_request(request: DownloadRequest, commit: str, config: str, max_bytes: int | None) -> SnapshotRequest:
    return SnapshotRequest(
        repo=request.repo,
        commit=commit,
        state=request.state,
        config=None if config == WHOLE_REPO else config,
        files=request.files,
        include=request.include,
        exclude=request.exclude,
        revision=None if request.revision == commit else request.revision,
        workers=request.workers,
        max_bytes=max_bytes,
        transfer=request.transfer,
        force=request.force_redownload,
        lease_wait=request.lease_wait,
    )


def _prepare_request(request: DownloadRequest, commit: str, config: str) -> PrepareRequest:
    return PrepareRequest(
        repo=request.repo,
        config=config,
        commit=commit,
        datasets_cache=request.datasets_cache,
        state=request.state,
        num_proc=request.num_proc,
        force=request.force_prepare or request.force_redownload,
        lease_wait=request.lease_wait,
    )
