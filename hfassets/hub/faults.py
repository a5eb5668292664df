"""What a verification found, as frozen values for people, for `--json` and for the ledger."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CORRUPT = "corrupt"
"""The bytes are not those the hash is of."""
TRUNCATED = "truncated"
"""The same, and the file is shorter than it must be."""
MISSING = "missing"
"""A link, or the commit's own list, needs a file that is not there."""
DANGLING = "dangling"
"""A blob is itself a link, and leads nowhere."""
WRONG_LINK = "wrong-link"
"""A link leads to another file's blob."""
FOREIGN_LINK = "foreign-link"
"""A link leads out of its repo's blobs."""
NOT_A_FILE = "not-a-file"
"""A folder, pipe or device where a file belongs."""
LEFTOVER = "leftover"
"""A download that was broken off and that nobody is working on."""
UNREADABLE = "unreadable"
"""It cannot be read, so nothing is known about it."""
BAD_REF = "bad-ref"
"""A ref does not name a commit."""
BAD_TREE = "bad-tree"
"""A stored tree listing cannot be used."""

_PURGE_FILES = 10
_PURGE_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. `commit` and `path` are the first of `links`, the (commit, path) pairs that need it."""

    kind: str
    repo_id: str
    repo_type: str
    commit: str | None
    path: str | None
    file: Path
    expected: str | None
    detail: str
    hub_cache: Path
    links: tuple[tuple[str, str], ...] = ()
    identity: tuple[int, ...] = ()
    """Which file was found different; what has taken its place since is not meant."""

    def __str__(self) -> str:
        where = f" ({self.path} at {self.commit[:12]})" if self.path and self.commit else ""
        return f"{self.kind}: {self.repo_id}: {self.file}{where}: {self.detail}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "kind": self.kind,
            "repo_id": self.repo_id,
            "repo_type": self.repo_type,
            "commit": self.commit,
            "path": printable(self.path),
            "file": printable(self.file),
            "expected": self.expected,
            "detail": printable(self.detail),
            "links": [{"commit": commit, "path": printable(path)} for commit, path in self.links],
        }


@dataclass(frozen=True, slots=True)
class Unverifiable:
    """A file about which nothing can be said, and why; neither intact nor a fault. `size` in bytes."""

    repo_id: str
    repo_type: str
    file: Path
    size: int
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "repo_id": self.repo_id,
            "repo_type": self.repo_type,
            "file": printable(self.file),
            "size": self.size,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The outcome of one verification.

    `checked` files were read now (`bytes_read` bytes of them), `remembered` ones were proven before and have not
    changed since; `bytes_proven` counts both. `not_downloaded` files are listed by a commit and were never asked for.
    `purged` names repos of which so much is gone at once that a purge, not rot, is the likely cause.
    """

    repo_ids: tuple[str, ...] = ()
    checked: int = 0
    remembered: int = 0
    bytes_read: int = 0
    bytes_proven: int = 0
    faults: tuple[Fault, ...] = ()
    unverifiable: tuple[Unverifiable, ...] = ()
    in_progress: tuple[Path, ...] = ()
    not_downloaded: int = 0
    purged: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    seconds: float = 0.0
    hub_caches: tuple[Path, ...] = field(default=())

    @property
    def intact(self) -> bool:
        """Whether nothing at all is wrong with what could be proven."""
        return not self.faults

    @property
    def kinds(self) -> dict[str, int]:
        """How many faults there are of each kind."""
        return dict(Counter(fault.kind for fault in self.faults))

    @property
    def damage(self) -> tuple[str, ...]:
        """The faults as the ledger keeps them: `path expected-hash`, sorted, each once."""
        lines = {f"{printable(fault.path or fault.file.name)} {fault.expected or fault.kind}" for fault in self.faults}
        return tuple(sorted(lines))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "intact": self.intact,
            "hub_caches": [printable(path) for path in self.hub_caches],
            "repos": list(self.repo_ids),
            "checked": self.checked,
            "remembered": self.remembered,
            "bytes_read": self.bytes_read,
            "bytes_proven": self.bytes_proven,
            "faults": [fault.to_dict() for fault in self.faults],
            "kinds": self.kinds,
            "unverifiable": [entry.to_dict() for entry in self.unverifiable],
            "in_progress": [printable(path) for path in self.in_progress],
            "not_downloaded": self.not_downloaded,
            "purged": list(self.purged),
            "notices": list(self.notices),
            "seconds": round(self.seconds, 3),
        }


def is_purge(gone: int, total: int) -> bool:
    """Whether `gone` of `total` files look like a purge: at least ten, and at least half."""
    return gone >= _PURGE_FILES and gone >= _PURGE_SHARE * total


def printable(text: str | Path | None) -> str | None:
    """Text that can be printed and become JSON, whatever bytes a file name is made of."""
    return None if text is None else str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
