"""What a preprocessed dataset tells Dagster: metadata under Dagster's own keys, a picture, checks. Pure."""

from __future__ import annotations

from typing import Any

import dagster as dg

from hfassets.defs.partition_run import Check, Outcome
from hfassets.defs.stage_asset import Proof
from hfassets.defs.staging import checks
from hfassets.mds.stage import StageOutput
from hfassets.report.plots import bar_chart, markdown_image
from hfassets.report.tables import build_table
from hfassets.report.units import format_bytes
from hfassets.staging.from_catalog import stage_command
from hfassets.storage.manifest import MANIFEST_FILE


def of_folder(key: str, made: StageOutput, proof: Proof | None) -> Outcome:
    """A folder that is ready to be staged: what is in it, and the command that stages it."""
    details, files = made.details, made.manifest.files
    rows, tokens = details["rows"], details.get("tokens")
    splits = [(name, f"{rows[name]:,}", *([f"{tokens[name]:,}"] if tokens else [])) for name in details["splits"]]
    table = build_table(["split", "rows >", *(["tokens >"] if tokens else [])], splits)
    of, unit = (tokens, "tokens") if tokens else (rows, "rows")
    picture = bar_chart(
        {name: of[name] for name in details["splits"]}, title=f"{unit.capitalize()} of {key}", unit=unit
    )
    metadata: dict[str, Any] = {
        "dagster/row_count": sum(rows.values()),
        "dagster/uri": f"file://{made.root}",
        # As text, so that it stands on the page as it is.
        "to stage": stage_command(key),
        "to load": dg.MetadataValue.md(
            f"```python\nfrom datasets import load_from_disk\ndata = load_from_disk({str(made.root)!r})\n```"
        ),
        # The manifest goes along, and is the last one.
        "files": len(files) + 1,
        "bytes": made.manifest.total_bytes,
        "size": format_bytes(made.manifest.total_bytes),
        **({"tokens": sum(tokens.values())} if tokens else {}),
        "splits": dg.MetadataValue.md(table.markdown()),
        "per split": dg.MetadataValue.md(markdown_image(picture, f"{unit} of each split")),
        "manifest": dg.MetadataValue.path(str(made.root / MANIFEST_FILE)),
        "account": dg.MetadataValue.md(_account(made).markdown()),
        **_how(details),
        "source": details["source"],
        "seconds": round(made.seconds, 3),
        "fingerprint": made.fingerprint,
    }
    return Outcome(made.fingerprint, metadata, of_checks(made, proof))


def of_checks(made: StageOutput, proof: Proof | None) -> list[Check]:
    """The checks of a folder. `proof` None: it has just been written and hashed."""
    faults = () if proof is None else proof.faults
    told = "; ".join(faults[:3]) or f"{len(made.manifest.files):,} files, {format_bytes(made.manifest.total_bytes)}"
    counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in made.account.items() if count)
    return [Check(checks.INTACT, not faults, told), Check(checks.ACCOUNT_CLOSED, True, counts)]


def _how(details: Any) -> dict[str, Any]:
    if "block" not in details:
        return {}
    return {
        "tokenizer": f"{details['tokenizer']}, {details['vocab_size']:,} tokens",
        "tokens per row": details["block"],
        "text column": details["column"],
        "tokenized by": ", ".join(details["engines"]),
    }


def _account(made: StageOutput) -> Any:
    return build_table(["what", "count >"], [(name.replace("_", " "), n) for name, n in made.account.items() if n])
