"""How far the file of a source has grown, so that a killed run goes on where it was.

Invariant: a checkpoint is written only when the bytes it tells of are on disk; what the file has beyond them does not
count. `sha256` is of exactly those bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from hfassets.distillation.account import Account
from hfassets.distillation.rows import Cursor
from hfassets.storage.atomic import write_atomic


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A place in the work on one file.

    `steps`: how many rows were asked for, each time the file was made longer. `stretches`: from where to where rows
    with long prompts were passed over and not come back to yet; no end = to the end of the source. `exhausted`: the
    source has no more rows but these. `complete`: nothing is left to do but to publish. `sources`: the files that were
    read, and whether each was read whole and proven, or in part.
    """

    stream: str
    steps: tuple[int, ...]
    cursor: Cursor
    size: int = 0
    rows: int = 0
    sha256: str = ""
    account: Account = field(default_factory=Account)
    stretches: tuple[tuple[Cursor, Cursor | None], ...] = ()
    exhausted: bool = False
    complete: bool = False
    sources: tuple[Mapping[str, Any], ...] = ()

    @property
    def quota(self) -> int:
        """How many rows are asked for."""
        return self.steps[-1]

    @property
    def short_until(self) -> int:
        """How many rows there are when the phase of short prompts ends: half of each step, rounded up."""
        before = self.steps[-2] if len(self.steps) > 1 else 0
        return before + -(-self.quota // 2) - -(-before // 2)

    def grown(self, quota: int, *, keep_steps: bool) -> Checkpoint:
        """The same place in the work on a longer file."""
        steps = (*self.steps, quota) if keep_steps and self.rows else (quota,)
        return replace(self, steps=steps, complete=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "stream": self.stream,
            "steps": list(self.steps),
            "cursor": self.cursor.to_json(),
            "size": self.size,
            "rows": self.rows,
            "sha256": self.sha256,
            "account": self.account.to_dict(),
            "stretches": [[begin.to_json(), None if end is None else end.to_json()] for begin, end in self.stretches],
            "exhausted": self.exhausted,
            "complete": self.complete,
            "sources": list(self.sources),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Checkpoint:
        """What `to_dict` gave."""
        stretches = tuple(
            (Cursor.from_json(begin), None if end is None else Cursor.from_json(end))
            for begin, end in document["stretches"]
        )
        return cls(
            **{
                **document,
                "steps": tuple(document["steps"]),
                "cursor": Cursor.from_json(document["cursor"]),
                "account": Account.from_dict(document["account"]),
                "stretches": stretches,
                "sources": tuple(document["sources"]),
            }
        )


def write_checkpoint(path: Path, now: Checkpoint, safe: Checkpoint | None) -> None:
    """Write atomically; `safe` is the place to go back to should the source file being read prove damaged."""
    document = {"now": now.to_dict(), "safe": None if safe is None else safe.to_dict()}
    write_atomic(path, orjson.dumps(document) + b"\n")


def read_checkpoint(path: Path) -> tuple[Checkpoint, Checkpoint | None] | None:
    """What `write_checkpoint` wrote; None when there is none, or none that can be read: the work starts over then."""
    try:
        document = orjson.loads(path.read_bytes())
        safe = document["safe"]
        return Checkpoint.from_dict(document["now"]), None if safe is None else Checkpoint.from_dict(safe)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
