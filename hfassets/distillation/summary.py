"""`download_summary.json`: the old document's fields, and ours, from the stats of the files that are there.

Invariant: it is made anew from the stats each time, so that several runs over one folder, each with other sources, end
with a summary of all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from hfassets.catalog.mixes import Mix
from hfassets.distillation.licences import licence_of
from hfassets.distillation.quotas import Quotas
from hfassets.storage.atomic import write_atomic

SUMMARY = "download_summary.json"
_MEGABYTE = 1 << 20


def mix_fingerprint(files: Sequence[str]) -> str:
    """Names a mix by the fingerprints of its files, in order."""
    return hashlib.sha256("".join(files).encode()).hexdigest()


def write_summary(output: Path, mix: Mix, shared: Quotas) -> tuple[Path, Mapping[str, Any]]:
    """Write the summary of the files in `output`; its path and content."""
    document = summary_of(output, mix, shared)
    path = output / SUMMARY
    write_atomic(path, orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    return path, document


def summary_of(output: Path, mix: Mix, shared: Quotas) -> dict[str, Any]:
    """The summary's content. Sources are in the mix's order; those without a finished file are named as missing."""
    stats = {name: found for name in shared.rows if (found := _stats(output, mix, name)) is not None}
    categories: dict[str, Any] = {}
    for category in mix.category_ratios:
        of = {name: one for name, one in stats.items() if mix.datasets[name].category == category}
        asked = sum(count for name, count in shared.rows.items() if mix.datasets[name].category == category)
        if of or asked:
            categories[category] = {
                "samples": sum(one["samples"] for one in of.values()),
                "size_mb": round(sum(one["bytes"] for one in of.values()) / _MEGABYTE, 3),
                "datasets": list(of),
                "asked": asked,
            }
    return {
        "total_samples": sum(one["samples"] for one in stats.values()),
        "total_size_mb": round(sum(one["bytes"] for one in stats.values()) / _MEGABYTE, 3),
        "categories": categories,
        "datasets": stats,
        "mix": mix.name,
        "asked": mix.total_samples,
        "quotas": dict(shared.rows),
        "missing": [name for name in shared.rows if name not in stats],
        "short": {name: missing for name, one in stats.items() if (missing := shared.rows[name] - one["samples"]) > 0},
        "notices": list(shared.notices),
        "licenses": {name: licence_of(name, mix.datasets[name].license).data for name in stats},
    }


def _stats(output: Path, mix: Mix, name: str) -> dict[str, Any] | None:
    folder = output / mix.datasets[name].category
    if not (folder / f"{name}.manifest.json").exists():
        return None
    try:
        found: dict[str, Any] = orjson.loads((folder / f"{name}.stats.json").read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None
    return found
