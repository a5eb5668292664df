"""The asset checks of the hub chain: names, and what each says of a result. Pure; the assets log them."""

import dagster as dg

from hfassets.defs.hub.partitions import INVENTORY, PREPARED, SNAPSHOT, VERIFIED

COMPLETE = "complete"
BLOBS_INTACT = "blobs_intact"
FILES_INTACT = "files_intact"
ROWS_AS_DECLARED = "rows_as_declared"
CACHE_INTACT = "cache_intact"

DESCRIPTIONS = {
    COMPLETE: "Every file of the config at the pinned commit is in the cache, and each arrived with the Hub's hash.",
    BLOBS_INTACT: "Every blob of the config still has the hash that the Hub gave it.",
    FILES_INTACT: "Every Arrow file still has the SHA-256 of the manifest.",
    ROWS_AS_DECLARED: "Each split has the rows that the dataset's card declares, where it declares any.",
    CACHE_INTACT: "No repo of the cache, in the catalog or not, has a damaged, missing or left-over file.",
}


CHECKS_OF = {
    SNAPSHOT: (COMPLETE,),
    VERIFIED: (BLOBS_INTACT,),
    PREPARED: (FILES_INTACT, ROWS_AS_DECLARED),
    INVENTORY: (CACHE_INTACT,),
}


def specs(asset: dg.AssetKey, partitions: dg.PartitionsDefinition | None = None) -> list[dg.AssetCheckSpec]:
    """The checks of an asset, each with the asset's own partitions; those of a partition block what is downstream."""
    return [
        dg.AssetCheckSpec(
            name,
            asset=asset,
            description=DESCRIPTIONS[name],
            blocking=partitions is not None,
            partitions_def=partitions,
        )
        for name in CHECKS_OF[asset]
    ]
