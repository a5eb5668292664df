"""What packed rows and teachers tell Dagster: metadata under Dagster's own keys, pictures, checks. Pure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import orjson

from hfassets.defs.distillation import checks
from hfassets.defs.partition_run import Check, DamageFoundError, Outcome
from hfassets.defs.stage_asset import Proof
from hfassets.distillation.account import STEPS_PER_DOUBLING
from hfassets.mds.stage import StageOutput
from hfassets.packed.logits import rest_edges
from hfassets.packed.teacher_model import TeacherModel
from hfassets.report.plots import bar_chart, binned_histogram, counted_histogram, markdown_image
from hfassets.report.tables import build_table
from hfassets.report.units import format_bytes


def of_tokens(made: StageOutput, proof: Proof | None, splits: Mapping[str, Mapping[str, Any]]) -> Outcome:
    """Rows that are done: how full they are, how long documents and rows, what became of every token. `splits`: the
    stats of all files of the mix that are done.
    """
    details, name = made.details, made.root.parent.name
    bins = [
        (2.0 ** (place / STEPS_PER_DOUBLING), 2.0 ** ((place + 1) / STEPS_PER_DOUBLING), count)
        for place, count in sorted((int(place), count) for place, count in details["document_lengths"].items())
    ]
    documents = binned_histogram(bins, title=f"Documents of {name}", unit="tokens", of="documents")
    lengths = {int(length): count for length, count in details["lengths"].items()}
    rows = counted_histogram(lengths, title=f"Content of the rows of {name}", unit="tokens", of="rows")
    sources = bar_chart(
        {split: stats["total_tokens"] for split, stats in splits.items()},
        title=f"{sum(stats['total_tokens'] for stats in splits.values()):,} tokens of {len(splits)} sources so far",
        unit="tokens",
    )
    folder = made.root.parent
    metadata: dict[str, Any] = {
        "dagster/row_count": details["total_sequences"],
        "dagster/uri": f"file://{folder}",
        "tokens": details["total_tokens"],
        "fill rate": round(details["fill_rate"], 4),
        "documents": details["total_samples"],
        "sequence length": details["max_seq_length"],
        "packing": details["packing"],
        "labels": details["labels"],
        **({"tokens not learnt": details["not_learnt"]} if "not_learnt" in details else {}),
        "shards": details["shards_created"],
        "size": format_bytes(made.manifest.total_bytes),
        "bytes": made.manifest.total_bytes,
        "tokens per source": dg.MetadataValue.md(markdown_image(sources, "tokens of each source")),
        "document lengths": dg.MetadataValue.md(markdown_image(documents, "histogram of document lengths")),
        "row contents": dg.MetadataValue.md(markdown_image(rows, "histogram of the content of rows")),
        "account": dg.MetadataValue.md(_account(made).markdown()),
        "tokenizer": f"{details['tokenizer']}, {details['vocabulary']['tokens']:,} tokens",
        "tokenized by": ", ".join(details["engines"]),
        "to load": dg.MetadataValue.md(
            f"```python\nfrom hfassets.tokens import read_packed\nrows = read_packed({str(folder)!r})\n```"
        ),
        "seconds": round(made.seconds, 3),
        "fingerprint": made.fingerprint,
    }
    return Outcome(made.fingerprint, metadata, of_checks(made, proof))


def of_logits(made: StageOutput, proof: Proof | None) -> Outcome:
    """What a teacher said: how sure it is, how much is not among the top k, and what it takes to keep."""
    details, folder = made.details, made.root.parent
    bins = [(*rest_edges(int(place)), count) for place, count in details["rests"].items()]
    rests = binned_histogram(
        sorted(bins), title=f"Mass beyond the top {details['top_k']}", unit="probability", of="positions"
    )
    counts = [(name.replace("_", " "), count) for name, count in made.account.items() if count]
    metadata: dict[str, Any] = {
        "dagster/row_count": details["rows"],
        "dagster/uri": f"file://{folder}",
        "positions": details["positions_written"],
        "cross entropy": round(details["cross_entropy"], 4),
        "perplexity": round(math.exp(min(details["cross_entropy"], 700)), 3),
        "top k": details["top_k"],
        "temperature": details["temperature"],
        "bytes per position": details["bytes_per_position"],
        "tokens per second": details["tokens_per_second"],
        "shards": details["shards_created"],
        "size": format_bytes(made.manifest.total_bytes),
        "bytes": made.manifest.total_bytes,
        "mass beyond the top k": dg.MetadataValue.md(markdown_image(rests, "histogram of the mass beyond the top k")),
        "account": dg.MetadataValue.md(build_table(["what", "count >"], counts).markdown()),
        "teacher": details["teacher"],
        "vocabulary": details["vocabulary"],
        "run on": f"{', '.join(details['devices'])} in {', '.join(details['dtypes'])}",
        "seconds": round(made.seconds, 3),
        "fingerprint": made.fingerprint,
    }
    return Outcome(made.fingerprint, metadata, of_checks(made, proof))


def of_teacher(model: TeacherModel, found: Sequence[Check]) -> Outcome:
    """A teacher that is here."""
    files = model.files
    table = build_table(["file", "size >"], [(name, format_bytes(size)) for name, size in files.items()])
    size = sum(files.values())
    metadata: dict[str, Any] = {
        "dagster/uri": f"file://{model.path}",
        "model": model.name,
        "architecture": ", ".join(model.config.get("architectures") or ["not stated"]),
        "tokens it can say": model.head or 0,
        "longest row": model.max_positions or 0,
        "files": dg.MetadataValue.md(table.markdown()),
        "size": format_bytes(size),
        "bytes": size,
        **({"commit": model.identity["commit"]} if isinstance(model.identity, dict) else {}),
    }
    version = hashlib.sha256(orjson.dumps([model.name, model.identity])).hexdigest()
    return Outcome(version, {**metadata, "fingerprint": version}, found)


def teacher_checks(told: str) -> list[Check]:
    """The checks of a teacher whose tokens are the student's."""
    return [Check(checks.SAME_TOKENS, True, told)]


def another_vocabulary(key: str, error: Exception) -> DamageFoundError:
    """The error for a teacher of other tokens, with its check."""
    return DamageFoundError(f"{key}: {error}", [Check(checks.SAME_TOKENS, False, str(error))])


def of_checks(made: StageOutput, proof: Proof | None) -> list[Check]:
    """The checks of an output. `proof` None: it has just been written and hashed."""
    faults = () if proof is None else proof.faults
    size = format_bytes(made.manifest.total_bytes)
    told = "; ".join(faults[:3]) or f"{made.details['shards_created']:,} shards, {size}"
    counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in made.account.items() if count)
    return [Check(checks.INTACT, not faults, told), Check(checks.ACCOUNT_CLOSED, True, counts)]


def _account(made: StageOutput) -> Any:
    rows = [(name.replace("_", " "), count) for name, count in made.account.items() if count]
    refused = [(name.replace("_", " "), count) for name, count in made.details["read"].items() if count]
    return build_table(["what", "count >"], [*rows, *refused])
