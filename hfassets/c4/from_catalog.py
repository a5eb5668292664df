"""A catalog's entry as the request that makes it."""

from __future__ import annotations

from collections.abc import Callable

from hfassets.c4.request import ShardSetRequest, parse_destination
from hfassets.catalog.models import Catalog
from hfassets.catalog.shard_sets import ShardSet
from hfassets.hub.layout import RepoCache
from hfassets.parts.pool import Backend
from hfassets.storage.s3 import S3Settings
from hfassets.storage.state import StateDir


def s3_settings(catalog: Catalog) -> S3Settings:
    """Which S3 the catalog means."""
    return S3Settings(catalog.s3.endpoint_url, catalog.s3.region, catalog.s3.profile)


def shard_set_request(
    catalog: Catalog,
    entry: ShardSet,
    commit: str,
    *,
    force: bool = False,
    workers: int | None = None,
    run_id: str = "",
    lease_wait: float = 0.0,
    backend: Callable[[int], Backend] | None = None,
) -> ShardSetRequest:
    """The request of an entry at its pinned commit; `workers` None = as the entry says, `backend` None = here."""
    root = catalog.storage.output_root
    return ShardSetRequest(
        repo=RepoCache(entry.cache_dir or catalog.storage.hub_cache, entry.repo),
        commit=commit,
        destination=parse_destination(entry.place(root), s3_settings(catalog)),
        state=StateDir(catalog.storage.state_dir),
        local=entry.local(root),
        config=entry.config,
        split=entry.split,
        num_samples=entry.num_samples,
        max_lines_per_file=entry.max_lines_per_file,
        compression=entry.compression,
        seed=entry.sample_seed,
        streaming=entry.streaming,
        keep_local=entry.keep_local,
        on_shortfall=entry.on_shortfall,
        workers=workers or entry.workers,
        force=force,
        key=entry.name,
        run_id=run_id,
        lease_wait=lease_wait,
        backend=backend(workers or entry.workers) if backend else None,
    )
