"""Source files that lie in the Hub cache, or are brought there whole.

Invariant: a path that is handed out has been proven against the hash that the Hub lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hfassets.errors import HubError
from hfassets.hub.layout import RepoCache
from hfassets.hub.listing import Listing, RepoFile
from hfassets.hub.memory import VerifyMemory
from hfassets.hub.session import HubClient
from hfassets.hub.snapshot import fetch_snapshot, plan_snapshot
from hfassets.progress import Note, ProgressCallback
from hfassets.report.units import format_bytes


def cached_path(repo: RepoCache, commit: str, listing: Listing, file: RepoFile, memory: VerifyMemory) -> Path | None:
    """Where a source lies in the Hub cache, proven; None when it does not."""
    plan = plan_snapshot(listing.select([file.path]), repo, memory)
    if not plan.cached:
        return None
    memory.save()
    blob = repo.blob(file.etag)
    return blob if blob.exists() else repo.snapshot(commit) / file.path


def located(
    repo: RepoCache, commit: str, listing: Listing, files: Sequence[RepoFile], memory: VerifyMemory
) -> list[tuple[RepoFile, Path]]:
    """Source files that were fetched, with the places where they lie; raises HubError for one that is gone again."""
    found = []
    for file in files:
        path = cached_path(repo, commit, listing, file, memory)
        if path is None:
            raise HubError(f"{repo.repo_id}/{file.path}: it was fetched and is not there any more; run again")
        found.append((file, path))
    return found


def fetch_sources(
    client: HubClient,
    repo: RepoCache,
    wanted: Listing,
    memory: VerifyMemory,
    progress: ProgressCallback,
    hint: str = "",
) -> None:
    """Bring whole source files into the Hub cache, each proven; `hint` ends the line that tells their size."""
    plan = plan_snapshot(wanted, repo, memory, progress=progress)
    if plan.fetch and client.options.offline:
        raise HubError(
            f"{repo.repo_id}: offline, and {len(plan.fetch)} of {len(wanted.files)} source files are not in "
            f"{repo.hub_cache}"
        )
    if plan.fetch:
        size = format_bytes(plan.fetch_bytes)
        progress(Note(f"fetching {len(plan.fetch):,} files of {repo.repo_id} whole, {size}{hint}"))
    fetch_snapshot(client, plan, repo, memory, progress=progress)
