"""The catalog's partitions in caches that others have filled: the Hub's files, and Arrow that `datasets` has prepared.

Invariant: nothing is fetched and nothing is prepared; a partition counts only when all of it is there, each blob by the
hash that the Hub gives it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from hfassets.catalog import Accepted, DatasetPartition
from hfassets.errors import HfassetsError, IntegrityError, UsageError
from hfassets.hub.acquire import plan_only, take_snapshot
from hfassets.hub.from_catalog import prepare_request, snapshot_request
from hfassets.hub.options import hub_options
from hfassets.hub.prepare import find_prepared, prepare
from hfassets.hub.session import HubClient
from hfassets.progress import ProgressCallback


@dataclass(frozen=True, slots=True)
class CachedPartition:
    """What became of one: `what` is `adopted`, `known already` or `not adopted`, then with the reason."""

    key: str
    what: str
    size: int = 0
    why: str = ""
    damaged: bool = False


def adopt_hub_cache(
    path: Path, accepted: Accepted, progress: ProgressCallback, *, offline: bool
) -> list[CachedPartition]:
    """Each dataset config of the catalog, from the blobs that the cache has. Raises UsageError for another cache."""
    catalog = accepted.catalog
    _same(path, catalog.storage.hub_cache, "storage: hub_cache")
    hub, found = catalog.hub, []
    for part in _partitions(accepted):
        request = snapshot_request(catalog, part)
        options = hub_options(
            endpoint=hub.endpoint,
            token_env=part.dataset.token_env,
            max_retries=hub.max_retries,
            backoff_factor=hub.backoff_factor,
        )
        try:
            if not offline:
                with HubClient(options, progress) as client:
                    missing = plan_only(client, request, progress).fetch
                if missing:
                    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
                    found.append(_left(part, f"not there, or not intact: {missing[0].path}{more}"))
                    continue
            # Whatever the plan said: a client that is offline fetches nothing.
            with HubClient(replace(options, offline=True), progress) as client:
                taken = take_snapshot(client, request, progress)
            found.append(CachedPartition(part.key, "known already" if taken.reused else "adopted", taken.size))
        except HfassetsError as error:
            found.append(_left(part, str(error), damaged=isinstance(error, IntegrityError)))
    return found


def adopt_prepared(path: Path, accepted: Accepted, progress: ProgressCallback) -> list[CachedPartition]:
    """Each dataset config of the catalog whose Arrow files `load_dataset` has left in the cache, hashed once."""
    catalog = accepted.catalog
    _same(path, catalog.storage.datasets_cache, "storage: datasets_cache")
    found = []
    for part in _partitions(accepted):
        request = prepare_request(catalog, part, only_existing=True)
        try:
            known = find_prepared(request)
            made = known or prepare(request, progress)
            found.append(CachedPartition(part.key, "adopted" if known is None else "known already", made.size))
        except HfassetsError as error:
            found.append(_left(part, str(error), damaged=isinstance(error, IntegrityError)))
    return found


def _partitions(accepted: Accepted) -> list[DatasetPartition]:
    return [one for one in accepted.partitions if isinstance(one, DatasetPartition) and not one.retired]


def _left(part: DatasetPartition, why: str, *, damaged: bool = False) -> CachedPartition:
    return CachedPartition(part.key, "not adopted", why=why, damaged=damaged)


def _same(path: Path, wanted: Path, key: str) -> None:
    if path.resolve() != wanted.resolve():
        raise UsageError(f"{path}: the catalog's {key} is {wanted}; name this one there, and its partitions are found")
