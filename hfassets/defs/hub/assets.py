"""The hub chain as assets: thin over `hfassets.hub`, one partition a dataset config."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg

from hfassets.catalog.slurm_request import slurm_request
from hfassets.defs.automation import house_condition
from hfassets.defs.hub import checks, results
from hfassets.defs.hub.partitions import (
    GROUP,
    HEAVY_POOL,
    HUB_POOL,
    INVENTORY,
    LOCAL_POOL,
    OWNERS,
    PREPARED,
    SNAPSHOT,
    VERIFIED,
)
from hfassets.defs.integrity.registry import Verifiable
from hfassets.defs.location import DAY, Location
from hfassets.defs.partition_run import Check, DamageFoundError, Outcome, RunEvents, run_partitions
from hfassets.defs.progress import log_progress
from hfassets.defs.quota import quota_share
from hfassets.defs.registration import Found, Registrable
from hfassets.hub.acquire import SnapshotRequest, TakenSnapshot, find_snapshot, take_snapshot
from hfassets.hub.from_catalog import prepare_request, snapshot_request
from hfassets.hub.inventory import inventory as take_inventory
from hfassets.hub.layout import RepoCache
from hfassets.hub.prepare import PreparedDataset, PrepareRequest, find_prepared, prepare
from hfassets.hub.prove import SnapshotProof, declared_rows, prove_prepared, prove_snapshot
from hfassets.hub.session import HubClient, Wait, hub_options
from hfassets.hub.verify import verify_cache
from hfassets.progress import ProgressCallback, silent
from hfassets.slurm.request import MODE_KEY, NETWORK_KEY, REQUEST_KEY
from hfassets.storage import read_entries
from hfassets.storage.ledger import read_entry


class SnapshotConfig(dg.Config):
    """How to fetch; what to fetch stands in the catalog."""

    force: bool = False
    """Fetch everything anew, whatever the cache holds."""
    workers: int = 8
    """Files fetched at a time."""


class VerifyConfig(dg.Config):
    """How to verify."""

    full: bool = False
    """Read every byte, also what was proven recently and has not changed since."""
    workers: int | None = None
    """Threads that read and hash; none = one a core."""


class PrepareConfig(dg.Config):
    """How to prepare."""

    force: bool = False
    """Prepare again what is prepared."""
    verify: bool = False
    """Hash the Arrow files against their manifest, also when nothing had to be prepared."""


class InventoryConfig(dg.Config):
    """How closely to look at the cache."""

    verify: bool = False
    """Verify every repo of the cache, also those not in the catalog."""
    full: bool = False
    """With `verify`: read every byte, also what was proven recently and has not changed since."""


def build_assets(location: Location) -> list[dg.AssetsDefinition]:
    """All assets of the hub group."""
    return [
        hub_snapshot(location),
        verified_hub_cache(location),
        prepared_dataset(location),
        hub_cache_inventory(location),
    ]


def verifiables(location: Location) -> list[Verifiable]:
    """What the re-verification and repair sensors watch of the hub group."""
    return [
        Verifiable(GROUP, VERIFIED, _ledger(location, VERIFIED), location.commits, repair=(SNAPSHOT, VERIFIED)),
        Verifiable(
            GROUP,
            PREPARED,
            _ledger(location, PREPARED),
            location.commits,
            repair=(PREPARED,),
            run_config={"ops": {PREPARED.to_python_identifier(): {"config": {"verify": True}}}},
        ),
    ]


def _run(
    context: dg.AssetExecutionContext,
    asset: dg.AssetKey,
    location: Location,
    make: Callable[[str], Outcome],
    check: Callable[[str], Sequence[Check]],
) -> RunEvents:
    return run_partitions(context, asset, accepted=location.accepted, umask=location.umask, make=make, check=check)


def _ledger(location: Location, asset: dg.AssetKey) -> Path:
    return location.state.ledger(asset.to_user_string())


def _spec(
    location: Location,
    key: dg.AssetKey,
    description: str,
    kinds: set[str],
    *deps: dg.AssetKey,
    metadata: Mapping[str, Any] | None = None,
) -> dg.AssetSpec:
    return dg.AssetSpec(
        key,
        deps=list(deps),
        group_name=GROUP,
        owners=OWNERS,
        kinds={"huggingface", *kinds},
        description=description,
        metadata=metadata,
        partitions_def=location.dataset_configs,
        automation_condition=house_condition(),
        skippable=True,
    )


def registrables(location: Location) -> list[Registrable]:
    """How the outputs of the chain are found again, in its order."""
    keys = list(location.commits)

    def snapshot(key: str) -> Found | None:
        found = find_snapshot(snapshot_request(location.catalog, location.partition(key)))
        return None if found is None else Found(found.fingerprint, lambda: _taken(location, found, ()))

    def verified(key: str) -> Found | None:
        entry = read_entry(_ledger(location, VERIFIED), key)
        if entry is None or find_snapshot(snapshot_request(location.catalog, location.partition(key))) is None:
            return None
        proof = _prove(location, key)
        return Found(proof.fingerprint, lambda: results.of_proof(proof))

    def prepared(key: str) -> Found | None:
        partition = location.partition(key)
        found = find_prepared(prepare_request(location.catalog, location.partition(key)))
        if found is None:
            return None
        repo = RepoCache(location.hub_cache, partition.dataset.repo)
        declared = declared_rows(repo, partition.commit, partition.config)
        return Found(found.fingerprint, lambda: _prepared(location, found, declared))

    return [
        Registrable(SNAPSHOT, keys, snapshot),
        Registrable(VERIFIED, keys, verified, _ledger(location, VERIFIED), lambda: location.commits),
        Registrable(PREPARED, keys, prepared, _ledger(location, PREPARED), lambda: location.commits),
    ]


def _taken(location: Location, taken: TakenSnapshot, waits: Sequence[Wait]) -> Outcome:
    outcome = results.of_snapshot(taken, waits)
    left = location.until_purge(taken.folder / file.path for file in taken.files)
    return replace(outcome, metadata={**outcome.metadata, **left})


def _prepared(location: Location, made: PreparedDataset, declared: Mapping[str, int]) -> Outcome:
    outcome = results.of_prepared(made, declared)
    left = location.until_purge(made.folder / file.path for file in made.files)
    return replace(outcome, metadata={**outcome.metadata, **left})


def _prove(
    location: Location,
    key: str,
    *,
    workers: int | None = None,
    full: bool = False,
    progress: ProgressCallback = silent,
) -> SnapshotProof:
    partition = location.partition(key)
    return prove_snapshot(
        RepoCache(location.hub_cache, partition.dataset.repo),
        partition.commit,
        location.state,
        key,
        _ledger(location, VERIFIED),
        workers=workers,
        full=full,
        max_age_s=location.verify.max_age_days * DAY,
        progress=progress,
    )


def hub_snapshot(location: Location) -> dg.AssetsDefinition:
    """The raw files of a config at the pinned commit."""
    spec = _spec(
        location,
        SNAPSHOT,
        "Raw files of a dataset config at the pinned commit, each proven against the Hub's hash as it arrives. What the"
        " cache already holds intact is used; what is damaged is fetched again.",
        set(),
        metadata={NETWORK_KEY: "hub"},
    )

    @dg.multi_asset(
        name=SNAPSHOT.to_python_identifier(),
        specs=[spec],
        check_specs=checks.specs(SNAPSHOT, location.dataset_configs),
        backfill_policy=dg.BackfillPolicy.multi_run(location.partitions_per_run),
        can_subset=True,
        pool=HUB_POOL,
    )
    def snapshot(context: dg.AssetExecutionContext, config: SnapshotConfig) -> RunEvents:
        progress = log_progress(context)

        def request(key: str) -> SnapshotRequest:
            return snapshot_request(
                location.catalog,
                location.partition(key),
                workers=config.workers,
                force=config.force,
                run_id=context.run.run_id,
            )

        def make(key: str) -> Outcome:
            hub = location.catalog.hub
            options = hub_options(
                endpoint=hub.endpoint,
                token_env=location.partition(key).dataset.token_env,
                max_retries=hub.max_retries,
                backoff_factor=hub.backoff_factor,
                quota_share=quota_share(context.instance),
            )
            with HubClient(options, progress) as client:
                taken = take_snapshot(client, request(key), progress)
                return _taken(location, taken, client.waits)

        def check(key: str) -> list[Check]:
            found = find_snapshot(request(key))
            return [Check(checks.COMPLETE, found is not None, "" if found else "not all files are there and proven")]

        yield from _run(context, SNAPSHOT, location, make=make, check=check)

    return snapshot


def verified_hub_cache(location: Location) -> dg.AssetsDefinition:
    """The proof that a config's blobs are still what the Hub said."""
    spec = _spec(
        location,
        VERIFIED,
        "Proof that the config's blobs are still what the Hub said. Damaged ones are moved aside and the partition goes"
        " red; the repair sensor fetches them again.",
        set(),
        SNAPSHOT,
    )

    @dg.multi_asset(
        name=VERIFIED.to_python_identifier(),
        specs=[spec],
        check_specs=checks.specs(VERIFIED, location.dataset_configs),
        backfill_policy=dg.BackfillPolicy.multi_run(location.partitions_per_run),
        can_subset=True,
        pool=LOCAL_POOL,
    )
    def verified(context: dg.AssetExecutionContext, config: VerifyConfig) -> RunEvents:
        progress = log_progress(context)

        def make(key: str) -> Outcome:
            proof = _prove(location, key, workers=config.workers, full=config.full, progress=progress)
            if not proof.report.intact:
                raise results.snapshot_damage(proof)
            return results.of_proof(proof)

        yield from _run(context, VERIFIED, location, make=make, check=lambda key: make(key).checks)

    return verified


def prepared_dataset(location: Location) -> dg.AssetsDefinition:
    """Arrow shards in the `datasets` cache."""
    spec = _spec(
        location,
        PREPARED,
        "Arrow files in the `datasets` cache, where plain `load_dataset` finds them, online and offline.",
        {"arrow"},
        VERIFIED,
        metadata={
            REQUEST_KEY: slurm_request(location.catalog, PREPARED.to_user_string()),
            MODE_KEY: "run",
        },
    )

    @dg.multi_asset(
        name=PREPARED.to_python_identifier(),
        specs=[spec],
        check_specs=checks.specs(PREPARED, location.dataset_configs),
        backfill_policy=location.heavy_backfill_policy,
        can_subset=True,
        pool=HEAVY_POOL,
    )
    def prepared(context: dg.AssetExecutionContext, config: PrepareConfig) -> RunEvents:
        progress = log_progress(context)
        ledger = _ledger(location, PREPARED)

        def request(key: str, *, force: bool = False) -> PrepareRequest:
            part = location.partition(key)
            return prepare_request(location.catalog, part, force=force, run_id=context.run.run_id)

        def proven(made: PreparedDataset, key: str) -> None:
            damage = prove_prepared(made, key, ledger, progress)
            if damage:
                raise DamageFoundError(
                    f"{key}: {len(damage)} Arrow files are not what was written: {damage[0]}",
                    [Check(checks.FILES_INTACT, False, "\n".join(damage))],
                )

        def make(key: str) -> Outcome:
            partition = location.partition(key)
            known = dict(read_entries(ledger, {key: partition.commit}))[key]
            damaged = known is not None and bool(known.damage)
            made = prepare(request(key, force=config.force or damaged), progress)
            if config.verify or damaged or known is None or not made.reused:
                proven(made, key)
            repo = RepoCache(location.hub_cache, partition.dataset.repo)
            return _prepared(location, made, declared_rows(repo, partition.commit, partition.config))

        def check(key: str) -> list[Check]:
            made = find_prepared(request(key))
            if made is None:
                return [Check(checks.FILES_INTACT, False, "not prepared, or files are gone")]
            proven(made, key)
            return [Check(checks.FILES_INTACT, True)]

        yield from _run(context, PREPARED, location, make=make, check=check)

    return prepared


def hub_cache_inventory(location: Location) -> dg.AssetsDefinition:
    """Every repo in the cache, also those not in the catalog."""

    spec = dg.AssetSpec(
        INVENTORY,
        group_name=GROUP,
        owners=OWNERS,
        kinds={"huggingface"},
        description="Every repo in the Hub cache, also those not in the catalog: size, age, when it was last verified,"
        " and what nothing refers to.",
        skippable=True,
    )

    @dg.multi_asset(
        name=INVENTORY.to_python_identifier(),
        specs=[spec],
        check_specs=checks.specs(INVENTORY),
        can_subset=True,
        pool=LOCAL_POOL,
    )
    def inventory(
        context: dg.AssetExecutionContext, config: InventoryConfig
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        only_check = INVENTORY not in context.op_execution_context.selected_asset_keys
        if config.verify or only_check:
            report = verify_cache(
                location.hub_cache,
                state=location.state,
                full=config.full,
                max_age_s=location.verify.max_age_days * DAY,
                progress=log_progress(context),
            )
            yield results.of_sweep(report)
        if not only_check:
            repos = take_inventory(location.hub_cache, location.state)
            yield results.of_inventory(location.hub_cache, repos, location.catalog, time.time())

    return inventory
