"""`hfassets hub verify`: list, verify, quarantine, repair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hfassets.cli.options import PATH, no_token, options, places, state_option
from hfassets.cli.output import json_option, show
from hfassets.cli.progress import ProgressDisplay
from hfassets.errors import HfassetsError, HubError, IntegrityError
from hfassets.progress import Note
from hfassets.report.tables import build_table
from hfassets.report.units import counted, format_bytes, format_seconds

if TYPE_CHECKING:
    from hfassets.hub.faults import VerifyReport
    from hfassets.hub.layout import RepoCache
    from hfassets.hub.listing import Listing
    from hfassets.hub.quarantine import QuarantineResult
    from hfassets.hub.repair import RepairResult
    from hfassets.hub.verify import ListingFor, RepoSummary
    from hfassets.storage import StateDir

# What a terminal is spared; --json has all of it.
MOST_LINES = 200
DEFAULT_REPAIR_WORKERS = 8

verify_options = options(
    click.option(
        "--cache-dir", type=PATH, help="HF_HOME or a Hub cache itself [default: the catalog's, else HF_HUB_CACHE]."
    ),
    click.option("--dataset", "repos", multiple=True, metavar="REPO", help="Only this repo; may be repeated."),
    click.option("--workers", type=click.IntRange(1), help="Files read at once [default: one a core]."),
    click.option("--batch-size", type=int, help="Accepted for old scripts: files are grouped by their sizes."),
    click.option("--list", "list_only", is_flag=True, help="Only list what is in the cache."),
    click.option("--full", is_flag=True, help="Read everything, also what was proven before and has not changed."),
    click.option("--quarantine", "move", is_flag=True, help="Move what is damaged out of the cache."),
    click.option("--repair", "mend", is_flag=True, help="Move it out and fetch just these files again."),
    click.option("--online", is_flag=True, help="Hold files against the Hub's listings: for caches without links."),
    state_option,
    json_option,
    no_token,
)


@click.command()
@verify_options
def verify(
    cache_dir: Path | None,
    repos: tuple[str, ...],
    workers: int | None,
    batch_size: int | None,
    list_only: bool,
    full: bool,
    move: bool,
    mend: bool,
    online: bool,
    state_dir: Path | None,
    json_path: str | None,
) -> None:
    """Prove every file of a Hub cache by its hash.

    Exit code 1 when anything is wrong, unless --repair has put all of it right.
    """
    from hfassets.hub.quarantine import quarantine, read_quarantine
    from hfassets.hub.verify import list_repos, verify_cache

    if batch_size is not None:
        click.echo("notice: --batch-size is ignored, files are grouped by their sizes", err=True)
    where = places(state_dir)
    cache = cache_dir or where.hub_cache
    if list_only:
        _show_list(json_path, cache, list_repos(cache), repos)
        return
    moved: QuarantineResult | None = None
    mended: RepairResult | None = None
    with ProgressDisplay() as progress, _listings(online, progress) as listing_for:

        def look(again: bool) -> VerifyReport:
            return verify_cache(
                cache,
                state=where.state,
                repos=repos or None,
                workers=workers,
                full=full and not again,
                progress=progress,
                listing_for=listing_for,
            )

        found = left = look(again=False)
        if mend:
            mended = _repair(found, where.state, progress)
            # What was fetched is remembered as proven, so this costs a stat a file.
            left = look(again=True) if found.faults or mended.repaired else found
        elif move and found.faults:
            moved = quarantine(where.state, found.faults, progress)
        missed = {
            (entry.repo, commit, path)
            for entry in read_quarantine(where.state, left.hub_caches)
            if entry.is_missed and entry.repo in left.repo_ids
            for commit, path, _ in entry.links
        }
    _show_report(json_path, cache, found, moved, mended, left, missed)
    if mended is not None and not left.faults and not mended.complete:
        problems = len(mended.not_repaired) + len(mended.deferred) + len(mended.quarantined.not_moved)
        raise IntegrityError(f"{cache}: {counted(problems, 'file')} could not be repaired: {_first_problem(mended)}")
    if left.faults:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(left.kinds.items()))
        raise IntegrityError(f"{cache}: {counted(len(left.faults), 'fault')} ({counts})")


def _first_problem(mended: RepairResult) -> str:
    for what, reason in mended.not_repaired:
        return f"{what}: {reason}"
    for fault, reason in mended.quarantined.not_moved:
        return f"{fault.file}: {reason}"
    return f"{mended.deferred[0]}: over the byte budget"


def _repair(found: VerifyReport, state: StateDir, progress: ProgressDisplay) -> RepairResult:
    from hfassets.hub.repair import repair
    from hfassets.hub.session import HubClient, hub_options

    with HubClient(hub_options(), progress) as client:
        return repair(client, found, state, workers=DEFAULT_REPAIR_WORKERS, progress=progress)


@contextmanager
def _listings(online: bool, progress: ProgressDisplay) -> Iterator[ListingFor | None]:
    """The Hub's own listings, each asked for once; None when it is not to be asked."""
    if not online:
        yield None
        return
    from hfassets.hub.session import HubClient, hub_options

    known: dict[tuple[str, str, str], Listing | None] = {}
    with HubClient(hub_options(), progress) as client:

        def listing_for(repo: RepoCache, commit: str) -> Listing | None:
            key = repo.repo_type, repo.repo_id, commit
            if key not in known:
                try:
                    known[key] = client.list_files(repo.repo_id, commit, repo.repo_type)
                except HubError as error:
                    progress(Note(f"{repo.repo_id} at {commit[:12]}: no listing: {error}", "warning"))
                    known[key] = None
            return known[key]

        yield listing_for


def _show_list(json_path: str | None, cache: Path, found: Collection[RepoSummary], repos: Collection[str]) -> None:
    absent = sorted(set(repos) - {repo.repo_id for repo in found})
    if absent:
        raise HfassetsError(f"{absent[0]} is not in {cache}")
    chosen = [repo for repo in found if not repos or repo.repo_id in repos]
    rows = [(repo.repo_id, repo.repo_type, repo.blobs, format_bytes(repo.bytes), repo.folder) for repo in chosen]
    table = build_table(["repo", "type", "blobs>", "size>", "folder"], rows)
    size = format_bytes(sum(repo.bytes for repo in chosen))
    show(json_path, {"cache_dir": cache, "repos": chosen}, table.rich(), f"{counted(len(chosen), 'repo')}, {size}")


def _show_report(
    json_path: str | None,
    cache: Path,
    found: VerifyReport,
    moved: QuarantineResult | None,
    mended: RepairResult | None,
    left: VerifyReport,
    missed: Collection[tuple[str, str, str]],
) -> None:
    document = {"cache_dir": cache, **found.to_dict(), "missed": len(missed)}
    if moved is not None:
        document["quarantine"] = moved.to_dict()
    if mended is not None:
        document |= {"repair": mended.to_dict(), "after_repair": left.to_dict()}
    show(
        json_path,
        document,
        *_summary(found),
        *_moved_lines(moved),
        *_mended_lines(mended, left),
        *_missed_lines(missed),
    )


def _summary(found: VerifyReport) -> Iterator[str]:
    yield from _limited([f"{fault}" for fault in found.faults])
    yield from _limited([f"note: {notice}" for notice in found.notices])
    reasons = Counter((entry.repo_id, entry.reason) for entry in found.unverifiable)
    for (repo_id, reason), count in sorted(reasons.items()):
        yield f"unverifiable: {repo_id}: {counted(count, 'file')}: {reason}"
    for path in found.in_progress:
        yield f"in progress: {path}: somebody is downloading it"
    for repo_id in found.purged:
        yield f"purged: {repo_id}: so much is gone at once that it was probably removed on purpose"
    speed = f", {format_bytes(found.bytes_read / found.seconds)}/s" if found.bytes_read and found.seconds > 0.1 else ""
    read = f"{format_bytes(found.bytes_read)} in {format_seconds(found.seconds)}{speed}"
    known = f"{found.remembered:,} proven before and unchanged"
    yield f"{counted(len(found.repo_ids), 'repo')}: {counted(found.checked, 'file')} read ({read}), {known}"
    if found.not_downloaded:
        yield f"{counted(found.not_downloaded, 'file')} of these commits not downloaded"
    verdict = counted(len(found.faults), "fault") if found.faults else "no faults"
    unknown = f", {counted(len(found.unverifiable), 'file')} cannot be verified" if found.unverifiable else ""
    yield f"{format_bytes(found.bytes_proven)} proven intact, {verdict}{unknown}"


def _moved_lines(moved: QuarantineResult | None) -> Iterator[str]:
    if moved is None:
        return
    yield from _aside(moved)
    aside = sum(entry.moved_to is not None for entry in moved.moved)
    yield f"{counted(aside, 'file')} moved aside, {counted(moved.links_removed, 'link')} removed"


def _mended_lines(mended: RepairResult | None, left: VerifyReport) -> Iterator[str]:
    if mended is None:
        return
    yield from _aside(mended.quarantined)
    yield from _limited([f"repaired: {file}" for file in mended.repaired])
    yield from _limited([f"not repaired: {what}: {reason}" for what, reason in mended.not_repaired])
    files, faults = counted(len(mended.repaired), "file"), counted(len(left.faults), "fault")
    yield f"{files} repaired ({format_bytes(mended.bytes_fetched)} fetched), {faults} left"


def _missed_lines(missed: Collection[object]) -> Iterator[str]:
    if missed:
        yield f"{counted(len(missed), 'quarantined file')} not fetched again yet: --repair does"


def _aside(moved: QuarantineResult) -> Iterator[str]:
    yield from _limited([f"moved: {entry.file} -> {entry.moved_to}" for entry in moved.moved if entry.moved_to])
    yield from _limited([f"not moved: {fault.file}: {reason}" for fault, reason in moved.not_moved])


def _limited(lines: list[str]) -> list[str]:
    more = len(lines) - MOST_LINES
    return lines if more <= 0 else [*lines[:MOST_LINES], f"... and {more:,} more; --json has all"]
