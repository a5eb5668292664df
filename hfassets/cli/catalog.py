"""`hfassets catalog`: init, check, sync, show, prune."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING

import click
from rich.table import Table

from hfassets.catalog.accepted import Accepted, accept, prune
from hfassets.catalog.load import catalog_path, configured_path, load_catalog
from hfassets.catalog.lock import (
    DatasetPartition,
    MixPartition,
    MixturePartition,
    RecipePartition,
    StagingPartition,
    lock_path,
    read_lock,
    unsynced,
    write_lock,
)
from hfassets.catalog.mixes import RepoPin
from hfassets.catalog.models import Catalog, Dataset
from hfassets.catalog.shard_sets import ShardSet
from hfassets.catalog.starter import STARTER
from hfassets.cli.output import json_option, show
from hfassets.cli.progress import ProgressDisplay
from hfassets.errors import CatalogError, HfassetsError, UsageError
from hfassets.storage.atomic import write_atomic
from hfassets.storage.lease import lease
from hfassets.storage.state import StateDir

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from hfassets.catalog.sync import Change, Client, DetectedConfigs
    from hfassets.hub.listing import Listing

RELOAD = """mutation Reload($name: String!) {
  reloadRepositoryLocation(repositoryLocationName: $name) {
    __typename
    ... on WorkspaceLocationEntry { locationOrLoadError { __typename ... on PythonError { message } } }
    ... on PythonError { message }
    ... on UnauthorizedError { message }
    ... on ReloadNotSupported { message }
    ... on RepositoryLocationNotFound { message }
  }
}"""


@click.group()
def catalog() -> None:
    """Declare what you want: catalog.yaml and its lock (HFASSETS_CATALOG, else ./catalog.yaml)."""


@catalog.command()
@click.option("--force", is_flag=True, help="Replace a catalog that is there.")
def init(force: bool) -> None:
    """Write a commented starter catalog."""
    path = configured_path()
    if path.exists() and not force:
        raise UsageError(f"{path} is there already; --force replaces it")
    write_atomic(path, STARTER.encode())
    click.echo(f"wrote {path}; edit it, then run `hfassets catalog sync`")


@catalog.command()
@json_option
def check(json_path: str | None) -> None:
    """Report every mistake, with file, line and key; exit code 1 if there is one."""
    accepted = accept(catalog_path(), record=False)
    pending = () if accepted.errors else unsynced(accepted.catalog, accepted.lock)
    document = {
        "path": accepted.path,
        "valid": not accepted.errors,
        "errors": accepted.errors,
        "sha": accepted.sha,
        "datasets": len(accepted.catalog.datasets),
        "c4": len(accepted.catalog.c4),
        "distillation": len(accepted.catalog.distillation),
        "partitions": len(accepted.partitions),
        "not_synced": [one.name for one in pending],
        "retired": accepted.retired,
    }
    if accepted.errors:
        show(json_path, document)
        in_force = f"{accepted.sha[:12]} stays in force" if accepted.sha else "no catalog is in force"
        raise CatalogError([*accepted.errors, in_force])
    _warn(accepted, pending)
    counts = f"{len(accepted.catalog.datasets)} datasets, {len(accepted.partitions)} partitions"
    show(json_path, document, f"{accepted.path}: valid, {counts}")


@catalog.command()
@click.option("--update", multiple=True, metavar="REPO", help="Move this repo to where its revision is now.")
@click.option(
    "--webserver",
    metavar="URL",
    envvar="DAGSTER_WEBSERVER_URL",
    show_envvar=True,
    help="A running Dagster webserver, asked to reload the code location.",
)
@click.option("--location", default="hfassets", show_default=True, help="The code location to reload.")
@json_option
def sync(update: tuple[str, ...], webserver: str | None, location: str, json_path: str | None) -> None:
    """Ask the Hub for commits and configs of what the lock does not have yet, and write catalog.lock."""
    from hfassets.catalog import sync as domain

    path = catalog_path()
    wanted = load_catalog(path)
    locked = lock_path(path)
    if wanted.storage.umask is not None:
        os.umask(wanted.storage.umask)
    resource = f"catalog sync {path.absolute()}"
    with lease(StateDir(wanted.storage.state_dir).lease(resource), str(locked)), ProgressDisplay() as progress:
        before = read_lock(locked)
        with _Clients(wanted, progress) as clients:
            after, changes = domain.sync(wanted, before, clients.of, _detect, update, progress)
        if changes:
            write_lock(locked, after)
    accepted = accept(path)
    lines = [str(change) for change in changes] or [f"{locked}: up to date, {len(after.repos)} repos"]
    show(json_path, {"lock": locked, "changes": [_change(change) for change in changes]}, *lines)
    _warn(accepted, ())
    if accepted.errors:
        raise CatalogError(accepted.errors)
    if webserver:
        _reload(webserver, location)
    elif changes:
        click.echo(
            "to see the change in a running Dagster, reload its code location, or give --webserver URL", err=True
        )


@catalog.command(name="show")
@json_option
def show_command(json_path: str | None) -> None:
    """List the partitions, and the datasets that have none yet."""
    accepted = accept(catalog_path(), record=False)
    for line in accepted.errors:
        click.echo(f"warning: {line}", err=True)
    rows = list(_rows(accepted))
    table = Table("name", "repo", "revision", "commit", "config", "key", "synced", "retired", box=None, pad_edge=False)
    for row in rows:
        cells = (row[name] for name in ("name", "repo", "revision", "commit", "config", "key"))
        marks = ("yes" if row["synced"] else "no", "retired" if row["retired"] else "")
        table.add_row(*(str(cell or "-") for cell in cells), *marks)
    show(json_path, {"path": accepted.path, "sha": accepted.sha, "errors": accepted.errors, "rows": rows}, table)


@catalog.command(name="prune")
@click.option("--dry-run", is_flag=True, help="Only say which keys would go.")
@json_option
def prune_command(dry_run: bool, json_path: str | None) -> None:
    """Forget partition keys that are no longer in the catalog; refused while a run or backfill targets one."""
    path = catalog_path()
    order = [one.key for one in accept(path, record=False).partitions]
    result = prune(path, targeted_keys(order), dry_run=dry_run)
    verb = "would be removed" if dry_run else "removed"
    lines = [f"{key} {verb}" for key in result.keys] or ["there are no retired keys"]
    show(json_path, {"keys": result.keys, "dry_run": dry_run}, *lines)


def targeted_keys(order: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Partition key -> the runs and backfills in progress that target it, as this Dagster instance has them.

    `order`: all keys in the order of the partitions definition, which is what ranges refer to.
    """
    from dagster import DagsterInstance
    from dagster._core.errors import DagsterHomeNotSetError, DagsterInvariantViolationError

    try:
        instance = DagsterInstance.get()
    except (DagsterHomeNotSetError, DagsterInvariantViolationError):
        raise UsageError("DAGSTER_HOME names no instance, so nobody knows what its runs target; set it") from None
    with instance:
        held: dict[str, list[str]] = defaultdict(list)
        for key, holder in (*_targets_of_runs(instance, order), *_targets_of_backfills(instance)):
            held[key].append(holder)
        return {key: tuple(dict.fromkeys(holders)) for key, holders in held.items()}


def _targets_of_runs(instance: DagsterInstance, order: Sequence[str]) -> Iterator[tuple[str, str]]:
    from dagster import DagsterRunStatus, RunsFilter

    ended = {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}
    places = {key: place for place, key in enumerate(order)}
    for run in instance.get_runs(RunsFilter(statuses=[one for one in DagsterRunStatus if one not in ended])):
        holder = f"run {run.run_id} ({run.status.value})"
        keys = [run.tags["dagster/partition"]] if "dagster/partition" in run.tags else []
        first = run.tags.get("dagster/asset_partition_range_start")
        last = run.tags.get("dagster/asset_partition_range_end")
        if first is not None and last is not None:
            known = first in places and last in places
            keys += order[places[first] : places[last] + 1] if known else [first, last]
        if run.partitions_subset is not None:
            keys += run.partitions_subset.get_partition_keys()
        for key in keys:
            yield key, holder


def _targets_of_backfills(instance: DagsterInstance) -> Iterator[tuple[str, str]]:
    from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES, BulkActionsFilter, BulkActionStatus

    active = [one for one in BulkActionStatus if one not in BULK_ACTION_TERMINAL_STATUSES]
    for backfill in instance.get_backfills(filters=BulkActionsFilter(statuses=active)):
        holder = f"backfill {backfill.backfill_id} ({backfill.status.value})"
        keys = set(backfill.partition_names or ())
        if backfill.asset_backfill_data is not None:
            for subset in backfill.asset_backfill_data.target_subset.partitions_subsets_by_asset_key.values():
                keys.update(subset.get_partition_keys())
        for key in sorted(keys):
            yield key, holder


def _rows(accepted: Accepted) -> Iterator[dict[str, object]]:
    for one in accepted.partitions:
        if isinstance(one, DatasetPartition):
            yield _row(one.dataset, one.commit, one.config, one.key, retired=one.retired)
        elif isinstance(one, MixPartition):
            source = one.mix.datasets[one.source]
            pin = RepoPin(one.mix.name, source.hf_path, source.revision)
            yield _row(pin, one.commit, ", ".join(source.subset or ()) or None, one.key, retired=one.retired)
        elif isinstance(one, RecipePartition):
            of = one.recipe.source
            pin = RepoPin(one.key, of.repo or of.kind, of.revision if of.repo else "")
            yield _row(pin, one.commit or None, of.config, one.key, retired=one.retired)
        elif isinstance(one, StagingPartition):
            of_dataset = one.dataset
            repo = str(one.recipe.source.mirror) if of_dataset is None else of_dataset.dataset.repo
            pin = RepoPin(one.key, repo, "" if of_dataset is None else of_dataset.dataset.revision)
            config = one.recipe.source.config if of_dataset is None else of_dataset.config
            yield _row(pin, one.commit or None, config, one.key, retired=one.retired)
        elif isinstance(one, MixturePartition):
            yield _row(RepoPin(one.key, ", ".join(one.members), ""), None, None, one.key, retired=one.retired)
        else:
            yield _row(one.shard_set, one.commit, one.shard_set.config, one.key, retired=one.retired)
    for entry in unsynced(accepted.catalog, accepted.lock):
        if isinstance(entry, RepoPin):
            yield _row(entry, None, None, None, retired=False)
            continue
        if isinstance(entry, ShardSet):
            yield _row(entry, None, entry.config, entry.name, retired=False)
            continue
        for config in entry.configs or (None,):
            yield _row(entry, None, config, None if config is None else f"{entry.name}:{config}", retired=False)


def _row(
    dataset: Dataset | ShardSet | RepoPin, commit: str | None, config: str | None, key: str | None, *, retired: bool
) -> dict[str, object]:
    return {
        "name": dataset.name,
        "repo": dataset.repo,
        "revision": dataset.revision,
        "commit": commit,
        "config": config,
        "key": key,
        "synced": commit is not None,
        "retired": retired,
    }


def _warn(accepted: Accepted, pending: Sequence[Dataset | ShardSet | RepoPin]) -> None:
    for note in accepted.notes:
        click.echo(f"warning: {note}", err=True)
    for dataset in pending:
        click.echo(f"warning: {dataset.name}: not synced, so no partitions yet; run `hfassets catalog sync`", err=True)
    for key in accepted.retired:
        click.echo(f"warning: {key}: retired; `hfassets catalog prune` forgets it", err=True)


def _change(change: Change) -> dict[str, object]:
    before, after = change.before, change.after
    return {
        "repo": change.repo,
        "revision": change.revision,
        "before": before.model_dump() if before else None,
        "after": after.model_dump() if after else None,
    }


class _Clients(ExitStack):
    """One Hub client a token, shared by the datasets that use it."""

    def __init__(self, wanted: Catalog, progress: ProgressDisplay) -> None:
        super().__init__()
        self._wanted = wanted
        self._progress = progress
        self._lock = threading.Lock()
        self._by_token: dict[str | None, Client] = {}

    def of(self, dataset: Dataset | ShardSet | RepoPin) -> AbstractContextManager[Client]:
        """The client of a dataset; it stays open until this is closed."""
        from hfassets.hub.session import HubClient, hub_options

        settings = self._wanted.hub
        with self._lock:
            if dataset.token_env not in self._by_token:
                options = hub_options(
                    endpoint=settings.endpoint,
                    token_env=dataset.token_env,
                    max_retries=settings.max_retries,
                    backoff_factor=settings.backoff_factor,
                )
                self._by_token[dataset.token_env] = self.enter_context(HubClient(options, self._progress))
            return nullcontext(self._by_token[dataset.token_env])


def _detect(listing: Listing, metadata: Mapping[str, bytes]) -> DetectedConfigs:
    from hfassets.catalog.sync import DetectedConfigs
    from hfassets.errors import DataError
    from hfassets.hub.configs import config_files, list_configs

    names = list_configs(listing, metadata)
    if len(names) == 1:
        return DetectedConfigs(names, names[0])
    try:
        return DetectedConfigs(names, config_files(listing, metadata, None).name)
    except DataError:
        return DetectedConfigs(names, None)  # none that `load_dataset` would take without a name


def _reload(webserver: str, location: str) -> None:
    """Have a running Dagster load the location again; raises HfassetsError when it does not."""
    import requests

    url = f"{webserver.rstrip('/')}/graphql"
    try:
        answer = requests.post(url, json={"query": RELOAD, "variables": {"name": location}}, timeout=(10, 120))
        answer.raise_for_status()
        result = answer.json()["data"]["reloadRepositoryLocation"]
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        raise HfassetsError(f"catalog.lock is written, but {url} did not reload {location}: {error}") from None
    loaded = result.get("locationOrLoadError") or result
    if "message" in loaded:
        raise HfassetsError(f"catalog.lock is written, but {location} did not reload: {loaded['message']}")
    click.echo(f"reloaded {location} at {webserver}", err=True)
