"""What the verifier has seen intact: (path, size, mtime, inode) -> hash, per cache and repo.

Invariant: an answer is given only for a file whose size, modification time (ns) and inode are those it had when its
bytes were hashed, and only until `max_age_s` has passed since. Losing the memory costs a second reading, nothing else:
a file of it that is damaged, or from another version, counts as empty.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from hfassets.hub.layout import RepoCache
from hfassets.storage.atomic import write_atomic
from hfassets.storage.state import StateDir

MAX_AGE_S = 30 * 86400.0

_VERSION = 1
# Clocks of a cluster's hosts differ a little; a proof from further in the future is no proof.
_CLOCK_SKEW_S = 3600.0

# size, mtime_ns, inode, hash ("" = the file's name is its hash, as blobs have it), verified_at
_Entry = tuple[int, int, int, str, float]


class VerifyMemory:
    """The memory of one folder (`root`: a repo's folder in a Hub cache, or the shared store); safe to use by threads.

    Kept in one JSON file: `{"version", "root", "files": {path in root: [size, mtime_ns, inode, hash, verified_at]}}`.
    """

    def __init__(self, file: Path, root: Path, max_age_s: float = MAX_AGE_S) -> None:
        self.file = file
        self.root = root
        self.max_age_s = max_age_s
        self.error: str | None = None
        """Why the last `save` failed, in one line."""
        self._prefix = f"{root}{os.sep}"
        self._lock = threading.Lock()
        self._entries = _load(file)
        self._changed: dict[str, _Entry] = {}
        self._forgotten: dict[str, float] = {}

    @classmethod
    def open(cls, state: StateDir, repo: RepoCache, max_age_s: float = MAX_AGE_S) -> VerifyMemory:
        """The memory of a repo in a cache."""
        return cls.open_folder(state, repo.hub_cache, repo.folder_name, max_age_s)

    @classmethod
    def open_folder(cls, state: StateDir, hub_cache: Path, name: str, max_age_s: float = MAX_AGE_S) -> VerifyMemory:
        """The memory of the folder `name` in a cache, whatever path leads to that cache."""
        cache = hashlib.sha256(os.fsencode(hub_cache.resolve())).hexdigest()[:16]
        return cls(state.verify_memory / f"{name}-{cache}.json", hub_cache / name, max_age_s)

    def __len__(self) -> int:
        return len(self._entries)

    def lookup(self, path: Path, stat: os.stat_result) -> str | None:
        """The hash that `path` had when it was last read, if it is still that file and the proof has not expired."""
        return self.lookup_values(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)

    def lookup_values(self, path: str, size: int, mtime_ns: int, inode: int) -> str | None:
        """`lookup` for a caller who has kept these of the stat."""
        entry = self._entries.get(self._key(path))
        if entry is None or entry[:3] != (size, mtime_ns, inode) or not self._is_valid(entry):
            return None
        return entry[3] or _name(path)

    def size_of(self, path: str, digest: str) -> int | None:
        """The size in bytes of the content with this hash, if `path` ever had it, whatever it holds now."""
        entry = self._entries.get(self._key(path))
        return entry[0] if entry is not None and (entry[3] or _name(path)) == digest else None

    def proven_at(self, path: str) -> float | None:
        """When (s since 1970) `path` was last proven; whether that still holds is what `lookup` tells."""
        entry = self._entries.get(self._key(path))
        return entry[4] if entry is not None else None

    def record(self, path: Path | str, stat: os.stat_result, digest: str) -> None:
        """Remember that `path`, as `stat` describes it from before its bytes were read, has this hash."""
        key = self._key(str(path))
        name = "" if _name(key) == digest else digest
        entry = (stat.st_size, stat.st_mtime_ns, stat.st_ino, name, time.time())
        with self._lock:
            self._entries[key] = self._changed[key] = entry
            self._forgotten.pop(key, None)

    def forget(self, path: Path) -> None:
        """Drop what is known of `path`."""
        with self._lock:
            self._drop(self._key(str(path)))

    def forget_where(self, gone: Callable[[str], bool]) -> None:
        """Drop what is known of every path for which `gone` says so."""
        with self._lock:
            for key in [key for key in self._entries if gone(os.path.join(self.root, key))]:  # noqa: PTH118
                self._drop(key)

    def save(self) -> bool:
        """Write what changed, merged with what others wrote meanwhile (the newer proof of a path wins).

        Atomic. False when the state folder cannot be written; `error` then says why, and nothing is lost in memory.
        """
        with self._lock:
            changed, forgotten = dict(self._changed), dict(self._forgotten)
        if not changed and not forgotten:
            return True
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with _exclusive(self.file.with_suffix(".lock")):
                merged = self._merge(_load(self.file), changed, forgotten)
                document = {"version": _VERSION, "root": str(self.root), "files": merged}
                write_atomic(self.file, orjson.dumps(document))
        except OSError as error:
            self.error = f"{self.file}: {error.strerror}; what was verified is not remembered"
            return False
        with self._lock:
            self._changed = {key: entry for key, entry in self._changed.items() if changed.get(key) is not entry}
            self._forgotten = {key: at for key, at in self._forgotten.items() if forgotten.get(key) != at}
        self.error = None
        return True

    def _merge(
        self, stored: dict[str, _Entry], changed: dict[str, _Entry], forgotten: dict[str, float]
    ) -> dict[str, _Entry]:
        merged = {key: entry for key, entry in stored.items() if self._is_valid(entry)}
        for key, at in forgotten.items():
            if key in merged and merged[key][4] <= at:
                del merged[key]
        for key, entry in changed.items():
            if key not in merged or merged[key][4] <= entry[4]:
                merged[key] = entry
        return merged

    def _drop(self, key: str) -> None:
        self._entries.pop(key, None)
        self._changed.pop(key, None)
        self._forgotten[key] = time.time()

    def _is_valid(self, entry: _Entry) -> bool:
        return -_CLOCK_SKEW_S <= time.time() - entry[4] < self.max_age_s

    def _key(self, path: str) -> str:
        # Names that are not UTF-8 (link-less caches may have them) must become JSON and come back equal.
        name = path.removeprefix(self._prefix)
        if name.isascii():
            return name
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _load(file: Path) -> dict[str, _Entry]:
    try:
        document: Any = orjson.loads(file.read_bytes())
        if document["version"] != _VERSION:
            return {}
        entries: dict[str, Any] = document["files"]
        for key, entry in entries.items():
            size, mtime_ns, inode, digest, verified_at = entry
            if not (isinstance(digest, str) and isinstance(verified_at, float)):
                return {}
            entries[key] = (size, mtime_ns, inode, digest, verified_at)
        return entries
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _name(path: str) -> str:
    return path.rpartition("/")[2]


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Let savers of one file take turns. Where locks are void, two at once lose proofs, never gain wrong ones."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
