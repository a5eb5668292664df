"""Old runs deleted from Dagster, with what they printed and the records of their jobs.

Invariant: a run stays while it holds what is known of a partition: its latest materialisation or observation, or the
latest evaluation of a check. Dagster deletes a run's events with it, and the partition would be grey.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from hfassets.progress import Progress, ProgressCallback, silent
from hfassets.slurm import SlurmRunLauncher

ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_PAGE = 500
_KEPT_EVENTS = (dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_OBSERVATION)


@dataclass(frozen=True, slots=True)
class PrunedRuns:
    """Ids of the runs that were deleted, or would be; `kept`: those as old that hold something."""

    deleted: tuple[str, ...]
    kept: tuple[str, ...]


def prune_runs(
    instance: dg.DagsterInstance,
    before: datetime.datetime,
    checks: Iterable[dg.AssetCheckKey],
    progress: ProgressCallback = silent,
    *,
    dry_run: bool = False,
) -> PrunedRuns:
    """Delete the runs that ended before a moment, but for those that hold what is known of a partition."""
    old = list(_ended_before(instance, before))
    needed = holders(instance, checks) if old else set()
    deleted = [run_id for run_id in old if run_id not in needed]
    for number, run_id in enumerate([] if dry_run else deleted, 1):
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        for folder in _job_folders(instance, run_id):
            shutil.rmtree(folder, ignore_errors=True)
        instance.delete_run(run_id)
        progress(Progress("delete runs", number, len(deleted), "runs"))
    return PrunedRuns(tuple(deleted), tuple(run_id for run_id in old if run_id in needed))


def holders(instance: dg.DagsterInstance, checks: Iterable[dg.AssetCheckKey]) -> set[str]:
    """The runs that hold the latest event of a partition, or the latest evaluation of a check of one."""
    storage = instance.event_log_storage
    needed: set[str] = set()
    for asset in instance.get_asset_keys():
        for kind in _KEPT_EVENTS:
            latest = storage.get_latest_storage_id_by_partition(asset, kind)
            needed.update(_runs_of(instance, asset, kind, list(latest.values())))
        whole = instance.get_latest_materialization_event(asset)
        needed.update([whole.run_id] if whole is not None else [])
    for check in checks:
        needed.update(_latest_evaluations(storage, check))
    return needed - {""}


def _runs_of(
    instance: dg.DagsterInstance, asset: dg.AssetKey, kind: dg.DagsterEventType, ids: list[int]
) -> Iterator[str]:
    fetch = instance.fetch_materializations if kind == _KEPT_EVENTS[0] else instance.fetch_observations
    for start in range(0, len(ids), _PAGE):
        wanted = dg.AssetRecordsFilter(asset_key=asset, storage_ids=ids[start : start + _PAGE])
        for record in fetch(wanted, limit=_PAGE).records:
            yield record.run_id


def _latest_evaluations(storage: object, check: dg.AssetCheckKey) -> Iterator[str]:
    """The run of the newest evaluation of each partition; the history is read page by page."""
    seen: set[str | None] = set()
    cursor = None
    while True:
        page = storage.get_asset_check_execution_history(check, limit=_PAGE, cursor=cursor)  # type: ignore[attr-defined]
        for record in page:
            if record.partition not in seen:
                seen.add(record.partition)
                yield record.run_id
        if len(page) < _PAGE:
            return
        cursor = page[-1].id


def _ended_before(instance: dg.DagsterInstance, before: datetime.datetime) -> Iterator[str]:
    filters = dg.RunsFilter(statuses=ENDED, updated_before=before)
    cursor = None
    while runs := instance.get_runs(filters=filters, cursor=cursor, limit=_PAGE):
        yield from (run.run_id for run in runs)
        cursor = runs[-1].run_id


def _job_folders(instance: dg.DagsterInstance, run_id: str) -> list[Path]:
    launcher = instance.run_launcher
    return [launcher.attempts.run_folder(run_id)] if isinstance(launcher, SlurmRunLauncher) else []
