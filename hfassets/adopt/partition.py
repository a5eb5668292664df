"""An adopted MDS as a partition of the catalog: a link where the partition's output belongs."""

from __future__ import annotations

from pathlib import Path

from hfassets.adopt.folder import Adopted
from hfassets.catalog import MixturePartition, RecipePartition, accept, catalog_path
from hfassets.errors import DataError, UsageError
from hfassets.mds.from_catalog import Recipes
from hfassets.mds.index import collect
from hfassets.mds.stage import SIDES

COLUMNS = {"text_mds": "text", "tokenized_mds": "input_ids", "chunked_mds": "input_ids", "sampled_mds": "input_ids"}
"""What later stages read of each (see the stages' own documentation)."""


def link_partition(found: Adopted, name: str) -> Path:
    """Link the folder to where the partition `asset:key` lies, and return that place.

    Raises UsageError for a partition that there is not, DataError for a folder that cannot be it, or a place that is
    taken.
    """
    asset, colon, key = name.partition(":")
    if not colon or asset not in COLUMNS:
        raise UsageError(f"--as {name}: must be one of {', '.join(COLUMNS)}, a colon and a recipe of the catalog")
    accepted = accept(catalog_path(), record=False)
    recipes = Recipes(accepted.require())
    known = {one.key: one for one in accepted.partitions if isinstance(one, RecipePartition | MixturePartition)}
    part = known.get(key)
    if not isinstance(part, RecipePartition) or part.retired:
        raise UsageError(
            f"--as {name}: the catalog has no recipe {key}; there are {', '.join(sorted(known)) or 'none'}"
        )
    if found.kind != "mds":
        raise DataError(f"{found.root}: {found.kind}; only an MDS can be {name}")
    has = collect(found.root)[0].columns if found.rows else {}
    if COLUMNS[asset] not in has:
        raise DataError(f"{found.root}: no column {COLUMNS[asset]}, which {asset} has; there are {', '.join(has)}")
    if asset == "sampled_mds" and not any((found.root / side).is_dir() for side in SIDES):
        raise DataError(f"{found.root}: a sampled_mds has the folders {' and '.join(SIDES)}")
    place = {
        "text_mds": recipes.text_root,
        "tokenized_mds": recipes.tokens_root,
        "chunked_mds": recipes.chunks_root,
        "sampled_mds": recipes.sampled_root,
    }[asset](part.recipe)
    if place.resolve() == found.root.resolve():
        return place
    if place.exists() or place.is_symlink():
        raise DataError(f"{place}: there is something already; remove it first if {found.root} is to be {name}")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(found.root)
    return place
