"""Asking the Hub what the lock shall say.

Invariant: a sync is all or nothing. When anything that was asked for could not be found out, every failure is reported
and there is no new lock. What is already pinned is not asked about again, unless named for an update.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from hfassets.catalog.load import nearest
from hfassets.catalog.lock import Lock, RepoLock, config_errors
from hfassets.catalog.mixes import RepoPin
from hfassets.catalog.models import Catalog, Dataset
from hfassets.catalog.shard_sets import ShardSet
from hfassets.errors import CatalogError, HfassetsError, IntegrityError
from hfassets.hub.configs import METADATA_FILES
from hfassets.hub.hashing import new_hash
from hfassets.hub.listing import Listing, RepoFile
from hfassets.progress import Progress, ProgressCallback, silent
from hfassets.report.units import counted

WORKERS = 8


class Client(Protocol):
    """What of `HubClient` a sync uses."""

    def resolve_commit(self, repo_id: str, revision: str = "main", repo_type: str = "dataset") -> str:
        """The commit a revision is at."""

    def list_files(self, repo_id: str, commit: str, repo_type: str = "dataset") -> Listing:
        """All files at a commit."""

    def read_file(self, repo_id: str, commit: str, path: str, repo_type: str = "dataset") -> bytes:
        """The content of a small file."""


Pinned = Dataset | ShardSet | RepoPin
ClientFactory = Callable[[Pinned], AbstractContextManager[Client]]


@dataclass(frozen=True, slots=True)
class DetectedConfigs:
    """The configs a repo has, and which one is its default, if any."""

    names: tuple[str, ...]
    default: str | None


ConfigsOf = Callable[[Listing, Mapping[str, bytes]], DetectedConfigs]


@dataclass(frozen=True, slots=True)
class Change:
    """What a sync found for one repo: `before` None = new in the lock, `after` None = no longer in the catalog."""

    repo: str
    revision: str
    before: RepoLock | None
    after: RepoLock | None

    def __str__(self) -> str:
        what = f"{self.repo}@{self.revision}"
        if self.after is None:
            return f"{what}: removed, no entry of the catalog names it"
        if self.before is None:
            return f"{what}: pinned at {self.after.commit[:12]}, {counted(len(self.after.configs), 'config')}"
        old, new = set(self.before.configs), set(self.after.configs)
        moved = f"{what}: {self.before.commit[:12]} -> {self.after.commit[:12]}"
        added = "".join(f", +{name}" for name in sorted(new - old))
        return moved + added + "".join(f", -{name}" for name in sorted(old - new))


def sync(
    catalog: Catalog,
    lock: Lock,
    client_factory: ClientFactory,
    configs_of: ConfigsOf,
    update: Collection[str] = (),
    progress: ProgressCallback = silent,
) -> tuple[Lock, tuple[Change, ...]]:
    """The new lock and what differs from `lock`; `update` names repos to move to where their revision is now.

    Raises CatalogError with every failure: what could not be enumerated, configs that a repo does not have, names in
    `update` that no entry has.
    """
    _check_update(catalog, update)
    # Whoever needs the configs of a repo as well asks for it.
    ordered = sorted(catalog.pinned, key=lambda one: not isinstance(one, RepoPin))
    wanted = {(one.repo, one.revision, one.repo_type): one for one in ordered}
    asked = [
        dataset
        for (repo, _, _), dataset in sorted(wanted.items(), key=lambda item: item[0])
        if repo in update or not lock.answers(dataset)
    ]
    found = _ask(asked, client_factory, configs_of, progress)
    kept = {key: pinned for key in wanted if (pinned := lock.find(*key)) is not None}
    # A repo that is as it was keeps its line, the time of its pinning included.
    renewed = {_key(one): one for one in found if not _same(kept.get(_key(one)), one)}
    new = Lock(tuple((kept | renewed).values()))
    fresh = {one.repo for one in asked}
    errors = []
    for keys, text in config_errors(catalog, new):
        repo = (catalog.c4 if keys[0] == "c4" else catalog.datasets)[int(keys[1])].repo
        errors.append(text if repo in fresh else f"{text} (--update {repo} looks at its newest commit)")
    if errors:
        raise CatalogError(errors)
    before = {_key(one): one for one in lock.repos}
    gone = {key: None for key in before if key not in wanted}
    changed = sorted((renewed | gone).items(), key=lambda item: item[0])
    return new, tuple(Change(*key[:2], before.get(key), after) for key, after in changed)


def _key(one: RepoLock) -> tuple[str, str, str]:
    return one.repo, one.revision, one.repo_type


def _same(old: RepoLock | None, new: RepoLock) -> bool:
    return old is not None and old.model_copy(update={"synced_at": new.synced_at}) == new


def _check_update(catalog: Catalog, update: Collection[str]) -> None:
    repos = {one.repo for one in catalog.pinned}
    errors = []
    for name in sorted(set(update) - repos):
        close = nearest(name, repos)
        hint = f"; did you mean {close}?" if close else ""
        errors.append(f"--update {name}: no entry of the catalog has this repo{hint}")
    if errors:
        raise CatalogError(errors)


def _ask(
    asked: Sequence[Pinned], client_factory: ClientFactory, configs_of: ConfigsOf, progress: ProgressCallback
) -> list[RepoLock]:
    """Enumerate all that is asked about, a few at a time; raises CatalogError with every failure."""

    def one(dataset: Pinned) -> RepoLock | str:
        try:
            with client_factory(dataset) as client:
                return _enumerate(dataset, client, configs_of)
        except HfassetsError as error:
            return f"{dataset.repo}@{dataset.revision}: {error}"

    answers: list[RepoLock | str] = []
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="catalog-sync") as pool:
        for answer in pool.map(one, asked):
            answers.append(answer)
            progress(Progress("catalog sync", len(answers), len(asked), "repos"))
    failures = [answer for answer in answers if isinstance(answer, str)]
    if failures:
        raise CatalogError(failures)
    return [answer for answer in answers if isinstance(answer, RepoLock)]


def _enumerate(dataset: Pinned, client: Client, configs_of: ConfigsOf) -> RepoLock:
    commit = client.resolve_commit(dataset.repo, dataset.revision, dataset.repo_type)
    if isinstance(dataset, RepoPin):
        # Nothing of its files is read: those of a gated repo are closed to who may still plan with it.
        return RepoLock(
            repo=dataset.repo,
            revision=dataset.revision,
            commit=commit,
            configs=(),
            default_config=None,
            synced_at=_now(),
            repo_type=dataset.repo_type,
        )
    listing = client.list_files(dataset.repo, commit)
    metadata = {file.path: _read(client, listing, file) for file in listing.files if file.path in METADATA_FILES}
    configs = configs_of(listing, metadata)
    return RepoLock(
        repo=dataset.repo,
        revision=dataset.revision,
        commit=commit,
        configs=tuple(sorted(configs.names)),
        default_config=configs.default,
        synced_at=_now(),
    )


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _read(client: Client, listing: Listing, file: RepoFile) -> bytes:
    """A metadata file, proven against the listing."""
    content = client.read_file(listing.repo_id, listing.commit, file.path)
    digest = new_hash(file.algorithm, file.size)
    digest.update(content)
    if len(content) != file.size or digest.hexdigest() != file.etag:
        raise IntegrityError(f"{file.path} arrived damaged: its bytes are not those of {file.etag[:12]} in the listing")
    return content
