"""`catalog.lock`: what the network said, and the partitions that follow from it and the catalog.

Invariant: one pinned commit per (repo, revision); only `hfassets catalog sync` writes it. The file is JSON, sorted by
repo and revision, one config a line, so that a diff shows what changed. Partitions come in the catalog's order, those
of one dataset in the order of its `configs`, else sorted by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from pydantic import Field, ValidationError

from hfassets.catalog.document import Keys, dotted
from hfassets.catalog.fields import RANGE, Model, is_plain
from hfassets.catalog.load import nearest
from hfassets.catalog.mixes import Mix, RepoPin
from hfassets.catalog.models import Catalog, Dataset
from hfassets.catalog.recipes import ExtensionRecipe, Mixture, Recipe
from hfassets.catalog.shard_sets import ShardSet
from hfassets.catalog.staging import StagingRecipe
from hfassets.errors import CatalogError
from hfassets.storage.atomic import write_atomic

LOCK_VERSION = 1


class RepoLock(Model):
    """What one repo held at one revision when it was synced; `synced_at` is UTC in ISO 8601."""

    repo: str
    revision: str
    commit: str = Field(pattern=r"^[0-9a-f]{40}\z")
    configs: tuple[str, ...]
    default_config: str | None
    synced_at: str
    repo_type: str = "dataset"


class _LockFile(Model):
    lock_version: int
    repos: tuple[RepoLock, ...]


@dataclass(frozen=True, slots=True)
class Lock:
    """All pinned repos, sorted by (repo, revision)."""

    repos: tuple[RepoLock, ...] = ()
    _by_key: dict[tuple[str, str, str], RepoLock] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.repos, key=lambda one: (one.repo, one.revision, one.repo_type)))
        object.__setattr__(self, "repos", ordered)
        object.__setattr__(self, "_by_key", {(one.repo, one.revision, one.repo_type): one for one in ordered})

    def find(self, repo: str, revision: str, repo_type: str = "dataset") -> RepoLock | None:
        """What is pinned for a repo at a revision, None before its first sync."""
        return self._by_key.get((repo, revision, repo_type))

    def answers(self, entry: Dataset | ShardSet | RepoPin) -> bool:
        """Whether all is known that an entry needs: its commit, and unless that is enough, its configs."""
        found = self.find(entry.repo, entry.revision, entry.repo_type)
        return found is not None and (isinstance(entry, RepoPin) or bool(found.configs))


@dataclass(frozen=True, slots=True)
class DatasetPartition:
    """One partition: a dataset's config at its pinned commit. A retired one is no longer in the catalog."""

    key: str
    dataset: Dataset
    config: str
    commit: str
    retired: bool = False


@dataclass(frozen=True, slots=True)
class ShardSetPartition:
    """One partition: a C4 shard set at its pinned commit. A retired one is no longer in the catalog."""

    key: str
    shard_set: ShardSet
    commit: str
    retired: bool = False


@dataclass(frozen=True, slots=True)
class MixPartition:
    """One partition: the file of a source of a distillation mix. `commits`: of all its sources, by name; `models`: of
    its model repos, by what for, see `Mix.models`.

    A retired one is no longer in the catalog.
    """

    key: str
    mix: Mix
    source: str
    commits: Mapping[str, str]
    models: Mapping[str, str]
    retired: bool = False

    @property
    def tokenizer_commit(self) -> str | None:
        """The pinned commit of the curriculum's tokenizer; None without one."""
        return self.models.get("curriculum")

    @property
    def commit(self) -> str:
        """The pinned commit of the source's repo."""
        return self.commits[self.source]


@dataclass(frozen=True, slots=True)
class RecipePartition:
    """One partition: an MDS recipe with the pinned commits of its source and its tokenizer, "" for what is here.

    A retired one is no longer in the catalog.
    """

    key: str
    recipe: Recipe
    commit: str
    tokenizer_commit: str
    retired: bool = False


@dataclass(frozen=True, slots=True)
class MixturePartition:
    """One partition: a mixture or a context extension of recipes; `members` are their partitions, by name.

    A retired one is no longer in the catalog.
    """

    key: str
    entry: Mixture | ExtensionRecipe
    members: Mapping[str, RecipePartition]
    retired: bool = False

    @property
    def commit(self) -> str:
        """It has no repo of its own."""
        return ""


@dataclass(frozen=True, slots=True)
class StagingPartition:
    """One partition: a staging recipe with its dataset config, None for a mirror, and its tokenizer's pinned commit.

    A retired one is no longer in the catalog.
    """

    key: str
    recipe: StagingRecipe
    dataset: DatasetPartition | None
    tokenizer_commit: str
    retired: bool = False

    @property
    def commit(self) -> str:
        """The pinned commit of its dataset, "" for a mirror."""
        return "" if self.dataset is None else self.dataset.commit


Partition = DatasetPartition | ShardSetPartition | MixPartition | RecipePartition | MixturePartition | StagingPartition


def lock_path(catalog: Path) -> Path:
    """`catalog.lock` beside `catalog.yaml`."""
    return catalog.with_suffix(".lock")


def read_lock(path: Path) -> Lock:
    """The lock at `path`, empty when there is none yet; raises CatalogError when it is not as sync wrote it."""
    return parse_lock(read_lock_bytes(path), path)


def read_lock_bytes(path: Path) -> bytes | None:
    """The file's content, None when there is none; raises CatalogError when it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CatalogError([f"{path}: cannot be read ({error.strerror})"]) from None


def parse_lock(content: bytes | None, path: Path) -> Lock:
    """Validate the content of a lock; `path` is for messages."""
    if content is None:
        return Lock()
    remedy = "restore it from version control, or remove it and run `hfassets catalog sync`"
    try:
        file = _LockFile.model_validate(orjson.loads(content))
    except orjson.JSONDecodeError as error:
        conflict = " (an unresolved merge)" if b"<<<<<<<" in content else ""
        raise CatalogError([f"{path}:{error.lineno}: not JSON{conflict}; {remedy}"]) from None
    except ValidationError as error:
        places = (dotted(one["loc"]) or "the file" for one in error.errors(include_url=False))
        raise CatalogError([f"{path} {place}: not as sync writes it; {remedy}" for place in places]) from None
    if file.lock_version != LOCK_VERSION:
        raise CatalogError([f"{path}: lock version {file.lock_version}, this hfassets reads {LOCK_VERSION}; {remedy}"])
    lock = Lock(file.repos)
    if len({(one.repo, one.revision, one.repo_type) for one in file.repos}) < len(file.repos):
        raise CatalogError([f"{path}: names a repo and revision twice; {remedy}"])
    return lock


def dump_lock(lock: Lock) -> bytes:
    """The file's content: equal locks give equal bytes."""
    file = _LockFile(lock_version=LOCK_VERSION, repos=lock.repos)
    return orjson.dumps(file.model_dump(exclude_defaults=True), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def write_lock(path: Path, lock: Lock) -> None:
    """Write atomically."""
    write_atomic(path, dump_lock(lock))


def partitions(catalog: Catalog, lock: Lock) -> tuple[Partition, ...]:
    """All partitions, datasets' first; entries whose repo is not in the lock have none yet."""
    datasets = tuple(
        DatasetPartition(f"{dataset.name}:{config}", dataset, config, pinned.commit)
        for dataset in catalog.datasets
        if (pinned := lock.find(dataset.repo, dataset.revision)) is not None
        for config in (pinned.configs if dataset.configs is None else dataset.configs)
    )
    shard_sets = tuple(
        ShardSetPartition(one.name, one, pinned.commit)
        for one in catalog.c4
        if (pinned := lock.find(one.repo, one.revision)) is not None
    )
    mixes = tuple(one for mix in catalog.distillation for one in _mix_partitions(mix, lock))
    recipes = tuple(_recipe_partition(recipe, lock) for recipe in catalog.mds if all(map(lock.answers, recipe.pins)))
    by_name = {one.key: one for one in recipes}
    named: list[tuple[Mixture | ExtensionRecipe, Mapping[str, float]]] = [
        *((one, one.members) for one in catalog.mixtures),
        *((one, one.domains) for one in catalog.extensions),
    ]
    sets = tuple(
        MixturePartition(entry.name, entry, {name: by_name[name] for name in names})
        for entry, names in named
        if all(name in by_name for name in names)
    )
    staging = (_staging_partition(recipe, catalog, lock) for recipe in catalog.staging)
    return (*datasets, *shard_sets, *mixes, *recipes, *sets, *(one for one in staging if one is not None))


def _staging_partition(recipe: StagingRecipe, catalog: Catalog, lock: Lock) -> StagingPartition | None:
    """None as long as the lock does not have all that it needs."""
    if not all(map(lock.answers, recipe.pins)):
        return None
    of = recipe.tokenizer
    pinned = None if of is None or of.repo is None else lock.find(of.repo, of.revision, "model")
    commit = "" if pinned is None else pinned.commit
    dataset = next((one for one in catalog.datasets if one.name == recipe.source.dataset), None)
    if dataset is None:
        return StagingPartition(recipe.name, recipe, None, commit)
    found = lock.find(dataset.repo, dataset.revision)
    config = None if found is None else staged_config(recipe, dataset, found)
    if found is None or config is None:
        return None
    part = DatasetPartition(f"{dataset.name}:{config}", dataset, config, found.commit)
    return StagingPartition(recipe.name, recipe, part, commit)


def staged_config(recipe: StagingRecipe, dataset: Dataset, pinned: RepoLock) -> str | None:
    """The config that a recipe is made from: the one it names, else the only one, else the default one."""
    known = dataset.configs or pinned.configs
    if recipe.source.config is not None:
        return recipe.source.config if recipe.source.config in known else None
    if len(known) == 1:
        return known[0]
    return pinned.default_config if pinned.default_config in known else None


def _recipe_partition(recipe: Recipe, lock: Lock) -> RecipePartition:
    source, of = recipe.source, recipe.tokenizer
    found = None if source.repo is None else lock.find(source.repo, source.revision)
    tokenizer = None if of.repo is None else lock.find(of.repo, of.revision, "model")
    commit, of_tokenizer = ("" if one is None else one.commit for one in (found, tokenizer))
    return RecipePartition(recipe.name, recipe, commit, of_tokenizer)


def _mix_partitions(mix: Mix, lock: Lock) -> Iterator[MixPartition]:
    if all(lock.answers(pin) for pin in mix.pins):
        pinned = {name: lock.find(source.hf_path, source.revision) for name, source in mix.enabled.items()}
        commits = {name: one.commit for name, one in pinned.items() if one is not None}
        found = {name: lock.find(pin.repo, pin.revision, "model") for name, pin in mix.models.items()}
        models = {name: one.commit for name, one in found.items() if one is not None}
        for name, source in mix.enabled.items():
            yield MixPartition(f"{mix.name}/{source.category}/{name}", mix, name, commits, models)


def unsynced(catalog: Catalog, lock: Lock) -> tuple[Dataset | ShardSet | RepoPin, ...]:
    """Entries of the catalog whose repo the lock does not know, in order."""
    return tuple(one for one in catalog.pinned if not lock.answers(one))


def config_errors(catalog: Catalog, lock: Lock) -> Iterator[tuple[Keys, str]]:
    """Configs that the catalog names and the pinned commit does not have, and those that cannot be partition keys."""
    for index, dataset in enumerate(catalog.datasets):
        pinned = lock.find(dataset.repo, dataset.revision)
        if pinned is None:
            continue
        if not pinned.configs:
            continue
        known = frozenset(pinned.configs)
        for position, config in enumerate(dataset.configs or ()):
            if config not in known:
                where = f"{dataset.repo} at commit {pinned.commit[:12]}"
                text = f"{where} has no config {config!r}; {_have(config, pinned.configs)}"
                yield ("datasets", index, "configs", position), text
        for config in dataset.configs or pinned.configs:
            refused = _key_error(f"{dataset.name}:{config}")
            if refused:
                yield ("datasets", index), refused
    for index, shard_set in enumerate(catalog.c4):
        pinned = lock.find(shard_set.repo, shard_set.revision)
        if pinned is not None and shard_set.config is not None and shard_set.config not in pinned.configs:
            where = f"{shard_set.repo} at commit {pinned.commit[:12]}"
            text = f"{where} has no config {shard_set.config!r}; {_have(shard_set.config, pinned.configs)}"
            yield ("c4", index, "config"), text
    yield from _staging_errors(catalog, lock)


def _staging_errors(catalog: Catalog, lock: Lock) -> Iterator[tuple[Keys, str]]:
    by_name = {dataset.name: dataset for dataset in catalog.datasets}
    for index, recipe in enumerate(catalog.staging):
        dataset = by_name.get(recipe.source.dataset or "")
        pinned = None if dataset is None else lock.find(dataset.repo, dataset.revision)
        if dataset is None or pinned is None or staged_config(recipe, dataset, pinned) is not None:
            continue
        config, known = recipe.source.config, dataset.configs or pinned.configs
        if config is None:
            yield ("staging", index, "source"), f"{dataset.name} has several configs; {_have('', known)}: name one"
        else:
            text = f"{dataset.name} has no config {config!r} in this catalog; {_have(config, known)}"
            yield ("staging", index, "source", "config"), text


def _have(config: str, known: Iterable[str]) -> str:
    close = nearest(config, known)
    if close:
        return f"did you mean {close!r}?"
    names = list(known)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"it has {', '.join(names[:10])}{more}"


def _key_error(key: str) -> str | None:
    """Why a partition key cannot be one, None when it can."""
    if RANGE in key or not is_plain(key):
        return f"the partition key {key!r} has {RANGE} or control characters; name in `configs` the ones to take"
    return None
