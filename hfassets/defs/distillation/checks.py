"""The asset checks of distillation files and mixes: names, and what each is about."""

import dagster as dg

from hfassets.defs.distillation.partitions import FILE, LOGITS, SUMMARY, TEACHER, TOKENS

ROWS_AS_ASKED = "rows_as_asked"
INTACT = "intact"
RECORDS_ARE_JSON = "records_are_json"
ACCOUNT_CLOSED = "account_closed"
MEMBERS_ARE_CURRENT = "members_are_current"
SAME_TOKENS = "same_tokens"

DESCRIPTIONS = {
    ROWS_AS_ASKED: "The file holds its quota, or all that its source has.",
    INTACT: "What lies on disk still has the SHA-256 of its manifest.",
    RECORDS_ARE_JSON: "Sampled records are JSON objects of text, id, source, category and metadata.",
    ACCOUNT_CLOSED: "Everything that was read is written, passed over, or in one named count.",
    SAME_TOKENS: "The teacher has the tokens of the student's tokenizer, under the same ids.",
    MEMBERS_ARE_CURRENT: "The mix has the file of each enabled source, as the catalog asks for it now.",
}
CHECKS_OF = {
    FILE: (ROWS_AS_ASKED, INTACT, RECORDS_ARE_JSON, ACCOUNT_CLOSED),
    TOKENS: (INTACT, ACCOUNT_CLOSED),
    TEACHER: (SAME_TOKENS,),
    LOGITS: (INTACT, ACCOUNT_CLOSED),
    SUMMARY: (MEMBERS_ARE_CURRENT, ROWS_AS_ASKED),
}


def specs(asset: dg.AssetKey, partitions: dg.PartitionsDefinition) -> list[dg.AssetCheckSpec]:
    """The checks of an asset, with its own partitions; they block what is downstream."""
    return [
        dg.AssetCheckSpec(name, asset=asset, description=DESCRIPTIONS[name], blocking=True, partitions_def=partitions)
        for name in CHECKS_OF[asset]
    ]
