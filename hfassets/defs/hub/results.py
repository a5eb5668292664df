"""What the hub assets tell Dagster of a result: metadata under Dagster's own keys, a picture, checks. Pure."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from hfassets.catalog import Catalog
from hfassets.defs.hub import checks
from hfassets.defs.hub.partitions import INVENTORY
from hfassets.defs.partition_run import Check, DamageFoundError, Outcome
from hfassets.hub.acquire import TakenSnapshot
from hfassets.hub.faults import VerifyReport
from hfassets.hub.inventory import RepoInventory
from hfassets.hub.prepare import PreparedDataset
from hfassets.hub.prove import SnapshotProof
from hfassets.hub.session import Wait
from hfassets.report.plots import bar_chart, histogram, markdown_image
from hfassets.report.tables import build_table
from hfassets.report.units import format_bytes, format_seconds
from hfassets.storage.purge import DAY

MOST_FAULTS = 50
LONGEST_TYPE = 100
# `Value('string')` → `string`.
_PLAIN = re.compile(r"\bValue\('([^']+)'\)")


def of_snapshot(taken: TakenSnapshot, waits: Sequence[Wait]) -> Outcome:
    """A snapshot that is whole: what came, from where, and how its files are distributed in size."""
    metadata: dict[str, Any] = {
        "dagster/uri": f"hf://datasets/{taken.repo_id}@{taken.commit}",
        "folder": dg.MetadataValue.path(str(taken.folder)),
        "commit": taken.commit,
        "files": len(taken.files),
        "bytes": taken.size,
        "size": format_bytes(taken.size),
        "fetched": format_bytes(taken.bytes_fetched),
        "already in the cache": format_bytes(taken.bytes_cached),
        "waited for the Hub": format_seconds(taken.waited_s),
        "seconds": taken.seconds,
        "fingerprint": taken.fingerprint,
    }
    if taken.refetched:
        metadata["fetched again"] = dg.MetadataValue.json(list(taken.refetched))
    if waits:
        metadata["waits"] = dg.MetadataValue.json([str(wait) for wait in waits[:MOST_FAULTS]])
    if len(taken.files) > 1:
        picture = histogram([file.size for file in taken.files], title="Sizes of the files", unit="B")
        metadata["file sizes"] = dg.MetadataValue.md(markdown_image(picture, "histogram of file sizes"))
    described = f"{len(taken.files):,} files, {format_bytes(taken.size)}"
    return Outcome(taken.fingerprint, metadata, [Check(checks.COMPLETE, True, described)])


def of_proof(proof: SnapshotProof) -> Outcome:
    """A snapshot whose blobs are intact."""
    report = proof.report
    metadata = {
        "folder": dg.MetadataValue.path(str(proof.folder)),
        "files": proof.files,
        "bytes": proof.size,
        "size": format_bytes(proof.size),
        "read now": format_bytes(report.bytes_read),
        "files proven earlier and unchanged": report.remembered,
        "seconds": report.seconds,
        "fingerprint": proof.fingerprint,
    }
    described = f"{proof.files:,} files, {format_bytes(proof.size)}"
    return Outcome(proof.fingerprint, metadata, [Check(checks.BLOBS_INTACT, True, described)])


def snapshot_damage(proof: SnapshotProof) -> DamageFoundError:
    """The error for a snapshot that is damaged, with its check."""
    report = proof.report
    table = build_table(
        ["kind", "file", "what is wrong"],
        [(fault.kind, fault.path or fault.file.name, fault.detail) for fault in report.faults[:MOST_FAULTS]],
    )
    if report.purged:
        line = f"{len(report.faults)} of {proof.files} files are gone at once, as after a purge; nothing was moved"
    else:
        first = report.faults[0]
        moved, kept = len(proof.moved.moved), len(proof.moved.not_moved)
        line = (
            f"{len(report.faults)} of {proof.files} files are damaged, {moved} moved aside"
            f"{f', {kept} could not be moved' if kept else ''}; first: {first.path}: {first.kind}, {first.detail}"
        )
    metadata = {
        "faults": dg.MetadataValue.md(table.markdown()),
        "damaged": len(report.faults),
        "not moved": dg.MetadataValue.json([f"{fault.file}: {reason}" for fault, reason in proof.moved.not_moved]),
    }
    return DamageFoundError(line, [Check(checks.BLOBS_INTACT, False, line, metadata)])


def of_prepared(made: PreparedDataset, declared: Mapping[str, int]) -> Outcome:
    """A config ready to load; its rows are held against what the card declares."""
    rows = sum(made.splits.values())
    splits = build_table(["split", "rows >", "declared >"], [(s, n, declared.get(s)) for s, n in made.splits.items()])
    picture = bar_chart(made.splits, title="Rows of each split", unit="rows", as_given=True)
    metadata = {
        "dagster/row_count": rows,
        "dagster/uri": made.folder.as_uri(),
        "dagster/column_schema": _columns(made.features),
        "load it with": dg.MetadataValue.text(made.load_call),
        "commit": made.commit,
        "splits": dg.MetadataValue.md(splits.markdown()),
        "rows of each split": dg.MetadataValue.md(markdown_image(picture, "bar chart of rows")),
        "features": made.features,
        "files": len(made.files),
        "bytes": made.size,
        "size": format_bytes(made.size),
        "seconds": made.seconds,
        "fingerprint": made.fingerprint,
    }
    off = [f"{split}: {made.splits.get(split, 0):,} rows, {count:,} declared" for split, count in declared.items()
           if made.splits.get(split) != count]  # fmt: skip
    described = "; ".join(off) or ("as declared" if declared else "the card declares no rows")
    outcomes = [
        Check(checks.FILES_INTACT, True, f"{len(made.files):,} files, {format_bytes(made.size)}"),
        Check(checks.ROWS_AS_DECLARED, not off, f"{rows:,} rows; {described}"),
    ]
    return Outcome(made.fingerprint, metadata, outcomes)


def _columns(features: str) -> dg.TableSchema:
    """The columns as Dagster shows them, from what `datasets` prints (a dict of constructor calls), if it is that."""
    try:
        printed = ast.parse(features, mode="eval").body
    except SyntaxError:
        return dg.TableSchema([])
    pairs = zip(printed.keys, printed.values, strict=True) if isinstance(printed, ast.Dict) else ()
    return dg.TableSchema(
        [
            dg.TableColumn(str(name.value), textwrap.shorten(_PLAIN.sub(r"\1", ast.unparse(kind)), LONGEST_TYPE))
            for name, kind in pairs
            if isinstance(name, ast.Constant)
        ]
    )


def of_sweep(report: VerifyReport) -> dg.AssetCheckResult:
    """The check of the whole cache."""
    table = build_table(
        ["kind", "repo", "file", "what is wrong"],
        [(f.kind, f.repo_id, f.path or f.file.name, f.detail) for f in report.faults[:MOST_FAULTS]],
    )
    return dg.AssetCheckResult(
        asset_key=INVENTORY,
        check_name=checks.CACHE_INTACT,
        passed=report.intact,
        description="intact" if report.intact else f"{len(report.faults)} faults: {_counts(report.kinds)}",
        metadata={
            "faults": dg.MetadataValue.md(table.markdown()),
            "read now": format_bytes(report.bytes_read),
            "files proven": report.checked + report.remembered,
            "cannot be verified offline": len(report.unverifiable),
            "seconds": report.seconds,
        },
    )


def of_inventory(
    hub_cache: Path, repos: Sequence[RepoInventory], catalog: Catalog, now: float
) -> dg.MaterializeResult[None]:
    """Every repo of the cache as a table and a picture; `now` is Unix time in seconds."""
    wanted = {dataset.repo for dataset in catalog.datasets}
    purged = catalog.storage.purge_after_days
    rows = [
        (
            repo.repo_id,
            repo.repo_type,
            "yes" if repo.repo_type == "dataset" and repo.repo_id in wanted else "no",
            format_bytes(repo.bytes),
            repo.files,
            len(repo.revisions),
            _age(repo.modified, now),
            _age(repo.last_verified, now),
            *([] if purged is None else [_days_left(repo, purged, now)]),
            repo.orphans,
            format_bytes(repo.orphan_bytes),
            format_bytes(repo.leftover_bytes),
        )
        for repo in repos
    ]
    headings = ["repo", "type", "in the catalog", "size >", "files >", "revisions >", "modified", "verified"]
    headings += [] if purged is None else ["days until purge >"]
    table = build_table([*headings, "orphans >", "orphan bytes >", "leftovers >"], rows)
    picture = bar_chart({repo.repo_id: repo.bytes for repo in repos}, title="Size of each repo in the cache", unit="B")
    return dg.MaterializeResult(
        asset_key=INVENTORY,
        metadata={
            "dagster/uri": hub_cache.absolute().as_uri(),
            "repos": len(repos),
            "bytes": sum(repo.bytes for repo in repos),
            "size": format_bytes(sum(repo.bytes for repo in repos)),
            "inventory": dg.MetadataValue.md(table.markdown()),
            "sizes": dg.MetadataValue.md(markdown_image(picture, "bar chart of repo sizes")),
        },
    )


def _days_left(repo: RepoInventory, after_days: float, now: float) -> float | None:
    """Of the repo's newest use: single files may be older."""
    used = max((moment for moment in (repo.modified, repo.accessed) if moment is not None), default=None)
    return None if used is None else round(after_days - (now - used) / DAY, 1)


def _age(moment: float | None, now: float) -> str:
    return "never" if moment is None else f"{format_seconds(max(0.0, now - moment))} ago"


def _counts(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
