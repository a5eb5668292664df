"""What the shard sets tell Dagster: metadata under Dagster's own keys, a picture, a table, checks. Pure."""

from __future__ import annotations

from typing import Any

import dagster as dg
import orjson

from hfassets.c4.account import Account, bin_edge
from hfassets.c4.prove import Proof
from hfassets.c4.shard_set import ShardSet
from hfassets.defs.c4 import checks
from hfassets.defs.partition_run import Check, DamageFoundError, Outcome
from hfassets.report.plots import binned_histogram, markdown_image
from hfassets.report.tables import Table, build_table
from hfassets.report.units import format_bytes

MOST_LISTED = 50
LONGEST_CELL = 160


def of_shard_set(made: ShardSet, proof: Proof, *, told_by_s3: bool) -> Outcome:
    """A shard set that is done: how many rows where, how long they are, and how the first ones look."""
    account = made.account
    picture = binned_histogram(
        [(bin_edge(place), bin_edge(place + 1), count) for place, count in sorted(account.histogram.items())],
        title="Lengths of the texts",
        unit="characters",
        of="rows",
        zeros=account.empty,
    )
    parts = build_table(
        ["part", "rows >", "size >", "SHA-256"],
        [(part.name, part.rows, format_bytes(part.size), part.sha256[:16]) for part in made.parts[:MOST_LISTED]],
    )
    metadata: dict[str, Any] = {
        "dagster/row_count": made.rows,
        "dagster/uri": made.place if "://" in made.place else f"file://{made.place}",
        "destination": made.place,
        "asked for": made.asked,
        "files": len(made.parts),
        "bytes": made.size,
        "size": format_bytes(made.size),
        "mean text length": round(account.mean_length, 1),
        "text lengths": dg.MetadataValue.md(markdown_image(picture, "histogram of text lengths")),
        "first rows": dg.MetadataValue.md(first_rows(account).markdown()),
        "parts": dg.MetadataValue.md(parts.markdown()),
        "lines read": account.lines,
        "malformed lines kept out": account.malformed,
        "blank lines": account.blank,
        "rows without text": account.without_text,
        "sources": dg.MetadataValue.md(_sources(made).markdown()),
        "commit": made.commit,
        "seconds": made.seconds,
        "fingerprint": made.fingerprint,
    }
    if account.listed:
        listed = build_table(
            ["source", "line >", "what is wrong", "it begins"],
            [(path, line + 1, reason, begins) for path, line, reason, begins in account.listed[:MOST_LISTED]],
        )
        metadata["malformed lines"] = dg.MetadataValue.md(listed.markdown())
    return Outcome(made.fingerprint, metadata, of_checks(made, proof, told_by_s3=told_by_s3))


def of_checks(made: ShardSet, proof: Proof, *, told_by_s3: bool) -> list[Check]:
    """The checks of a shard set after its parts were read, or by what S3 says of them (`told_by_s3`)."""
    account = made.account
    lines = f"{account.rows:,} rows + {account.blank:,} blank + {account.malformed:,} malformed"
    how = ", by the SHA-256 that S3 took as they arrived" if told_by_s3 else ", every byte read"
    closed = account.lines == account.rows + account.blank + account.malformed and account.rows == made.rows
    invalid = "; ".join(f"{name}, {what}" for name, what in proof.invalid)
    return [
        Check(checks.ROWS_AS_ASKED, made.rows == made.asked, f"{made.rows:,} of {made.asked:,} asked for"),
        Check(checks.PARTS_INTACT, True, f"{len(made.parts):,} parts, {format_bytes(made.size)}{how}"),
        Check(checks.LINES_ARE_JSON, not proof.invalid, invalid or f"{proof.sampled:,} lines looked at"),
        Check(
            checks.ACCOUNT_CLOSED,
            closed,
            f"{account.lines:,} lines read = {lines}",
        ),
    ]


def damage(key: str, proof: Proof) -> DamageFoundError:
    """The error for a shard set with damaged parts, with its check."""
    table = build_table(["part", "what is wrong"], proof.damage[:MOST_LISTED])
    first, reason = proof.damage[0]
    line = f"{key}: {len(proof.damage)} of {proof.parts} parts are damaged: {first}: {reason}"
    metadata = {"faults": dg.MetadataValue.md(table.markdown()), "damaged": len(proof.damage)}
    return DamageFoundError(line, [Check(checks.PARTS_INTACT, False, line, metadata)])


def _sources(made: ShardSet) -> Table:
    """The source files that were read, and of a sample how many of whose rows were drawn."""
    drawn = any("drawn" in source for source in made.sources)
    columns = ["file", "size >", "read", *(["rows >", "drawn >"] if drawn else []), "hash"]
    rows = [
        (
            source["path"],
            format_bytes(source["size"]),
            source["read"],
            *((source["rows"], source["drawn"]) if drawn else ()),
            source["hash"][:16],
        )
        for source in made.sources[:MOST_LISTED]
    ]
    return build_table(columns, rows)


def first_rows(account: Account) -> Table:
    """The first rows as a table, long values cut."""
    rows = [orjson.loads(line) for line in account.first]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return build_table(columns, [[_cell(row.get(name)) for name in columns] for row in rows])


def _cell(value: object) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_CELL else f"{text[:LONGEST_CELL]}…"
