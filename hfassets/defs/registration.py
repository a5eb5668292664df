"""Dagster told of what lies on disk: manifests are the truth, the state of Dagster is what follows from them.

Invariant: nothing is made and nothing is fetched; a partition whose latest materialisation has the manifest's
fingerprint is left as it is; checks are only told of what was read and proven, by the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg

from hfassets.defs.partition_run import DATA_VERSION_TAG, Check, Outcome, evaluation, materialization
from hfassets.errors import HfassetsError
from hfassets.progress import Note, Progress, ProgressCallback
from hfassets.storage.ledger import read_entry

SOURCE = "registered from"


@dataclass(frozen=True)
class Found:
    """An output that is there: its data version, and what makes all that Dagster is to know of it, pictures too."""

    version: str
    outcome: Callable[[], Outcome]


@dataclass(frozen=True)
class Registrable:
    """An asset whose outputs can be found by their manifests. `find`: None for a partition that is not there as the
    catalog asks for it; `ledger`: what was proven of which version, None = what is found is
    proven.
    """

    asset: dg.AssetKey
    keys: Sequence[str]
    find: Callable[[str], Found | None]
    ledger: Path | None = None
    versions: Callable[[], Mapping[str, str]] = dict


@dataclass(frozen=True, slots=True)
class Registered:
    """What became of an asset's partitions. `unproven`: of those told of, how many nobody has read here yet."""

    asset: str
    told: int = 0
    known: int = 0
    absent: int = 0
    unproven: int = 0
    faults: tuple[str, ...] = ()


def register(
    instance: dg.DagsterInstance, found: Sequence[Registrable], progress: ProgressCallback, *, dry_run: bool = False
) -> list[Registered]:
    """Tell Dagster of every partition that is there and that it does not know so; upstream assets come first."""
    return [_register(instance, one, progress, dry_run=dry_run) for one in found]


def _register(
    instance: dg.DagsterInstance, of: Registrable, progress: ProgressCallback, *, dry_run: bool
) -> Registered:
    name = of.asset.to_user_string()
    counts = Registered(name)
    versions = of.versions()
    for number, key in enumerate(of.keys):
        progress(Progress(name, number, len(of.keys), "partitions"))
        try:
            found = of.find(key)
        except HfassetsError as error:
            line = f"{name} {key}: {error}"
            progress(Note(line, "warning"))
            counts = replace(counts, faults=(*counts.faults, line))
            continue
        if found is None:
            counts = replace(counts, absent=counts.absent + 1)
            continue
        entry = read_entry(of.ledger, key) if of.ledger is not None else None
        proven = of.ledger is None or (entry is not None and entry.version == versions.get(key, ""))
        damage = "; ".join(entry.damage[:3]) if proven and entry is not None and entry.damage else ""
        if _latest_version(instance, of.asset, key) == found.version:
            counts = replace(counts, known=counts.known + 1)
            continue
        counts = replace(counts, told=counts.told + 1, unproven=counts.unproven + (not proven))
        if not dry_run:
            _tell(instance, of.asset, key, found.outcome(), proven=proven, damage=damage)
    progress(Progress(name, len(of.keys), len(of.keys), "partitions"))
    return counts


def _tell(
    instance: dg.DagsterInstance, asset: dg.AssetKey, key: str, outcome: Outcome, *, proven: bool, damage: str
) -> None:
    metadata = {**outcome.metadata, SOURCE: "its manifest"}
    instance.report_runless_asset_event(materialization(asset, key, replace(outcome, metadata=metadata)))
    if not proven:
        return
    for check in outcome.checks:
        told = Check(check.name, False, damage) if damage else check
        instance.report_runless_asset_event(evaluation(instance, asset, key, told))


def _latest_version(instance: dg.DagsterInstance, asset: dg.AssetKey, key: str) -> str | None:
    wanted = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[key])
    records = instance.fetch_materializations(wanted, limit=1).records
    latest = records[0].asset_materialization if records else None
    return None if latest is None else (latest.tags or {}).get(DATA_VERSION_TAG)
