"""What distillation files and mixes tell Dagster: metadata under Dagster's own keys, pictures, tables, checks. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from hfassets.defs.distillation import checks
from hfassets.defs.partition_run import Check, DamageFoundError, Outcome
from hfassets.distillation.account import STEPS_PER_DOUBLING
from hfassets.distillation.licences import Licence
from hfassets.distillation.output import SourceFile
from hfassets.distillation.prove import Proof
from hfassets.report.plots import asked_and_got, binned_histogram, markdown_image
from hfassets.report.tables import build_table
from hfassets.report.units import format_bytes

LONGEST_CELL = 200


def of_file(made: SourceFile, proof: Proof, licence: Licence, records: Sequence[Mapping[str, Any]]) -> Outcome:
    """A file that is done: how many rows, what became of the others, how long they are, how the first ones look."""
    account = made.account
    edges = {place: 2.0 ** (place / STEPS_PER_DOUBLING) for place in range(max(account.histogram, default=0) + 2)}
    picture = binned_histogram(
        [(edges[place], edges[place + 1], count) for place, count in sorted(account.histogram.items())],
        title=f"Lengths of the texts of {made.source}",
        unit="characters",
        of="rows",
    )
    ways = [("written", account.written, ""), ("passed over: long prompts", account.passed_over, "")]
    for name, count in account.refused.most_common():
        where = "; ".join(f"{place}: {why}" if why else place for place, why in account.examples.get(name, ())[:1])
        ways.append((name.replace("_", " "), count, where))
    table = build_table(["what became of the rows read", "rows >", "for example"], [way for way in ways if way[1]])
    shown = build_table(
        ["id", "text", "metadata"],
        [(one["id"], _cut(one["text"]), _cut(str(one["metadata"]))) for one in records],
    )
    metadata: dict[str, Any] = {
        "dagster/row_count": made.rows,
        "dagster/uri": f"file://{made.path}",
        "asked for": made.asked,
        "size": format_bytes(made.size),
        "bytes": made.size,
        "mean text length": made.stats["avg_length"],
        "text lengths": dg.MetadataValue.md(markdown_image(picture, "histogram of text lengths")),
        "rows": dg.MetadataValue.md(table.markdown()),
        "first rows": dg.MetadataValue.md(shown.markdown()),
        "duplicates removed": made.stats["duplicates_removed"],
        "repo": made.repo_id,
        "commit": made.commit,
        "licence of the data": f"{licence.data}; commercial use: {licence.commercial}",
        "licence evidence": licence.evidence,
        "sha256": made.sha256,
        "seconds": round(made.seconds, 3),
        "fingerprint": made.fingerprint,
    }
    return Outcome(made.fingerprint, metadata, of_checks(made, proof))


def of_checks(made: SourceFile, proof: Proof) -> list[Check]:
    """The checks of a file."""
    account = made.account
    short = ": the source has no more" if made.rows < made.asked else ""
    ways = " + ".join(f"{count:,} {name.removeprefix('refused_')}" for name, count in account.counts.items() if count)
    return [
        Check(checks.ROWS_AS_ASKED, True, f"{made.rows:,} of {made.asked:,} asked for{short}"),
        Check(checks.INTACT, not proof.damage, proof.damage or f"{format_bytes(made.size)}, as written"),
        Check(checks.RECORDS_ARE_JSON, not proof.invalid, proof.invalid or f"{proof.sampled:,} records looked at"),
        Check(checks.ACCOUNT_CLOSED, account.read == sum(account.counts.values()) - account.read, ways),
    ]


def damage(key: str, proof: Proof) -> DamageFoundError:
    """The error for a damaged file, with its check."""
    line = f"{key}: damaged: {proof.damage}"
    return DamageFoundError(line, [Check(checks.INTACT, False, line)])


def of_mix(
    fingerprint: str,
    document: Mapping[str, Any],
    files: Sequence[SourceFile],
    licences: Mapping[str, Licence],
    path: str,
) -> Outcome:
    """A mix: what was asked for and what there is, as a picture and as a table."""
    picture = asked_and_got(
        [(one.source, document["quotas"][one.source], one.rows) for one in files],
        title=f"{document['mix']}: {document['total_samples']:,} of {document['asked']:,} rows asked for",
    )
    rows = [
        (
            one.category,
            one.source,
            document["quotas"][one.source],
            one.rows,
            one.account.read,
            one.stats["duplicates_removed"],
            format_bytes(one.size),
            licences[one.source].data,
            licences[one.source].commercial,
        )
        for one in files
    ]
    columns = [
        "category",
        "source",
        "asked >",
        "rows >",
        "read >",
        "duplicates >",
        "size >",
        "licence",
        "commercial use",
    ]
    metadata: dict[str, Any] = {
        "dagster/row_count": document["total_samples"],
        "dagster/uri": f"file://{path}",
        "asked for": document["asked"],
        "size": f"{document['total_size_mb']} MiB",
        "asked and got": dg.MetadataValue.md(markdown_image(picture, "rows asked for and got, by source")),
        "sources": dg.MetadataValue.md(build_table(columns, rows).markdown()),
        "fingerprint": fingerprint,
    }
    if document["notices"]:
        metadata["notices"] = dg.MetadataValue.md("\n".join(f"- {line}" for line in document["notices"]))
    return Outcome(fingerprint, metadata, mix_checks(document))


def mix_checks(document: Mapping[str, Any]) -> list[Check]:
    """The checks of a mix whose files are all there."""
    short = ", ".join(f"{name} {count:,} short" for name, count in document["short"].items())
    said = f"{document['total_samples']:,} of {document['asked']:,}"
    return [
        Check(checks.MEMBERS_ARE_CURRENT, True, f"{len(document['datasets'])} files"),
        Check(checks.ROWS_AS_ASKED, True, f"{said}: {short}" if short else said),
    ]


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_CELL else f"{text[:LONGEST_CELL]}…"
