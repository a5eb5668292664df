"""The asset checks of MDS: names, and what each is about."""

import dagster as dg

from hfassets.defs.mds.partitions import CHUNKED, EXTENSION, SAMPLED, TEXT, TOKENIZED, TRAINING

INTACT = "intact"
ACCOUNT_CLOSED = "account_closed"
SHARES_AS_ASKED = "shares_as_asked"

DESCRIPTIONS = {
    INTACT: "Every file still has the SHA-256 of its manifest, and the indexes count what the shards hold.",
    ACCOUNT_CLOSED: "Every row, document and token that came in is written, or in one named count.",
    SHARES_AS_ASKED: "Each member has its share of the training side, within a thousandth.",
}

CHECKS_OF = {
    **dict.fromkeys((TEXT, TOKENIZED, CHUNKED, SAMPLED, EXTENSION), (INTACT, ACCOUNT_CLOSED)),
    TRAINING: (INTACT, ACCOUNT_CLOSED, SHARES_AS_ASKED),
}


def specs(asset: dg.AssetKey, partitions: dg.PartitionsDefinition) -> list[dg.AssetCheckSpec]:
    """The checks of an asset, with its own partitions; they block what is downstream."""
    return [
        dg.AssetCheckSpec(name, asset=asset, description=DESCRIPTIONS[name], blocking=True, partitions_def=partitions)
        for name in CHECKS_OF[asset]
    ]
