"""What of a shard set is done, written down part by part, so that a killed run costs no finished part.

Invariant: a part stands in the journal only after its file is complete under its name, and is called stored only after
its object was proven. One process writes (the holder of the shard set's lease); a torn last line counts as not there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from hfassets.c4.account import Account
from hfassets.storage.atomic import write_atomic


class Position(NamedTuple):
    """A place in the sources: index of the file in the split, and line in it (both from 0)."""

    file: int
    line: int


@dataclass(frozen=True, slots=True)
class SourceRange:
    """Lines `first` to `end` (excluded) of a source file; `rows` of them became rows."""

    path: str
    first: int
    end: int
    rows: int


@dataclass(frozen=True, slots=True)
class Part:
    """A finished part: file name, bytes, SHA-256, rows, where in the sources it begins and ends.

    `stored`: it was proven to be in S3, where it has this `checksum` (see `hfassets.storage.s3`).
    """

    index: int
    name: str
    size: int
    sha256: str
    rows: int
    begin: Position
    end: Position
    sources: Sequence[SourceRange]
    account: Account
    checksum: str = ""
    stored: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "index": self.index,
            "name": self.name,
            "size": self.size,
            "sha256": self.sha256,
            "rows": self.rows,
            "begin": list(self.begin),
            "end": list(self.end),
            "sources": [[one.path, one.first, one.end, one.rows] for one in self.sources],
            "account": self.account.to_dict(),
            "checksum": self.checksum,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Part:
        """What `to_dict` gave."""
        return cls(
            **{
                **document,
                "begin": Position(*document["begin"]),
                "end": Position(*document["end"]),
                "sources": tuple(SourceRange(*one) for one in document["sources"]),
                "account": Account.from_dict(document["account"]),
            }
        )


@dataclass
class Journal:
    """The journal of one shard set at `path`.

    `fingerprint`: of what the parts belong to. `ours`: names that this shard set has published, or has begun to
    publish, at its destination: these may be replaced.
    """

    path: Path
    fingerprint: str
    ours: set[str] = field(default_factory=set)
    parts: dict[int, Part] = field(default_factory=dict)
    _current: str = field(default="", repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def open(cls, path: Path, fingerprint: str, ours: Iterable[str]) -> Journal:
        """The journal at `path`; parts of another fingerprint are forgotten, their names are not."""
        journal = cls.read(path, fingerprint)
        journal.ours |= set(ours)
        journal._rewrite()
        return journal

    @classmethod
    def read(cls, path: Path, fingerprint: str) -> Journal:
        """What the journal at `path` says; nothing is written."""
        journal = cls(path, fingerprint)
        for entry in _lines(path):
            journal._take(entry)
        return journal

    def begin(self, name: str) -> None:
        """Note that a part is about to appear under a name."""
        if name not in self.ours:
            self._append({"ours": name})

    def add(self, part: Part) -> None:
        """Note a finished part."""
        self._append({"part": part.to_dict()})

    def store(self, index: int, checksum: str) -> None:
        """Note that a part was proven at its destination."""
        self._append({"stored": index, "checksum": checksum})

    def drop(self, indexes: Iterable[int]) -> None:
        """Forget parts: they are to be made again."""
        for index in indexes:
            self.parts.pop(index, None)
        self._rewrite()

    def unstore(self, index: int) -> None:
        """Note that a part is at its destination no longer."""
        self.parts[index] = replace(self.parts[index], stored=False)
        self._rewrite()

    def remove(self) -> None:
        """The shard set is done."""
        self.path.unlink(missing_ok=True)

    def _take(self, entry: Mapping[str, Any]) -> None:
        if "fingerprint" in entry:
            if entry["fingerprint"] != self.fingerprint:
                self.parts.clear()
            self._current = entry["fingerprint"]
        elif "ours" in entry:
            self.ours.add(entry["ours"])
        elif "part" in entry:
            part = Part.from_dict(entry["part"])
            self.ours.add(part.name)
            if self._current == self.fingerprint:
                self.parts[part.index] = part
        elif "stored" in entry and entry["stored"] in self.parts:
            part = self.parts[entry["stored"]]
            self.parts[part.index] = replace(part, stored=True, checksum=entry["checksum"])

    def _append(self, entry: Mapping[str, Any]) -> None:
        with self._lock, self.path.open("ab") as file:
            self._current = self.fingerprint
            self._take(entry)
            file.write(orjson.dumps(entry) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _rewrite(self) -> None:
        entries: list[dict[str, Any]] = [{"fingerprint": self.fingerprint}]
        entries += [{"ours": name} for name in sorted(self.ours)]
        for part in self.parts.values():
            entries.append({"part": part.to_dict()})
            entries += [{"stored": part.index, "checksum": part.checksum}] if part.stored else []
        write_atomic(self.path, b"".join(orjson.dumps(entry) + b"\n" for entry in entries))


def _lines(path: Path) -> Iterable[Mapping[str, Any]]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    for line in data.split(b"\n"):
        try:
            entry = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(entry, dict):
            yield entry
