"""MDS recipes, mixtures and context extensions as assets: thin over `hfassets.mds`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from hfassets.catalog.lock import MixturePartition, RecipePartition
from hfassets.catalog.recipes import ExtensionRecipe, Mixture, Recipe
from hfassets.catalog.slurm_request import recipes_request, slurm_mode
from hfassets.defs.automation import house_condition
from hfassets.defs.c4.partitions import SHARDS
from hfassets.defs.distillation.partitions import FILE
from hfassets.defs.hub.partitions import HUB_POOL
from hfassets.defs.integrity.registry import Verifiable
from hfassets.defs.location import Location
from hfassets.defs.mds import checks, results
from hfassets.defs.mds.partitions import CHUNKED, EXTENSION, GROUP, OWNERS, SAMPLED, SOURCES, TEXT, TOKENIZED, TRAINING
from hfassets.defs.registration import Registrable
from hfassets.defs.stage_asset import Habits, StageAsset, heavy, stage_asset, stage_registrable, stage_verifiable
from hfassets.mds.from_catalog import Recipes
from hfassets.mds.stage import StageOutput, find_stage
from hfassets.mds.verify import verify_mds
from hfassets.progress import ProgressCallback
from hfassets.slurm.request import NETWORK_KEY

Entry = type[Recipe] | type[Mixture] | type[ExtensionRecipe]


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
    return [*_source_specs(location), *(stage_asset(location, one) for one in mds_assets(location))]


def verifiables(location: Location) -> list[Verifiable]:
    """What the re-verification and repair sensors watch of the group."""
    return [stage_verifiable(location, one) for one in mds_assets(location)]


def registrables(location: Location) -> list[Registrable]:
    """How the outputs of the group are found again, in order."""
    return [stage_registrable(location, one) for one in mds_assets(location)]


def mds_assets(location: Location) -> list[StageAsset]:
    """The stages that have partitions, in order."""
    return [_asset(location, stage) for stage in STAGES if stage.partitions(location).get_partition_keys()]


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


def _asset(location: Location, stage: Stage) -> StageAsset:
    names = checks.CHECKS_OF[stage.key]
    request = recipes_request(location.catalog, stage.name)
    spec = dg.AssetSpec(
        stage.key,
        deps=_deps(location, stage),
        group_name=GROUP,
        owners=OWNERS,
        kinds=set(stage.kinds),
        description=stage.description,
        metadata=heavy({NETWORK_KEY: stage.network}, request, slurm_mode(location.catalog, stage.name)),
        partitions_def=stage.partitions(location),
        automation_condition=house_condition(),
        skippable=True,
    )

    def make(key: str, habits: Habits, progress: ProgressCallback) -> StageOutput:
        recipes = Recipes(
            location.catalog, habits.quota_share, habits.run_id, habits.force, habits.workers, habits.backend
        )
        return stage.make(recipes, stage.partition(location, key), progress)

    return StageAsset(
        spec,
        checks.specs(stage.key, stage.partitions(location)),
        versions=lambda: location.mds_versions(stage.name, stage.of),
        find=lambda key: find_stage(stage.root(Recipes(location.catalog), stage.partition(location, key))),
        make=make,
        verify=lambda output, progress: verify_mds(output.root, progress),
        outcome=lambda _, output, proof: results.of_stage(output, names, proof),
        look=lambda output, proof: results.of_checks(output, names, proof),
        pool=HUB_POOL if stage.network == "hub" else None,
        parts_online=stage.key == TEXT,
    )
