"""The asset checks of preprocessed datasets: names, and what each is about."""

import dagster as dg

from hfassets.defs.staging.partitions import PREPROCESSED

INTACT = "intact"
ACCOUNT_CLOSED = "account_closed"

DESCRIPTIONS = {
    INTACT: "What lies on disk still has the SHA-256 of its manifest.",
    ACCOUNT_CLOSED: "Every token, or row, of the source is in the folder or in one named count.",
}

CHECKS_OF = {PREPROCESSED: (INTACT, ACCOUNT_CLOSED)}


def specs(partitions: dg.PartitionsDefinition) -> list[dg.AssetCheckSpec]:
    """The checks of the asset, with its own partitions; they block what is downstream."""
    return [
        dg.AssetCheckSpec(
            name, asset=PREPROCESSED, description=DESCRIPTIONS[name], blocking=True, partitions_def=partitions
        )
        for name in CHECKS_OF[PREPROCESSED]
    ]
