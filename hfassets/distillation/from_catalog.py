"""A catalog's mix, or a YAML file in the old form, as a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfassets.catalog.load import parse_mix, read_bytes
from hfassets.catalog.lock import MixPartition
from hfassets.catalog.mixes import Mix
from hfassets.catalog.models import Catalog
from hfassets.distillation.mix_run import MixRun
from hfassets.errors import UsageError
from hfassets.storage.state import StateDir


@dataclass(frozen=True, slots=True)
class CatalogMix:
    """A mix of the catalog with what the lock pins for it."""

    catalog: Catalog
    mix: Mix
    commits: Mapping[str, str]
    tokenizer_commit: str | None


def catalog_mix(name: str) -> CatalogMix:
    """A synchronised mix of the catalog in force; raises UsageError for one that is not there."""
    from hfassets.catalog.accepted import accept
    from hfassets.catalog.load import catalog_path

    accepted = accept(catalog_path(), record=False)
    catalog = accepted.require()
    if catalog.storage.umask is not None:
        os.umask(catalog.storage.umask)
    found = (one for one in accepted.partitions if isinstance(one, MixPartition) and not one.retired)
    first = next((one for one in found if one.mix.name == name), None)
    if first is None:
        declared = ", ".join(one.name for one in catalog.distillation) or "none"
        raise UsageError(f"{name} is no synchronised mix of {accepted.path}; its section distillation has {declared}")
    return CatalogMix(catalog, first.mix, first.commits, first.tokenizer_commit)


def mix_run(
    catalog: Catalog, mix: Mix, commits: Mapping[str, str], tokenizer_commit: str | None, **habits: Any
) -> MixRun:
    """The run of a catalog's mix at its pinned commits."""
    return MixRun(
        mix=mix,
        output=mix.place(catalog.storage.output_root),
        hub_cache=catalog.storage.hub_cache,
        state=StateDir(catalog.storage.state_dir),
        endpoint=catalog.hub.endpoint,
        commits=commits,
        tokenizer_commit=tokenizer_commit,
        **{"max_retries": catalog.hub.max_retries, "backoff_factor": catalog.hub.backoff_factor, **habits},
    )


def load_mix(path: Path | None) -> Mix:
    """The built-in mix, or what a file lays over it; raises CatalogError with every mistake in the file."""
    if path is None:
        return Mix.model_validate({})
    return parse_mix(read_bytes(path), path)
