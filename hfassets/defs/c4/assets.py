"""C4 shard sets as an asset: thin over `hfassets.c4`, one partition a shard set."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from hfassets.c4.from_catalog import shard_set_request
from hfassets.c4.make import make_shard_set
from hfassets.c4.prove import Proof, prove_shard_set, record_proof, sample_proof
from hfassets.c4.request import ShardSetRequest
from hfassets.c4.shard_set import ShardSet, find_shard_set, published
from hfassets.catalog.slurm_request import shard_sets_request, slurm_mode
from hfassets.defs.array_backend import array_backend
from hfassets.defs.automation import house_condition
from hfassets.defs.c4 import checks, results
from hfassets.defs.c4.partitions import GROUP, OWNERS, SHARDS, SOURCES
from hfassets.defs.hub.partitions import HUB_POOL
from hfassets.defs.integrity.registry import Verifiable
from hfassets.defs.location import Location
from hfassets.defs.partition_run import Check, Outcome, RunEvents, run_partitions
from hfassets.defs.progress import log_progress
from hfassets.defs.quota import quota_share
from hfassets.defs.registration import Found, Registrable
from hfassets.errors import DataError
from hfassets.hub.session import HubClient, hub_options
from hfassets.slurm.request import MODE_KEY, NETWORK_KEY, REQUEST_KEY
from hfassets.storage import read_entries
from hfassets.storage.s3 import S3Prefix


class ShardsConfig(dg.Config):
    """How to make them; what they are stands in the catalog."""

    force: bool = False
    """Make every part again, over whatever has its name."""
    verify: bool = False
    """Read every part and hold it against the manifest, also when nothing had to be made."""
    workers: int | None = None
    """Processes that read whole sources; none = as the catalog says."""


def build_assets(location: Location) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """All assets of the c4 group; none when the catalog has no shard set."""
    if not location.shard_sets.get_partition_keys():
        return []
    return [*source_specs(location), c4_shards(location)]


def verifiables(location: Location) -> list[Verifiable]:
    """What the re-verification and repair sensors watch of the group."""
    if not location.shard_sets.get_partition_keys():
        return []
    return [
        Verifiable(
            GROUP,
            SHARDS,
            location.state.ledger(SHARDS.to_user_string()),
            location.shard_set_versions,
            repair=(SHARDS,),
            run_config={"ops": {SHARDS.to_python_identifier(): {"config": {"verify": True}}}},
        )
    ]


def source_key(repo: str) -> dg.AssetKey:
    """The external asset that stands for a repo that is streamed."""
    return dg.AssetKey([SOURCES, *repo.split("/")])


def source_specs(location: Location) -> list[dg.AssetSpec]:
    """One external asset a repo: streamed sources hang on no snapshot."""
    repos = sorted({entry.repo for entry in location.catalog.c4})
    return [
        dg.AssetSpec(
            source_key(repo),
            group_name=GROUP,
            kinds={"huggingface"},
            description=f"{repo} on the Hub, read at the commit that catalog.lock pins.",
            metadata={"dagster/uri": f"hf://datasets/{repo}"},
        )
        for repo in repos
    ]


def _spec(location: Location) -> dg.AssetSpec:
    request_metadata = shard_sets_request(location.catalog, SHARDS.to_user_string())
    metadata: dict[str, Any] = {NETWORK_KEY: "hub"}
    if request_metadata is not None:
        metadata |= {REQUEST_KEY: request_metadata, MODE_KEY: slurm_mode(location.catalog, SHARDS.to_user_string())}
    return dg.AssetSpec(
        SHARDS,
        deps=[source_key(repo) for repo in sorted({entry.repo for entry in location.catalog.c4})],
        group_name=GROUP,
        owners=OWNERS,
        kinds={"huggingface", "json", "s3"},
        description="Rows of a split as JSON lines in parts, in a folder or in S3, each with its SHA-256 in a manifest."
        " Parts that are there and intact are kept; only the rest is read from the Hub.",
        metadata=metadata,
        partitions_def=location.shard_sets,
        automation_condition=house_condition(),
        skippable=True,
    )


def registrables(location: Location) -> list[Registrable]:
    """How shard sets are found again."""

    def request(key: str) -> ShardSetRequest:
        partition = location.shard_set(key)
        return shard_set_request(location.catalog, partition.shard_set, partition.commit)

    def find(key: str) -> Found | None:
        wanted = request(key)
        found = find_shard_set(wanted)
        manifest, store = published(wanted) if found is not None else (None, None)
        if found is None or manifest is None or store is None:
            return None
        return Found(
            found.fingerprint, lambda: results.of_shard_set(found, sample_proof(manifest, store), told_by_s3=False)
        )

    keys = location.shard_sets.get_partition_keys()
    ledger = location.state.ledger(SHARDS.to_user_string())
    return [Registrable(SHARDS, keys, find, ledger, lambda: {key: request(key).fingerprint for key in keys})]


def c4_shards(location: Location) -> dg.AssetsDefinition:
    """The parts of each shard set."""
    ledger = location.state.ledger(SHARDS.to_user_string())
    spec = _spec(location)

    @dg.multi_asset(
        name=SHARDS.to_python_identifier(),
        specs=[spec],
        check_specs=checks.specs(location.shard_sets),
        can_subset=True,
        pool=HUB_POOL,
    )
    def shards(context: dg.AssetExecutionContext, config: ShardsConfig) -> RunEvents:
        progress = log_progress(context)

        def request(key: str) -> ShardSetRequest:
            partition = location.shard_set(key)
            return shard_set_request(
                location.catalog,
                partition.shard_set,
                partition.commit,
                force=config.force,
                workers=config.workers,
                run_id=context.run.run_id,
                # The run brings the source files; its parts only read them.
                backend=array_backend(context, spec, key, progress, online=False),
            )

        def proven(wanted: ShardSetRequest, key: str, *, whole: bool = True, recorded: bool = True) -> Proof:
            manifest, store = published(wanted)
            if manifest is None:
                raise DataError(f"{wanted.place}/{wanted.stem}: there is no finished shard set; materialise it")
            # What S3 was just sent has been proven by the SHA-256 that it took: nothing is fetched back for that.
            proof = prove_shard_set(manifest, store, progress=progress) if whole else sample_proof(manifest, store)
            if recorded:
                record_proof(ledger, key, wanted.fingerprint, manifest, proof)
            if proof.damage:
                raise results.damage(key, proof)
            return proof

        def make(key: str) -> Outcome:
            wanted = request(key)
            known = dict(read_entries(ledger, {key: wanted.fingerprint}))[key]
            damaged = known is not None and bool(known.damage)
            hub = location.catalog.hub
            options = hub_options(
                endpoint=hub.endpoint,
                token_env=location.shard_set(key).shard_set.token_env,
                max_retries=hub.max_retries,
                backoff_factor=hub.backoff_factor,
                quota_share=quota_share(context.instance),
            )
            if config.verify and not damaged and find_shard_set(wanted) is not None:
                # A run that only proves: what it finds goes to the repair sensor, which knows budgets and limits.
                proven(wanted, key)
            with HubClient(options, progress) as client:
                made = make_shard_set(client, wanted, progress, thorough=damaged)
            fresh = known is None or damaged or made.made > 0
            in_s3 = isinstance(wanted.destination, S3Prefix)
            proof = proven(wanted, key, whole=fresh and not in_s3, recorded=fresh)
            return results.of_shard_set(made, proof, told_by_s3=in_s3)

        def check(key: str) -> Sequence[Check]:
            wanted = request(key)
            proof = proven(wanted, key)
            found: ShardSet | None = find_shard_set(wanted)
            if found is None:
                return [Check(checks.PARTS_INTACT, False, "not made as the catalog asks for it, or parts are gone")]
            return results.of_checks(found, proof, told_by_s3=False)

        yield from run_partitions(
            context, SHARDS, accepted=location.accepted, umask=location.umask, make=make, check=check
        )

    return shards
