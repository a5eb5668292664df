"""The re-verification ledger: when each partition was last proven, and what was found.

One file a partition, written only by the run that verified it. Every system that makes partitions registers here, so
that one sensor can re-verify all of them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from hfassets.storage.atomic import write_atomic
from hfassets.storage.state import file_name


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """The last verification of one partition. Times are Unix time in seconds, sizes bytes.

    `version` is what was verified (a commit, a fingerprint): of another version nothing is known.
    `damage` lists what is not as it should be as `path expected-hash`, sorted; empty = intact. `damage_size` is what a
    repair has to fetch. `damaged_since` is when this damage was first seen: it tells a new incident from an old one
    that was not repaired. `purged` says that so much is gone at once that a purge, not rot, is the likely cause.
    """

    verified_at: float
    version: str
    size: int
    damage: tuple[str, ...] = ()
    damage_size: int = 0
    damaged_since: float = 0.0
    purged: bool = False

    @property
    def damage_hash(self) -> str:
        """Identity of one incident of damage, 16 hex digits: the same files, seen damaged since the same moment."""
        return hashlib.sha256("\n".join([str(self.damaged_since), *self.damage]).encode()).hexdigest()[:16]


def record_intact(folder: Path, partition: str, version: str, size: int) -> LedgerEntry:
    """Record that a partition of `size` bytes was proven now."""
    return _write(folder, partition, LedgerEntry(time.time(), version, size))


def record_damage(
    folder: Path, partition: str, version: str, size: int, damage: Iterable[str], damage_size: int, *, purged: bool
) -> LedgerEntry:
    """Record what was found damaged now; an incident that was known already keeps the moment it was first seen."""
    now = time.time()
    known = read_entry(folder, partition)
    is_same = known is not None and bool(known.damage) and known.version == version
    since = known.damaged_since if known is not None and is_same else now
    return _write(folder, partition, LedgerEntry(now, version, size, tuple(sorted(damage)), damage_size, since, purged))


def _write(folder: Path, partition: str, entry: LedgerEntry) -> LedgerEntry:
    write_atomic(folder / f"{file_name(partition)}.json", orjson.dumps(asdict(entry)))
    return entry


def read_entry(folder: Path, partition: str) -> LedgerEntry | None:
    """The last outcome for a partition; None when it was never verified or its file is damaged (so: verify again)."""
    return _load(folder / f"{file_name(partition)}.json")


def read_entries(folder: Path, versions: Mapping[str, str]) -> Iterator[tuple[str, LedgerEntry | None]]:
    """Last outcomes for many partitions (partition → its present version), in their order.

    None for one that was never verified at that version: a proof of an older commit says nothing about a newer one.
    """
    present = {path.stem for path in folder.glob("*.json")} if folder.is_dir() else set()
    for partition, version in versions.items():
        entry = read_entry(folder, partition) if file_name(partition) in present else None
        yield partition, entry if entry is not None and entry.version == version else None


def _load(path: Path) -> LedgerEntry | None:
    try:
        document = orjson.loads(path.read_bytes())
        document["damage"] = tuple(document["damage"])
        return LedgerEntry(**document)
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
