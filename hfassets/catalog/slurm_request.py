"""What the catalog asks of SLURM for a heavy asset, in the form of asset metadata `slurm/request`. Pure."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from typing import Any

from hfassets.catalog.models import Catalog
from hfassets.catalog.recipes import ExtensionRecipe, Mixture, Recipe
from hfassets.catalog.staging import StagingRecipe


def slurm_mode(catalog: Catalog, asset: str) -> str:
    """`run`: each run of the asset is one job; `parts`: its runs are light, and their parts the tasks of job arrays."""
    return next((fields.get("mode", "run") for name, fields in catalog.slurm.items() if name == asset), "run")


def _own(catalog: Catalog) -> dict[str, dict[str, Any]]:
    """What the section `slurm` asks for, asset by asset."""
    return {
        asset: {name: text for name, text in fields.items() if name != "mode"}
        for asset, fields in catalog.slurm.items()
    }


def slurm_request(catalog: Catalog, asset: str) -> dict[str, Any]:
    """`{"default": fields, "partitions": {pattern: fields}}`: one pattern a dataset that says more, its name literal.

    An asset that the catalog says nothing about is heavy all the same: profile and launcher then say how much it gets.
    """
    own = _own(catalog)
    return {
        "default": own.get(asset, {}),
        "partitions": {
            f"{glob.escape(dataset.name)}:*": dict(dataset.slurm) for dataset in catalog.datasets if dataset.slurm
        },
    }


def mixes_request(catalog: Catalog, asset: str) -> dict[str, Any] | None:
    """The same for the files of distillation mixes, one pattern a mix that says more; None when nobody asks."""
    own = _own(catalog)
    each = {f"{glob.escape(mix.name)}/*": dict(mix.slurm) for mix in catalog.distillation if mix.slurm}
    return None if asset not in own and not each else {"default": own.get(asset, {}), "partitions": each}


def teachers_request(catalog: Catalog, asset: str) -> dict[str, Any]:
    """The same for what teachers say, which is always heavy: a GPU, unless the catalog says how many or which.

    `gres: none` is for those who have none.
    """
    found = mixes_request(catalog, asset) or {"default": {}, "partitions": {}}
    if not {"gres", "gpus"} & set(found["default"]):
        found["default"] = {**found["default"], "gres": "gpu:1"}
    return found


def shard_sets_request(catalog: Catalog, asset: str) -> dict[str, Any] | None:
    """The same for C4 shard sets, one pattern an entry that says more; None when the catalog asks for nothing.

    Reading the Hub needs a network, which compute nodes may not have: only who asks for SLURM, for all shard sets or
    for one of them, gets jobs.
    """
    own = _own(catalog)
    each = {glob.escape(entry.name): dict(entry.slurm) for entry in catalog.c4 if entry.slurm}
    if asset not in own and not each:
        return None
    return {"default": own.get(asset, {}), "partitions": each}


def recipes_request(catalog: Catalog, asset: str) -> dict[str, Any] | None:
    """The same for MDS recipes, mixtures and extensions, and for staging recipes; None when nobody asks."""
    own = _own(catalog)
    sections: dict[str, Sequence[Mixture | ExtensionRecipe | StagingRecipe]] = {
        "training_mds": catalog.mixtures,
        "context_extension_mds": catalog.extensions,
        "preprocessed_dataset": catalog.staging,
    }
    entries: Sequence[Recipe | Mixture | ExtensionRecipe | StagingRecipe] = sections.get(asset, catalog.mds)
    each = {glob.escape(entry.name): dict(entry.slurm) for entry in entries if entry.slurm}
    return None if asset not in own and not each else {"default": own.get(asset, {}), "partitions": each}
