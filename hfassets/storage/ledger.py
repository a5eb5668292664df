"""The re-verification ledger: when each partition was last proven, and what was found.

One file a partition, written only by the run that verified it. Every system that makes partitions registers here, so
that one sensor can re-verify all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from hfassets.storage.atomic import write_atomic
from hfassets.storage.state import file_name


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """The last verification of one partition. `verified_at` is Unix time in seconds; `size` is bytes.

    `damage` lists what is not as it should be as `path expected-hash`, sorted; empty = intact. `purged` says that so
    much is gone at once that a purge, not rot, is the likely cause.
    """

    verified_at: float
    size: int
    damage: tuple[str, ...] = ()
    purged: bool = False

    @property
    def damage_hash(self) -> str:
        """Identity of the damage: the same files expected with the same hashes give the same value, 16 hex digits."""
        return hashlib.sha256("\n".join(self.damage).encode()).hexdigest()[:16]


def write_entry(folder: Path, partition: str, entry: LedgerEntry) -> None:
    """Record the outcome of a verification."""
    write_atomic(folder / f"{file_name(partition)}.json", orjson.dumps(asdict(entry)))


def read_entry(folder: Path, partition: str) -> LedgerEntry | None:
    """The last outcome for a partition; None when it was never verified or its file is damaged (so: verify again)."""
    return _load(folder / f"{file_name(partition)}.json")


def read_entries(folder: Path, partitions: Iterable[str]) -> Iterator[tuple[str, LedgerEntry | None]]:
    """Last outcomes for many partitions, in the order given."""
    present = {path.stem for path in folder.glob("*.json")} if folder.is_dir() else set()
    for partition in partitions:
        yield partition, read_entry(folder, partition) if file_name(partition) in present else None


def _load(path: Path) -> LedgerEntry | None:
    try:
        document = orjson.loads(path.read_bytes())
        document["damage"] = tuple(document["damage"])
        return LedgerEntry(**document)
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
