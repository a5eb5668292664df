"""What MDS outputs tell Dagster: metadata under Dagster's own keys, pictures, tables, checks. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from hfassets.defs.mds import checks
from hfassets.defs.partition_run import Check, Outcome
from hfassets.defs.stage_asset import Proof
from hfassets.mds.stage import StageOutput
from hfassets.report.plots import asked_and_got, counted_histogram, markdown_image
from hfassets.report.tables import build_table
from hfassets.report.units import format_bytes

SHARE_TOLERANCE = 0.001


def of_stage(made: StageOutput, names: tuple[str, ...], proof: Proof | None) -> Outcome:
    """An output that is done: how much there is, what became of what came in, how long rows are."""
    details, account = made.details, {name: count for name, count in made.account.items() if count}
    table = build_table(["what", "count >"], [(name.replace("_", " "), count) for name, count in account.items()])
    rows = _rows(made)
    metadata: dict[str, Any] = {
        "dagster/row_count": rows,
        "dagster/uri": f"file://{made.root}",
        "size": format_bytes(made.manifest.total_bytes),
        "bytes": made.manifest.total_bytes,
        "files": len(made.manifest.files),
        "account": dg.MetadataValue.md(table.markdown()),
        "seconds": round(made.seconds, 3),
        "fingerprint": made.fingerprint,
    }
    tokens = _tokens(made)
    if tokens is not None:
        # A number by its own name: the UI plots it over time.
        metadata["tokens"] = tokens
    if "engines" in details:
        metadata["tokenized by"] = ", ".join(details["engines"])
    lengths = _lengths(details)
    if lengths:
        picture = counted_histogram(lengths, title=f"Rows of {made.root.name}", unit="tokens", of="rows")
        metadata["row lengths"] = dg.MetadataValue.md(markdown_image(picture, "histogram of row lengths"))
    if any(one["asked"] for one in details.get("members", ())):
        members = [(one["name"], one["asked"], one["got"]) for one in details["members"]]
        picture = asked_and_got(members, title=f"{made.root.name}: tokens asked for and got")
        metadata["asked and got"] = dg.MetadataValue.md(markdown_image(picture, "tokens asked for and got"))
    return Outcome(made.fingerprint, metadata, of_checks(made, names, proof))


def of_checks(made: StageOutput, names: tuple[str, ...], proof: Proof | None) -> list[Check]:
    """The checks of an output. `proof` None: it has just been written and hashed."""
    faults = () if proof is None else proof.faults
    size = format_bytes(made.manifest.total_bytes)
    told = f"{len(made.manifest.files):,} files, {size}" if proof is None or not faults else "; ".join(faults[:3])
    counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in made.account.items() if count)
    found = [Check(checks.INTACT, not faults, told), Check(checks.ACCOUNT_CLOSED, True, counts)]
    if checks.SHARES_AS_ASKED in names:
        off = [
            f"{one['name']} has {one['share_got']:.4f} of {one['share_asked']:.4f}"
            for one in made.details.get("members", ())
            if one["share_asked"] is not None and abs(one["share_got"] - one["share_asked"]) > SHARE_TOLERANCE
        ]
        shares = ", ".join(f"{one['name']} {one['share_got']:.4f}" for one in made.details.get("members", ()))
        found.append(Check(checks.SHARES_AS_ASKED, not off, "; ".join(off) or shares))
    return found


def _rows(made: StageOutput) -> int:
    details = made.details
    if "rows" in made.account:
        return int(made.account["rows"])
    if "instances" in details:
        return int(details["instances"])
    return sum(count for name, count in made.account.items() if name.startswith("rows_"))


def _tokens(made: StageOutput) -> int | None:
    for name in ("tokens", "content_written", "tokens_train"):
        if name in made.account:
            return int(made.account[name])
    return None


def _lengths(details: Mapping[str, Any]) -> dict[int, int]:
    found = details.get("lengths")
    if found is None:
        sides = details.get("sides", {})
        found = sides.get("train", {}).get("lengths", {})
    return {int(length): count for length, count in found.items()}
