"""A published file of a mix: the JSONL, the stats that the old document promises, and the manifest.

Invariant: the manifest is written last; it has the hashes of the other two and all that is needed to make the file
longer.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from hfassets.distillation.account import Account
from hfassets.distillation.checkpoint import Checkpoint
from hfassets.distillation.request import FORMAT, STAGE, SourceRequest
from hfassets.errors import IntegrityError
from hfassets.hub.hashing import hash_file
from hfassets.storage.atomic import fsync_directory, write_atomic
from hfassets.storage.manifest import Manifest, OutputFile, provenance, read_manifest, write_manifest

MEGABYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A finished file. `exhausted`: the source has no more rows. `seconds`: of this run, 0 when it was there already.

    `fingerprint` is of the content: with a curriculum it tells files that were made longer from those made at once.
    """

    key: str
    source: str
    category: str
    path: Path
    rows: int
    asked: int
    size: int
    sha256: str
    exhausted: bool
    account: Account
    stats: Mapping[str, Any]
    fingerprint: str
    commit: str
    repo_id: str
    reused: bool = True
    seconds: float = 0.0


def find_source_file(request: SourceRequest) -> SourceFile | None:
    """The file as it is asked for, when it is there in its size; else None."""
    try:
        manifest = read_manifest(request.manifest_path)
    except IntegrityError:
        return None
    if manifest is None or manifest.stage != STAGE or manifest.details.get("request") != request.fingerprint:
        return None
    if any(not _has_size(request.folder / file.path, file.size) for file in manifest.files):
        return None
    return source_file(request, manifest)


def find_enough(request: SourceRequest) -> SourceFile | None:
    """A file of the same rows that has as many as are asked for, or more, or all there are; else None."""
    try:
        manifest = read_manifest(request.manifest_path)
    except IntegrityError:
        return None
    if manifest is None or manifest.stage != STAGE:
        return None
    end = Checkpoint.from_dict(manifest.details["end"])
    enough = end.stream == request.stream and (end.rows >= request.quota or end.rows < end.quota)
    there = all(_has_size(request.folder / file.path, file.size) for file in manifest.files)
    return source_file(request, manifest) if enough and there else None


def source_file(request: SourceRequest, manifest: Manifest) -> SourceFile:
    """What a manifest tells of a file."""
    end = Checkpoint.from_dict(manifest.details["end"])
    return SourceFile(
        key=request.key,
        source=request.source,
        category=request.category,
        path=request.path,
        rows=end.rows,
        asked=end.quota,
        size=end.size,
        sha256=end.sha256,
        exhausted=end.rows < end.quota,
        account=end.account,
        stats=manifest.details["stats"],
        fingerprint=manifest.fingerprint,
        commit=request.commit,
        repo_id=request.repo.repo_id,
    )


def publish(request: SourceRequest, end: Checkpoint, started: float) -> Manifest:
    """Give the grown file its name, then its stats and manifest theirs."""
    end.account.close()
    if request.partial.exists():
        request.manifest_path.unlink(missing_ok=True)
        request.partial.replace(request.path)
        fsync_directory(request.folder)
    elif hash_file(request.path, "sha256") != end.sha256:
        raise IntegrityError(f"{request.path}: it was changed while it was published; remove it and run again")
    stats = stats_of(request, end)
    written = orjson.dumps(stats, option=orjson.OPT_INDENT_2) + b"\n"
    write_atomic(request.stats_path, written)
    manifest = Manifest(
        stage=STAGE,
        format=FORMAT,
        inputs=request.inputs,
        parameters={**request.parameters, "quota": request.quota, "steps": list(end.steps)},
        root=str(request.folder.absolute()),
        files=(
            OutputFile(request.path.name, end.size, end.sha256),
            OutputFile(request.stats_path.name, len(written), hash_file(request.stats_path, "sha256")),
        ),
        account=end.account.counts,
        details={"request": request.fingerprint, "end": end.to_dict(), "stats": stats},
        recorded=provenance() | {"seconds": round(time.monotonic() - started, 3)},
    )
    write_manifest(request.manifest_path, manifest)
    return manifest


def stats_of(request: SourceRequest, end: Checkpoint) -> dict[str, Any]:
    """The document's fields, then ours: every row that was read, by what became of it."""
    account = end.account
    refused = dict(sorted(account.refused.items()))
    return {
        "samples": end.rows,
        "total_chars": account.total_chars,
        "size_mb": round(end.size / MEGABYTE, 3),
        "avg_length": round(account.total_chars / end.rows, 1) if end.rows else 0,
        "min_length": account.min_length or 0,
        "max_length": account.max_length or 0,
        "duplicates_removed": refused.get("duplicate", 0) + refused.get("duplicate_in_mix", 0),
        "output_file": str(request.path.absolute()),
        "asked": end.quota,
        "exhausted": end.rows < end.quota,
        "rows_read": account.read,
        "passed_over": account.passed_over,
        "refused": refused,
        "newlines_folded": account.folded,
        "examples": {name: [list(one) for one in found] for name, found in sorted(account.examples.items())},
        "bytes": end.size,
        "sha256": end.sha256,
        "repo": request.repo.repo_id,
        "commit": request.commit,
        "parts": [str(part) for part in request.parts],
        "split": request.split,
        "sources": [dict(one) for one in end.sources],
        "mapper": request.mapper,
        "category": request.category,
    }


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False
