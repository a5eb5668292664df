"""What the catalog asks for of a dataset config: its raw files, and its Arrow files."""

from __future__ import annotations

from hfassets.catalog.lock import DatasetPartition
from hfassets.catalog.models import Catalog
from hfassets.hub.acquire import SnapshotRequest
from hfassets.hub.layout import RepoCache
from hfassets.hub.prepare import PrepareRequest
from hfassets.storage.state import StateDir


def snapshot_request(
    catalog: Catalog, part: DatasetPartition, *, workers: int = 8, force: bool = False, run_id: str = ""
) -> SnapshotRequest:
    """The raw files of a partition."""
    dataset = part.dataset
    return SnapshotRequest(
        RepoCache(catalog.storage.hub_cache, dataset.repo),
        part.commit,
        StateDir(catalog.storage.state_dir),
        part.config,
        files=dataset.files,
        include=dataset.include,
        exclude=dataset.exclude,
        key=part.key,
        revision=None if dataset.revision == part.commit else dataset.revision,
        workers=workers,
        max_bytes=dataset.max_bytes,
        transfer=dataset.transfer,
        force=force,
        run_id=run_id,
    )


def prepare_request(
    catalog: Catalog, part: DatasetPartition, *, force: bool = False, only_existing: bool = False, run_id: str = ""
) -> PrepareRequest:
    """The Arrow files of a partition."""
    return PrepareRequest(
        RepoCache(catalog.storage.hub_cache, part.dataset.repo),
        part.config,
        part.commit,
        catalog.storage.datasets_cache,
        StateDir(catalog.storage.state_dir),
        num_proc=part.dataset.num_proc,
        force=force,
        key=part.key,
        run_id=run_id,
        only_existing=only_existing,
    )
