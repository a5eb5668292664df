"""Move what is damaged out of a Hub cache, and leave a cache behind that every library can read.

Invariant: after it no snapshot link leads to what was moved, so `scan_cache_dir` has nothing to complain of. Of each
damaged file: its record is written, then it is moved, then the links go. Killed in between, the next verification finds
either the damage or dangling links, never a file silently gone. Nothing is deleted but links, whose text is recorded.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from hfassets.hub import faults as kinds
from hfassets.hub.faults import Fault, printable
from hfassets.hub.holders import is_locked, open_files
from hfassets.hub.scan import STORE, RepoFolder, find_repos, scan_repo
from hfassets.hub.sweep import identity_of
from hfassets.progress import Note, ProgressCallback, silent
from hfassets.storage.atomic import fsync_directory, temporary_beside, write_atomic
from hfassets.storage.state import StateDir

_LIST = "list"
_CONTENT = frozenset({kinds.CORRUPT, kinds.TRUNCATED, kinds.UNREADABLE, kinds.NOT_A_FILE, kinds.DANGLING})


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One damaged thing moved aside. `moved_to` is None where only links were removed; `when` is UTC, ISO 8601.

    `links` holds (commit, path, what the link said) of each link removed.
    """

    hub_cache: str
    repo: str
    repo_type: str
    commit: str | None
    path: str | None
    etag: str | None
    file: str
    moved_to: str | None
    when: str
    why: str
    links: tuple[tuple[str, str, str], ...] = ()

    @property
    def is_missed(self) -> bool:
        """Whether a link that was removed has not come back, though its snapshot is still there."""
        root = Path(self.hub_cache, f"{self.repo_type}s--{self.repo.replace('/', '--')}", "snapshots")
        links = [root / commit / path for commit, path, _ in self.links if path and (root / commit).is_dir()]
        return any(not link.exists() for link in links)


@dataclass(frozen=True, slots=True)
class QuarantineResult:
    """What was moved aside, how many links were removed, and what could not be moved, with the reason."""

    moved: tuple[Quarantined, ...] = ()
    links_removed: int = 0
    not_moved: tuple[tuple[Fault, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "moved": [asdict(entry) for entry in self.moved],
            "links_removed": self.links_removed,
            "not_moved": [{**fault.to_dict(), "reason": reason} for fault, reason in self.not_moved],
        }


def quarantine(state: StateDir, faults: Iterable[Fault], progress: ProgressCallback = silent) -> QuarantineResult:
    """Move the files behind `faults` aside and remove the links that would then lead nowhere.

    They go to `state.quarantine/<repo folder>/<name>.<time>.<8 hex>` where that is the same file system, else to
    `<hub_cache>.quarantine/` beside the cache. What may not be moved is listed in the result; nothing is raised.
    """
    moved: list[Quarantined] = []
    refused: list[tuple[Fault, str]] = []
    index = _LinkIndex()
    for fault in faults:
        entries: list[Quarantined] = []
        try:
            entries, reason = _quarantine_one(state, fault, index)
        except OSError as error:
            reason = f"{error.strerror or error}: {printable(error.filename or fault.file)}"
        if entries:
            moved += entries
            progress(Note(f"quarantined: {fault.repo_id}: {printable(fault.path or fault.file.name)}: {fault.kind}"))
        if reason:
            refused.append((fault, reason))
            progress(Note(f"not moved: {printable(fault.file)}: {reason}", "warning"))
    return QuarantineResult(tuple(moved), sum(len(entry.links) for entry in moved), tuple(refused))


def read_quarantine(state: StateDir, hub_caches: Iterable[Path]) -> tuple[Quarantined, ...]:
    """All that was ever moved aside out of these caches, oldest first; what was announced and not done is left out."""
    found = []
    caches = {str(hub_cache.resolve()): hub_cache for hub_cache in hub_caches}
    folders = {state.quarantine, *(_beside(hub_cache) for hub_cache in caches.values())}
    for file in sorted(file for folder in folders for file in (folder / _LIST).glob("*.json")):
        with suppress(OSError, ValueError, TypeError, KeyError):
            document = orjson.loads(file.read_bytes())
            document["links"] = tuple((commit, path, text) for commit, path, text in document["links"])
            entry = Quarantined(**document)
            done = entry.moved_to is None or Path(entry.moved_to).exists()
            if done and str(Path(entry.hub_cache).resolve()) in caches:
                found.append(entry)
    return tuple(found)


def _quarantine_one(state: StateDir, fault: Fault, index: _LinkIndex) -> tuple[list[Quarantined], str | None]:
    """One fault: its records if anything was done, and why not all of it was."""
    source = _source(fault)
    reason = _objection(fault, source)
    if reason:
        return [], reason
    links = _links(fault, index)
    if source is None and not links:
        return [], None
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    # Into the last folder, files are copied when nothing else is left to do (the cache is a mount of its own).
    attempts = ((state.quarantine, False), (_beside(fault.hub_cache), False), (state.quarantine, True))
    problem = ""
    for folder, may_copy in attempts:
        target = _target(folder, fault, source, stamp) if source is not None else None
        entries = _records(fault, links, target)
        try:
            written = [_write_record(folder, stamp, entry) for entry in entries]
        except OSError as error:
            problem = f"{error.strerror}: {printable(error.filename or folder)}"
            continue
        try:
            if source is not None and target is not None:
                _move(source, target, may_copy=may_copy)
        except OSError as error:
            for record in written:
                record.unlink()
            problem = f"{error.strerror}: {printable(source)}"
            if error.errno == errno.EXDEV:
                continue
            break
        return entries, _remove_links(links)
    return [], problem


def _write_record(folder: Path, stamp: str, entry: Quarantined) -> Path:
    record = folder / _LIST / f"{stamp}-{time.time_ns():020d}-{secrets.token_hex(4)}.json"
    write_atomic(record, orjson.dumps(asdict(entry), option=orjson.OPT_INDENT_2))
    return record


def _source(fault: Fault) -> Path | None:
    """The file to move: for a blob that leads into the shared store, what lies there; None when only links are bad."""
    if fault.kind in (kinds.WRONG_LINK, kinds.FOREIGN_LINK) or not os.path.lexists(fault.file):
        return None
    if fault.kind == kinds.MISSING and (fault.file.exists() or not fault.file.is_symlink()):
        return None
    if fault.kind in _CONTENT and fault.file.is_symlink():
        real = fault.file.resolve()
        return real if real.is_relative_to((fault.hub_cache / STORE).resolve()) and real.is_file() else fault.file
    return fault.file


def _objection(fault: Fault, source: Path | None) -> str | None:
    """Why a file had better stay where it is."""
    if source is None:
        return None
    if fault.kind == kinds.UNREADABLE and source.is_dir():
        return "the folder cannot be read; its rights must be changed first"
    if fault.identity and source.exists() and identity_of(source.stat()) != fault.identity:
        return "it has changed since it was verified; verify again"
    lock = fault.hub_cache / ".locks" / _folder_name(fault) / f"{fault.expected}.lock"
    if is_locked(lock) or (fault.kind == kinds.LEFTOVER and (is_locked(source) or open_files([source]))):
        return "somebody is writing it"
    return None


class _LinkIndex:
    """Which links lead to a blob: each repo is scanned once, however many faults it has."""

    def __init__(self) -> None:
        self._links: dict[Path, dict[str, list[Path]]] = {}
        self._stored: dict[Path, dict[Path, list[Path]]] = {}

    def links(self, repo: Path, etag: str) -> list[Path]:
        """Snapshot links in a repo's folder that name this blob."""
        self._scan(repo)
        return self._links[repo].get(etag, [])

    def blobs(self, repo: Path, stored: Path) -> list[Path]:
        """A repo's blobs that are links to this file of the shared store."""
        self._scan(repo)
        return self._stored[repo].get(stored, [])

    def _scan(self, repo: Path) -> None:
        if repo in self._links:
            return
        scan = scan_repo(RepoFolder(repo.parent, repo.name, "", ""))
        links: dict[str, list[Path]] = defaultdict(list)
        for link in scan.links:
            links[link.etag].append(repo / "snapshots" / link.commit / link.path)
        stored: dict[Path, list[Path]] = defaultdict(list)
        for blob in scan.blobs.values():
            if blob.linked:
                stored[Path(blob.path).resolve()].append(Path(blob.path))
        self._links[repo], self._stored[repo] = links, stored


def _links(fault: Fault, index: _LinkIndex) -> list[Path]:
    """Every link that must go with the file, snapshot links first: those that the fault names, and all others."""
    folder = fault.hub_cache / _folder_name(fault)
    if fault.kind in (kinds.WRONG_LINK, kinds.FOREIGN_LINK):
        return [fault.file]
    links = {folder / "snapshots" / commit / path for commit, path in fault.links}
    blobs: set[Path] = set()
    if fault.kind in _CONTENT | {kinds.MISSING}:
        real = fault.file.resolve()
        if real.is_relative_to((fault.hub_cache / STORE).resolve()):
            for repo in find_repos(fault.hub_cache):
                blobs.update(index.blobs(repo.folder, real))
        if fault.file.parent == folder / "blobs":
            links.update(index.links(folder, fault.file.name))
    for blob in blobs:
        links.update(index.links(blob.parent.parent, blob.name))
    return [link for link in (*sorted(links), *sorted(blobs)) if link.is_symlink()]


def _remove_links(links: Iterable[Path]) -> str | None:
    kept = []
    for link in links:
        try:
            link.unlink(missing_ok=True)
        except OSError as error:
            kept.append(f"{error.strerror}: {printable(link)}")
    return "; ".join(kept) or None


def _records(fault: Fault, links: Iterable[Path], target: Path | None) -> list[Quarantined]:
    """One record for the file, and one more for each other repo that had links to it."""
    removed: dict[str, list[tuple[str, str, str]]] = {_folder_name(fault): []}
    for link in links:
        folder, kind, commit, *steps = link.relative_to(fault.hub_cache).parts
        if kind == "snapshots":
            text = printable(link.readlink()) or ""
            removed.setdefault(folder, []).append((commit, printable("/".join(steps)) or "", text))
    own = removed.pop(_folder_name(fault))
    if not own and "snapshots" in fault.file.parts:  # a file that lies in its snapshot itself
        own = [(commit, printable(path) or "", "") for commit, path in fault.links]
    main = Quarantined(
        hub_cache=printable(fault.hub_cache) or "",
        repo=fault.repo_id,
        repo_type=fault.repo_type,
        commit=fault.commit,
        path=printable(fault.path),
        etag=fault.expected,
        file=printable(fault.file) or "",
        moved_to=printable(target),
        when=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        why=f"{fault.kind}: {printable(fault.detail)}",
        links=tuple(own),
    )
    ids = {repo.name: repo for repo in find_repos(fault.hub_cache)} if removed else {}
    others = [
        replace(
            main,
            repo=ids[folder].repo_id,
            repo_type=ids[folder].repo_type,
            commit=own_links[0][0],
            path=own_links[0][1],
            moved_to=None,
            links=tuple(own_links),
        )
        for folder, own_links in removed.items()
    ]
    return [main, *others]


def _folder_name(fault: Fault) -> str:
    return STORE if fault.repo_type == "store" else f"{fault.repo_type}s--{fault.repo_id.replace('/', '--')}"


def _beside(hub_cache: Path) -> Path:
    return hub_cache.with_name(f"{hub_cache.name}.quarantine")


def _target(folder: Path, fault: Fault, source: Path, stamp: str) -> Path:
    # Short enough for any file system, and never the same: what a killed run announced must not seem to be this one's.
    name = (printable(source.name) or "")[-150:]
    return folder / _folder_name(fault) / f"{name}.{stamp}.{secrets.token_hex(4)}"


def _move(source: Path, target: Path, *, may_copy: bool) -> None:
    """Rename; where that is impossible and `may_copy`, copy, make sure of the copy, and remove the source."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV or not may_copy or not source.is_file() or source.is_symlink():
            raise
        temporary = temporary_beside(target)
        try:
            shutil.copy2(source, temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.rename(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        source.unlink()
    fsync_directory(target.parent)
    fsync_directory(source.parent)
