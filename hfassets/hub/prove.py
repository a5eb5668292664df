"""Prove again what earlier runs made: the blobs of a snapshot, the Arrow files of a prepared config.

Invariant: the ledger entry of a partition is written after everything else, so what it says is what was seen, and a
run killed before leaves the older entry, which makes the partition due again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hfassets.errors import DataError
from hfassets.hub.acquire import STAGE, recorded_listing
from hfassets.hub.configs import METADATA_FILES, read_card
from hfassets.hub.faults import VerifyReport
from hfassets.hub.hashing import hash_file
from hfassets.hub.layout import RepoCache
from hfassets.hub.memory import MAX_AGE_S, VerifyMemory
from hfassets.hub.prepare import PreparedDataset
from hfassets.hub.quarantine import QuarantineResult, quarantine
from hfassets.hub.verify import verify_files
from hfassets.progress import Progress, ProgressCallback, silent
from hfassets.storage import StateDir, read_manifest, record_damage, record_intact


@dataclass(frozen=True, slots=True)
class SnapshotProof:
    """What was found of a snapshot of `files` files and `size` bytes; `moved` is what was quarantined."""

    fingerprint: str
    folder: Path
    files: int
    size: int
    report: VerifyReport
    moved: QuarantineResult


def prove_snapshot(
    repo: RepoCache,
    commit: str,
    state: StateDir,
    key: str,
    ledger: Path,
    *,
    workers: int | None = None,
    full: bool = False,
    max_age_s: float = MAX_AGE_S,
    progress: ProgressCallback = silent,
) -> SnapshotProof:
    """Verify the files of the snapshot recorded under `key`, quarantine what is damaged, write the ledger.

    A purge is reported and nothing is moved: gone is not corrupt. Raises DataError when there is no snapshot of that
    commit, IntegrityError when its manifest is damaged.
    """
    manifest = read_manifest(state.manifest(STAGE, key))
    if manifest is None or manifest.inputs.get("commit") != commit:
        raise DataError(f"{key}: there is no snapshot of {commit[:12]} yet; materialise hub_snapshot first")
    listing = recorded_listing(repo, commit, manifest)
    memory = VerifyMemory.open(state, repo, max_age_s)
    report = verify_files(repo, listing, memory, workers=workers, full=full, progress=progress)
    memory.save()
    moved = QuarantineResult()
    if report.intact:
        record_intact(ledger, key, commit, listing.total_bytes)
    else:
        if not report.purged:
            moved = quarantine(state, report.faults, progress)
        damaged = {fault.path for fault in report.faults}
        lost = sum(file.size for file in listing.files if file.path in damaged)
        record_damage(ledger, key, commit, listing.total_bytes, report.damage, lost, purged=bool(report.purged))
    return SnapshotProof(
        manifest.fingerprint, repo.snapshot(commit), len(listing.files), listing.total_bytes, report, moved
    )


def prove_prepared(
    prepared: PreparedDataset, key: str, ledger: Path, progress: ProgressCallback = silent
) -> tuple[str, ...]:
    """Hash every file of a prepared config against its manifest and write the ledger; returns what is damaged.

    Each entry names a file and what is wrong with it; empty = intact.
    """
    damage, lines, lost, done = [], [], 0, 0
    for file in prepared.files:
        try:
            found = hash_file(prepared.folder / file.path, "sha256")
        except OSError as error:
            found = error.strerror or str(error)
        if found != file.sha256:
            damage.append(f"{file.path} {file.sha256}")
            lines.append(f"{file.path}: {found} instead of SHA-256 {file.sha256}")
            lost += file.size
        done += file.size
        progress(Progress(f"{key}: hashing", done, prepared.size, "B"))
    if damage:
        record_damage(ledger, key, prepared.commit, prepared.size, damage, lost, purged=False)
    else:
        record_intact(ledger, key, prepared.commit, prepared.size)
    return tuple(lines)


def declared_rows(repo: RepoCache, commit: str, config: str) -> Mapping[str, int]:
    """Rows of each split as the dataset's card declares them (`dataset_info`); empty where it declares none."""
    folder = repo.snapshot(commit)
    metadata = {name: (folder / name).read_bytes() for name in METADATA_FILES if (folder / name).is_file()}
    for info in read_card(repo.repo_id, metadata).infos:
        if str(info.get("config_name", "default")) == config and isinstance(info.get("splits"), list):
            return {
                str(split["name"]): split["num_examples"]
                for split in info["splits"]
                if isinstance(split, dict) and isinstance(split.get("num_examples"), int) and "name" in split
            }
    return {}
