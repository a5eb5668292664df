"""The record of which catalog is in force and which keys it ever had.

Invariant: a record is one file, replaced atomically, so that sha and keys always belong together. It stores entries
of the catalog as they were validated; these hold names of environment variables, never what is in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from hfassets.catalog.lock import (
    DatasetPartition,
    MixPartition,
    MixturePartition,
    Partition,
    RecipePartition,
    ShardSetPartition,
    StagingPartition,
)
from hfassets.catalog.mixes import Mix
from hfassets.catalog.models import Dataset
from hfassets.catalog.recipes import ExtensionRecipe, Mixture, Recipe
from hfassets.catalog.shard_sets import ShardSet
from hfassets.catalog.staging import StagingRecipe
from hfassets.errors import CatalogError
from hfassets.storage.atomic import write_atomic

RECORD_VERSION = 3
DATASETS, C4, DISTILLATION = "datasets", "c4", "distillation"
MDS, MIXTURES, EXTENSIONS, STAGING = "mds", "mixtures", "extensions", "staging"
Entry = Dataset | ShardSet | Mix | Recipe | Mixture | ExtensionRecipe | StagingRecipe


class RecordError(CatalogError):
    """A record cannot be read: keys that only it knows are not known."""


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A partition as it was last accepted; `entry` is that of the catalog as JSON, validated only when it is needed.

    `kind`: which section it is of. `config`: of a dataset; for a mix its source.
    """

    entry: Mapping[str, Any]
    config: str | None
    commit: str
    kind: str


@dataclass(frozen=True, slots=True)
class Record:
    """Which content is in force ("" = none yet) and every key known so far."""

    sha: str = ""
    keys: Mapping[str, KnownKey] = field(default_factory=dict)

    def accept(self, sha: str, current: Sequence[Partition]) -> Record:
        """The record after `current` came into force: its keys as they are now, then all others known."""
        entries: dict[int, Mapping[str, Any]] = {}
        keys: dict[str, KnownKey] = {}
        for one in current:
            kind, entry, config = _parts(one)
            if id(entry) not in entries:
                entries[id(entry)] = _dumped(one)
            keys[one.key] = KnownKey(entries[id(entry)], config, one.commit, kind)
        return Record(sha, {**keys, **{key: known for key, known in self.keys.items() if key not in keys}})

    def retired(self, current: Sequence[Partition]) -> tuple[Partition, ...]:
        """Known partitions that are not in `current`, marked as retired; raises RecordError."""
        now = {one.key for one in current}
        gone = {key: known for key, known in self.keys.items() if key not in now}
        try:
            # Entries are shared by many keys, and validating one takes time.
            entries = {id(known.entry): _validated(known) for known in gone.values()}
        except (ValidationError, KeyError) as error:
            what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else f"no {error}"
            raise RecordError([f"{len(gone)} retired keys cannot be read by this hfassets ({what})"]) from None
        return tuple(_retired(key, known, entries[id(known.entry)]) for key, known in gone.items())


def _parts(one: Partition) -> tuple[str, Entry, str | None]:
    """Kind, entry and config (or source) of a partition."""
    if isinstance(one, DatasetPartition):
        return DATASETS, one.dataset, one.config
    if isinstance(one, ShardSetPartition):
        return C4, one.shard_set, None
    if isinstance(one, RecipePartition):
        return MDS, one.recipe, None
    if isinstance(one, MixturePartition):
        return MIXTURES if isinstance(one.entry, Mixture) else EXTENSIONS, one.entry, None
    if isinstance(one, StagingPartition):
        return STAGING, one.recipe, None
    return DISTILLATION, one.mix, one.source


def _dumped(one: Partition) -> Mapping[str, Any]:
    if isinstance(one, MixPartition):
        # In full: what is as the default of a field may be other than what the built-in mix says.
        pins = {"commits": dict(one.commits), "models": dict(one.models)}
        return {"mix": one.mix.model_dump(mode="json"), **pins}
    if isinstance(one, RecipePartition):
        return {"recipe": one.recipe.model_dump(mode="json"), "tokenizer": one.tokenizer_commit}
    if isinstance(one, MixturePartition):
        members = {
            name: {"recipe": of.recipe.model_dump(mode="json"), "commit": of.commit, "tokenizer": of.tokenizer_commit}
            for name, of in one.members.items()
        }
        return {"entry": one.entry.model_dump(mode="json"), "members": members}
    if isinstance(one, StagingPartition):
        of = one.dataset
        dataset = None if of is None else [of.key, of.dataset.model_dump(mode="json"), of.config, of.commit]
        return {"recipe": one.recipe.model_dump(mode="json"), "tokenizer": one.tokenizer_commit, "dataset": dataset}
    return _parts(one)[1].model_dump(mode="json", exclude_defaults=True)


def _validated(known: KnownKey) -> Entry:
    if known.kind == DISTILLATION:
        return Mix.model_validate(known.entry["mix"])
    if known.kind == MDS:
        return Recipe.model_validate(known.entry["recipe"])
    if known.kind == STAGING:
        return StagingRecipe.model_validate(known.entry["recipe"])
    if known.kind in (MIXTURES, EXTENSIONS):
        return (Mixture if known.kind == MIXTURES else ExtensionRecipe).model_validate(known.entry["entry"])
    return (Dataset if known.kind == DATASETS else ShardSet).model_validate(known.entry)


def _retired(key: str, known: KnownKey, entry: Entry) -> Partition:
    if isinstance(entry, Recipe):
        return RecipePartition(key, entry, known.commit, known.entry["tokenizer"], retired=True)
    if isinstance(entry, Mixture | ExtensionRecipe):
        members = {
            name: RecipePartition(name, Recipe.model_validate(of["recipe"]), of["commit"], of["tokenizer"])
            for name, of in known.entry["members"].items()
        }
        return MixturePartition(key, entry, members, retired=True)
    if isinstance(entry, StagingRecipe):
        of = known.entry["dataset"]
        dataset = None if of is None else DatasetPartition(of[0], Dataset.model_validate(of[1]), of[2], of[3])
        return StagingPartition(key, entry, dataset, known.entry["tokenizer"], retired=True)
    if isinstance(entry, Mix):
        # Records of before there were other models name the curriculum's tokenizer alone.
        tokenizer = known.entry.get("tokenizer")
        models = known.entry.get("models", {} if tokenizer is None else {"curriculum": tokenizer})
        return MixPartition(key, entry, known.config or "", known.entry["commits"], models, retired=True)
    if isinstance(entry, Dataset):
        return DatasetPartition(key, entry, known.config or "", known.commit, retired=True)
    return ShardSetPartition(key, entry, known.commit, retired=True)


def write_record(path: Path, record: Record) -> None:
    """Write atomically. Entries are stored once, keys as [place of the entry, config, commit, kind]."""
    places: dict[int, int] = {}
    entries: list[Mapping[str, Any]] = []
    keys: dict[str, tuple[int, str | None, str, str]] = {}
    for key, known in record.keys.items():
        if id(known.entry) not in places:
            places[id(known.entry)] = len(entries)
            entries.append(known.entry)
        keys[key] = (places[id(known.entry)], known.config, known.commit, known.kind)
    document = {"version": RECORD_VERSION, "sha": record.sha, "entries": entries, "keys": keys}
    write_atomic(path, orjson.dumps(document) + b"\n")


def read_record(path: Path) -> Record | None:
    """The record at `path`, None when there is none; raises RecordError for one that cannot be read."""
    try:
        document = orjson.loads(path.read_bytes())
        if document["version"] not in range(1, RECORD_VERSION + 1):
            raise ValueError(f"version {document['version']}, this hfassets reads {RECORD_VERSION}")
        entries = document["datasets" if document["version"] == 1 else "entries"]
        keys = {
            key: KnownKey(entries[place], config, commit, kind[0] if kind else C4 if config is None else DATASETS)
            for key, (place, config, commit, *kind) in document["keys"].items()
        }
        return Record(document["sha"], keys)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RecordError([f"{path}: cannot be read ({error.strerror})"]) from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        remedy = "remove it to forget the keys that only it knows"
        raise RecordError([f"{path}: not a record of accepted catalogs ({error}); {remedy}"]) from None
