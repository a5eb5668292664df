"""The record of which catalog is in force and which keys it ever had.

Invariant: a record is one file, replaced atomically, so that sha and keys always belong together. It stores entries
of datasets as they were validated; these hold names of environment variables, never what is in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from hfassets.catalog.lock import DatasetPartition
from hfassets.catalog.models import Dataset
from hfassets.errors import CatalogError
from hfassets.storage.atomic import write_atomic

RECORD_VERSION = 1


class RecordError(CatalogError):
    """A record cannot be read: keys that only it knows are not known."""


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A partition as it was last accepted; `dataset` is the entry as JSON, validated only when it is needed."""

    dataset: Mapping[str, Any]
    config: str
    commit: str


@dataclass(frozen=True, slots=True)
class Record:
    """Which content is in force ("" = none yet) and every key known so far."""

    sha: str = ""
    keys: Mapping[str, KnownKey] = field(default_factory=dict)

    def accept(self, sha: str, current: Sequence[DatasetPartition]) -> Record:
        """The record after `current` came into force: its keys as they are now, then all others known."""
        entries: dict[int, Mapping[str, Any]] = {}
        keys: dict[str, KnownKey] = {}
        for one in current:
            if id(one.dataset) not in entries:
                entries[id(one.dataset)] = one.dataset.model_dump(mode="json", exclude_defaults=True)
            keys[one.key] = KnownKey(entries[id(one.dataset)], one.config, one.commit)
        return Record(sha, {**keys, **{key: known for key, known in self.keys.items() if key not in keys}})

    def retired(self, current: Sequence[DatasetPartition]) -> tuple[DatasetPartition, ...]:
        """Known partitions that are not in `current`, marked as retired; raises RecordError."""
        now = {one.key for one in current}
        gone = {key: known for key, known in self.keys.items() if key not in now}
        distinct = {id(known.dataset): known.dataset for known in gone.values()}
        try:
            entries = {place: Dataset.model_validate(entry) for place, entry in distinct.items()}
        except ValidationError as error:
            what = error.errors()[0]["msg"]
            raise RecordError([f"{len(gone)} retired keys cannot be read by this hfassets ({what})"]) from None
        return tuple(
            DatasetPartition(key, entries[id(known.dataset)], known.config, known.commit, retired=True)
            for key, known in gone.items()
        )


def write_record(path: Path, record: Record) -> None:
    """Write atomically. Datasets are stored once, keys as [place of the dataset, config, commit]."""
    places: dict[int, int] = {}
    datasets: list[Mapping[str, Any]] = []
    keys: dict[str, tuple[int, str, str]] = {}
    for key, known in record.keys.items():
        if id(known.dataset) not in places:
            places[id(known.dataset)] = len(datasets)
            datasets.append(known.dataset)
        keys[key] = (places[id(known.dataset)], known.config, known.commit)
    document = {"version": RECORD_VERSION, "sha": record.sha, "datasets": datasets, "keys": keys}
    write_atomic(path, orjson.dumps(document) + b"\n")


def read_record(path: Path) -> Record | None:
    """The record at `path`, None when there is none; raises RecordError for one that cannot be read."""
    try:
        document = orjson.loads(path.read_bytes())
        if document["version"] != RECORD_VERSION:
            raise ValueError(f"version {document['version']}, this hfassets reads {RECORD_VERSION}")
        datasets = document["datasets"]
        keys = {
            key: KnownKey(datasets[place], config, commit) for key, (place, config, commit) in document["keys"].items()
        }
        return Record(document["sha"], keys)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RecordError([f"{path}: cannot be read ({error.strerror})"]) from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        remedy = "remove it to forget the keys that only it knows"
        raise RecordError([f"{path}: not a record of accepted catalogs ({error}); {remedy}"]) from None
