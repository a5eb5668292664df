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

from hfassets.catalog.lock import DatasetPartition, Partition, ShardSetPartition
from hfassets.catalog.models import Dataset
from hfassets.catalog.shard_sets import ShardSet
from hfassets.errors import CatalogError
from hfassets.storage.atomic import write_atomic

RECORD_VERSION = 2


class RecordError(CatalogError):
    """A record cannot be read: keys that only it knows are not known."""


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A partition as it was last accepted; `entry` is that of the catalog as JSON, validated only when it is needed.

    `config` is None for a shard set.
    """

    entry: Mapping[str, Any]
    config: str | None
    commit: str


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
            entry = one.dataset if isinstance(one, DatasetPartition) else one.shard_set
            if id(entry) not in entries:
                entries[id(entry)] = entry.model_dump(mode="json", exclude_defaults=True)
            config = one.config if isinstance(one, DatasetPartition) else None
            keys[one.key] = KnownKey(entries[id(entry)], config, one.commit)
        return Record(sha, {**keys, **{key: known for key, known in self.keys.items() if key not in keys}})

    def retired(self, current: Sequence[Partition]) -> tuple[Partition, ...]:
        """Known partitions that are not in `current`, marked as retired; raises RecordError."""
        now = {one.key for one in current}
        gone = {key: known for key, known in self.keys.items() if key not in now}
        datasets = {id(known.entry): known.entry for known in gone.values() if known.config is not None}
        try:
            entries = {place: Dataset.model_validate(entry) for place, entry in datasets.items()}
            shard_sets = {
                key: ShardSet.model_validate(known.entry) for key, known in gone.items() if known.config is None
            }
        except ValidationError as error:
            what = error.errors()[0]["msg"]
            raise RecordError([f"{len(gone)} retired keys cannot be read by this hfassets ({what})"]) from None
        return tuple(
            ShardSetPartition(key, shard_sets[key], known.commit, retired=True)
            if known.config is None
            else DatasetPartition(key, entries[id(known.entry)], known.config, known.commit, retired=True)
            for key, known in gone.items()
        )


def write_record(path: Path, record: Record) -> None:
    """Write atomically. Entries are stored once, keys as [place of the entry, config, commit]."""
    places: dict[int, int] = {}
    entries: list[Mapping[str, Any]] = []
    keys: dict[str, tuple[int, str | None, str]] = {}
    for key, known in record.keys.items():
        if id(known.entry) not in places:
            places[id(known.entry)] = len(entries)
            entries.append(known.entry)
        keys[key] = (places[id(known.entry)], known.config, known.commit)
    document = {"version": RECORD_VERSION, "sha": record.sha, "entries": entries, "keys": keys}
    write_atomic(path, orjson.dumps(document) + b"\n")


def read_record(path: Path) -> Record | None:
    """The record at `path`, None when there is none; raises RecordError for one that cannot be read."""
    try:
        document = orjson.loads(path.read_bytes())
        if document["version"] not in (1, RECORD_VERSION):
            raise ValueError(f"version {document['version']}, this hfassets reads {RECORD_VERSION}")
        entries = document["datasets" if document["version"] == 1 else "entries"]
        keys = {
            key: KnownKey(entries[place], config, commit) for key, (place, config, commit) in document["keys"].items()
        }
        return Record(document["sha"], keys)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RecordError([f"{path}: cannot be read ({error.strerror})"]) from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        remedy = "remove it to forget the keys that only it knows"
        raise RecordError([f"{path}: not a record of accepted catalogs ({error}); {remedy}"]) from None
