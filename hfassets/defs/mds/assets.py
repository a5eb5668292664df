"""MDS recipes, mixtures and context extensions as assets: thin over `hfassets.mds`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg

from hfassets.catalog.lock import MixturePartition, RecipePartition
from hfassets.catalog.recipes import ExtensionRecipe, Mixture, Recipe
from hfassets.catalog.slurm_request import recipes_request
from hfassets.defs.automation import house_condition
from hfassets.defs.c4.partitions import SHARDS
from hfassets.defs.distillation.partitions import FILE
from hfassets.defs.hub.partitions import HUB_POOL
from hfassets.defs.integrity.registry import Verifiable
from hfassets.defs.location import Location
from hfassets.defs.mds import checks, results
from hfassets.defs.mds.partitions import CHUNKED, EXTENSION, GROUP, OWNERS, SAMPLED, SOURCES, TEXT, TOKENIZED, TRAINING
from hfassets.defs.partition_run import Check, Outcome, RunEvents, run_partitions
from hfassets.defs.progress import log_progress
from hfassets.defs.quota import quota_share
from hfassets.mds.from_catalog import Recipes
from hfassets.mds.stage import StageOutput, find_stage
from hfassets.mds.verify import VerifiedMds, verify_mds
from hfassets.progress import ProgressCallback
from hfassets.slurm.request import MODE_KEY, NETWORK_KEY, REQUEST_KEY
from hfassets.storage import read_entries
from hfassets.storage.ledger import record_damage, record_intact

Entry = type[Recipe] | type[Mixture] | type[ExtensionRecipe]


class MdsConfig(dg.Config):
    """How to make it; what it is stands in the catalog."""

    force: bool = False
    """Make it again, over what its folder holds."""
    verify: bool = False
    """Read all of it and hold it against the manifest, also when nothing had to be made."""
    workers: int | None = None
    """Processes; none = as the catalog says."""


@dataclass(frozen=True)
class Stage:
    """One asset of the group: what its partitions are of, where they lie, how they are made."""

    key: dg.AssetKey
    of: Entry
    description: str
    make: Callable[[Recipes, Any, ProgressCallback], StageOutput]
    root: Callable[[Recipes, Any], Path]
    network: str = "none"
    kinds: frozenset[str] = frozenset({"mosaicml"})

    @property
    def name(self) -> str:
        """As Dagster has it."""
        return self.key.to_user_string()

    def partitions(self, location: Location) -> dg.StaticPartitionsDefinition:
        """Its partitions."""
        return location.recipes if self.of is Recipe else location.mixtures(self.of)  # type: ignore[arg-type]

    def partition(self, location: Location, key: str) -> RecipePartition | MixturePartition:
        """What a key stands for."""
        return location.recipe(key) if self.of is Recipe else location.mixture(key)


STAGES = (
    Stage(
        TEXT,
        Recipe,
        "Documents of a recipe's source as MDS with the columns id and text, those for validation apart.",
        lambda recipes, of, progress: recipes.make_text(of, progress),
        lambda recipes, of: recipes.text_root(of.recipe),
        network="hub",
    ),
    Stage(
        TOKENIZED,
        Recipe,
        "Their tokens, without special ones and without truncation.",
        lambda recipes, of, progress: recipes.make_tokens(of, progress),
        lambda recipes, of: recipes.tokens_root(of.recipe),
        network="hub",
    ),
    Stage(
        CHUNKED,
        Recipe,
        "Rows of at most so many tokens, special ones around each; every token is accounted for.",
        lambda recipes, of, progress: recipes.make_chunks(of, progress),
        lambda recipes, of: recipes.chunks_root(of.recipe),
    ),
    Stage(
        SAMPLED,
        Recipe,
        "train/ and validation/ of a recipe: all, or drawn to a target of tokens. What is taken whole is linked.",
        lambda recipes, of, progress: recipes.make_sample(of, progress),
        lambda recipes, of: recipes.sampled_root(of.recipe),
    ),
    Stage(
        TRAINING,
        Mixture,
        "A training phase: recipes by their shares, one index a side, for StreamingDataset.",
        lambda recipes, of, progress: recipes.make_training(of, progress),
        lambda recipes, of: recipes.training_root(of.entry),
    ),
    Stage(
        EXTENSION,
        ExtensionRecipe,
        "Rows of a longer context, from documents that are long enough, drawn by domain and length.",
        lambda recipes, of, progress: recipes.make_extension(of, progress),
        lambda recipes, of: recipes.extension_root(of.entry),
    ),
)


def build_assets(location: Location) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """All assets of the MDS group that have partitions."""
    there = [stage for stage in STAGES if stage.partitions(location).get_partition_keys()]
    return [*_source_specs(location), *(_asset(location, stage) for stage in there)]


def verifiables(location: Location) -> list[Verifiable]:
    """What the re-verification and repair sensors watch of the group."""
    return [
        Verifiable(
            stage.name,
            stage.key,
            location.state.ledger(stage.name),
            location.mds_versions(stage.name, stage.of),
            repair=(stage.key,),
            run_config={"ops": {stage.key.to_python_identifier(): {"config": {"verify": True}}}},
        )
        for stage in STAGES
        if stage.partitions(location).get_partition_keys()
    ]


def _source_key(repo: str) -> dg.AssetKey:
    return dg.AssetKey([SOURCES, *repo.split("/")])


def _source_specs(location: Location) -> list[dg.AssetSpec]:
    repos = sorted({one.source.repo for one in location.catalog.mds if one.source.repo is not None})
    return [
        dg.AssetSpec(
            _source_key(repo),
            group_name=GROUP,
            kinds={"huggingface"},
            description=f"{repo} on the Hub, read at the commit that catalog.lock pins.",
            metadata={"dagster/uri": f"hf://datasets/{repo}"},
        )
        for repo in repos
    ]


def _deps(location: Location, stage: Stage) -> Sequence[dg.AssetDep]:
    """What an asset is made from, partition by partition."""
    before = {TOKENIZED: TEXT, CHUNKED: TOKENIZED, SAMPLED: CHUNKED}
    if stage.key in before:
        return [dg.AssetDep(before[stage.key])]
    if stage.key == TRAINING:
        return [_mapped(SAMPLED, location.members_of(Mixture))]
    if stage.key == EXTENSION:
        return [_mapped(TOKENIZED, location.members_of(ExtensionRecipe))]
    recipes = location.catalog.mds
    found = [dg.AssetDep(_source_key(repo)) for repo in sorted({one.source.repo for one in recipes if one.source.repo})]
    for key, name in ((SHARDS, "c4"), (FILE, "distillation")):
        of: dict[str, set[str]] = {}
        for one in recipes:
            if (upstream := getattr(one.source, name)) is not None:
                of.setdefault(upstream, set()).add(one.name)
        if of:
            found.append(_mapped(key, of))
    return found


def _mapped(key: dg.AssetKey, children: Mapping[str, set[str]]) -> dg.AssetDep:
    return dg.AssetDep(key, partition_mapping=dg.StaticPartitionMapping(dict(children)))


def _asset(location: Location, stage: Stage) -> dg.AssetsDefinition:
    ledger = location.state.ledger(stage.name)
    request = recipes_request(location.catalog, stage.name)
    metadata: dict[str, Any] = {NETWORK_KEY: stage.network}
    if request is not None:
        metadata |= {REQUEST_KEY: request, MODE_KEY: "run"}
    spec = dg.AssetSpec(
        stage.key,
        deps=_deps(location, stage),
        group_name=GROUP,
        owners=OWNERS,
        kinds=set(stage.kinds),
        description=stage.description,
        metadata=metadata,
        partitions_def=stage.partitions(location),
        automation_condition=house_condition(),
        skippable=True,
    )

    @dg.multi_asset(
        name=stage.key.to_python_identifier(),
        specs=[spec],
        check_specs=checks.specs(stage.key, stage.partitions(location)),
        can_subset=True,
        pool=HUB_POOL if stage.network == "hub" else None,
    )
    def made(context: dg.AssetExecutionContext, config: MdsConfig) -> RunEvents:
        progress = log_progress(context)
        versions = location.mds_versions(stage.name, stage.of)
        recipes = Recipes(
            location.catalog, quota_share(context.instance), context.run.run_id, config.force, config.workers
        )

        def proven(key: str, found: StageOutput) -> VerifiedMds:
            proof = verify_mds(found.root, progress)
            size, version = found.manifest.total_bytes, versions.get(key, "")
            if proof.faults:
                record_damage(ledger, key, version, size, proof.faults, size, purged=not found.root.exists())
                raise results.damage(key, proof)
            record_intact(ledger, key, version, size)
            return proof

        def make(key: str) -> Outcome:
            of = stage.partition(location, key)
            known = dict(read_entries(ledger, {key: versions.get(key, "")}))[key]
            damaged = known is not None and bool(known.damage)
            there = find_stage(stage.root(recipes, of))
            if config.verify and not damaged and there is not None:
                # A run that only proves: what it finds goes to the repair sensor, which knows budgets and limits.
                proven(key, there)
            run = replace(recipes, force=True) if damaged else recipes
            output = stage.make(run, of, progress)
            proof = proven(key, output) if known is None or damaged or not output.reused else None
            return results.of_stage(output, checks.CHECKS_OF[stage.key], proof)

        def check(key: str) -> Sequence[Check]:
            found = find_stage(stage.root(recipes, stage.partition(location, key)))
            if found is None:
                return [Check(checks.INTACT, False, "not made as the catalog asks for it, or gone")]
            return results.of_checks(found, checks.CHECKS_OF[stage.key], proven(key, found))

        yield from run_partitions(
            context, stage.key, catalog_sha=location.accepted.sha, umask=location.umask, make=make, check=check
        )

    return made
