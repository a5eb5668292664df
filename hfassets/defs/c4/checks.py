"""The asset checks of shard sets: names, and what each says of a result. Pure; the asset logs them."""

import dagster as dg

from hfassets.defs.c4.partitions import SHARDS

ROWS_AS_ASKED = "rows_as_asked"
PARTS_INTACT = "parts_intact"
LINES_ARE_JSON = "lines_are_json"
ACCOUNT_CLOSED = "account_closed"

DESCRIPTIONS = {
    ROWS_AS_ASKED: "The parts hold as many rows as the catalog asks for.",
    PARTS_INTACT: "Every part, on disk or in S3, still has the SHA-256 of the manifest.",
    LINES_ARE_JSON: "Sampled lines of the parts are JSON objects for Python's own parser.",
    ACCOUNT_CLOSED: "Every source line that was read is a row, blank or malformed, and is counted once.",
}
CHECKS = (ROWS_AS_ASKED, PARTS_INTACT, LINES_ARE_JSON, ACCOUNT_CLOSED)
CHECKS_OF = {SHARDS: CHECKS}


def specs(partitions: dg.PartitionsDefinition) -> list[dg.AssetCheckSpec]:
    """The checks, with the asset's own partitions; they block what is downstream."""
    return [
        dg.AssetCheckSpec(name, asset=SHARDS, description=DESCRIPTIONS[name], blocking=True, partitions_def=partitions)
        for name in CHECKS
    ]
