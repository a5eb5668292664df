"""Staging recipes as an asset: thin over `hfassets.staging`."""

from collections.abc import Sequence

import dagster as dg

from hfassets.catalog.slurm_request import recipes_request, slurm_mode
from hfassets.defs.automation import house_condition
from hfassets.defs.hub.partitions import HUB_POOL, PREPARED
from hfassets.defs.integrity.registry import Verifiable
from hfassets.defs.location import Location
from hfassets.defs.registration import Registrable
from hfassets.defs.stage_asset import Habits, StageAsset, heavy, stage_asset, stage_registrable, stage_verifiable
from hfassets.defs.staging import checks, results
from hfassets.defs.staging.partitions import GROUP, OWNERS, PREPROCESSED
from hfassets.mds.stage import StageOutput
from hfassets.progress import ProgressCallback
from hfassets.slurm.request import NETWORK_KEY
from hfassets.staging.from_catalog import StagingRecipes
from hfassets.staging.saved import verify_folder


def build_assets(location: Location) -> list[dg.AssetsDefinition]:
    """The asset, when the catalog has a staging recipe."""
    return [stage_asset(location, one) for one in staging_assets(location)]


def verifiables(location: Location) -> list[Verifiable]:
    """What the re-verification and repair sensors watch of the group."""
    return [stage_verifiable(location, one) for one in staging_assets(location)]


def registrables(location: Location) -> list[Registrable]:
    """How the outputs of the group are found again."""
    return [stage_registrable(location, one) for one in staging_assets(location)]


def staging_assets(location: Location) -> Sequence[StageAsset]:
    """The asset; none when no recipe is pinned."""
    return [_preprocessed(location)] if location.staging.get_partition_keys() else []


def _preprocessed(location: Location) -> StageAsset:
    partitions, name = location.staging, PREPROCESSED.to_user_string()
    of_dataset = {key: set(recipes) for key, recipes in location.staged_from.items()}
    mapping = dg.StaticPartitionMapping(of_dataset)
    spec = dg.AssetSpec(
        PREPROCESSED,
        deps=[dg.AssetDep(PREPARED, partition_mapping=mapping)] if of_dataset else [],
        group_name=GROUP,
        owners=OWNERS,
        kinds={"arrow", "huggingface"},
        description="A dataset as training reads it, made once: tokenized and cut into rows of one size, or its images "
        "and audio in its rows; a folder of its own for load_from_disk, with what it takes to bring it to a node.",
        metadata=heavy(
            {NETWORK_KEY: "hub"}, recipes_request(location.catalog, name), slurm_mode(location.catalog, name)
        ),
        partitions_def=partitions,
        automation_condition=house_condition(),
        skippable=True,
    )

    def make(key: str, habits: Habits, progress: ProgressCallback) -> StageOutput:
        recipes = StagingRecipes(
            location.catalog, habits.quota_share, habits.run_id, habits.force, habits.workers, habits.backend
        )
        return recipes.make(location.staging_recipe(key), progress)

    return StageAsset(
        spec,
        checks.specs(partitions),
        versions=lambda: location.staging_versions,
        find=lambda key: StagingRecipes(location.catalog).find(location.staging_recipe(key)),
        make=make,
        verify=lambda output, progress: verify_folder(output.root, progress),
        outcome=results.of_folder,
        look=results.of_checks,
        pool=HUB_POOL,
    )
