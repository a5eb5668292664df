"""From what a scan saw and what a sweep proved to the faults of one folder of a cache.

Invariant: one damaged thing is one fault, whatever number of links, commits or names lead to it.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hfassets.errors import HfassetsError
from hfassets.hub import faults as kinds
from hfassets.hub.faults import Fault, Unverifiable
from hfassets.hub.hashing import algorithm_of
from hfassets.hub.holders import is_locked, open_files
from hfassets.hub.layout import RepoCache
from hfassets.hub.listing import Listing
from hfassets.hub.memory import VerifyMemory
from hfassets.hub.scan import Known, Link, Oddity, RepoScan, etag_in, read_tree
from hfassets.hub.sweep import XET, Outcome, Task

_OFFLINE = "cannot be verified offline: its layout has no hash in its name, and no listing of its commit is kept"


class RepoCheck:
    """One folder under verification: give its `tasks` to a sweep, `take` the outcomes, then `conclude`."""

    def __init__(
        self,
        scan: RepoScan,
        memory: VerifyMemory,
        full: bool,
        listing_for: Callable[[RepoCache, str], Listing | None],
    ) -> None:
        self.repo = scan.repo
        self.memory = memory
        self.tasks: list[Task] = []
        self.remembered = 0
        self.bytes_proven = 0
        self.not_downloaded = 0
        self.unverifiable: list[Unverifiable] = []
        self.in_progress: list[Path] = []
        self.purged = False
        self._scan = scan
        self._full = full
        self._listing_for = listing_for
        self._failed: list[Outcome] = []
        self._wrong: list[tuple[Link, Known]] = []
        self._bad_trees: list[Oddity] = []
        self._sizes: dict[str, int] = {}
        self._listing_errors: list[str] = []
        self._leftover_sizes = {path: _size_and_time(path) for path in scan.leftovers}
        self._absent: set[str] | None = None
        self._plan()

    @property
    def suspicions(self) -> bool:
        """Whether something is seen that another process's work could explain."""
        scan = self._scan
        vanished = any(outcome.vanished for outcome in self._failed)
        return bool(scan.leftovers or scan.bad_refs or scan.odd or vanished or self._missing())

    @property
    def notices(self) -> list[str]:
        """What the user should hear besides the faults."""
        return [*self._listing_errors, *([self.memory.error] if self.memory.error else [])]

    def take(self, outcome: Outcome) -> None:
        """Note what a task came to."""
        if outcome.is_proven:
            self.bytes_proven += outcome.size
        elif outcome.changing:
            self.in_progress.append(Path(outcome.task.path))
        else:
            self._failed.append(outcome)

    def prune_memory(self) -> None:
        """Forget files that no longer exist, so that the memory grows no larger than the cache."""
        blobs, prefix = self._scan.blobs, f"{self.repo.folder}/blobs/"
        if not self.repo.is_store and len(blobs) == len(self.memory) and not self._scan.real_files:
            return
        self.memory.forget_where(lambda path: path.removeprefix(prefix) not in blobs and not os.path.lexists(path))
        self.memory.save()

    def conclude(self) -> list[Fault]:
        """All faults, each suspicion looked at again now."""
        places = self._places()
        found = [self._odd_fault(kinds.UNREADABLE, oddity) for oddity in self._scan.unreadable]
        found += [self._odd_fault(kinds.FOREIGN_LINK, oddity) for oddity in self._scan.foreign_links]
        found += [self._odd_fault(kinds.BAD_TREE, oddity) for oddity in self._bad_trees]
        found += self._wrong_link_faults()
        found += self._failed_faults(places)
        found += self._missing_faults(places)
        found += self._odd_faults(places)
        found += [self._odd_fault(kinds.BAD_REF, ref) for ref in self._scan.bad_refs if _ref_is_bad(ref.path)]
        found += self._leftover_faults()
        return found

    def _plan(self) -> None:
        """Find out what each file must be, and which files memory does not vouch for."""
        scan = self._scan
        by_commit: dict[str, dict[str, Known]] = {}
        for commit in scan.commits:
            known = self._known(commit)
            if known is not None:
                by_commit[commit] = known
        self._count_absent(by_commit)
        links = []
        for link in scan.links:
            known_file = by_commit.get(link.commit, {}).get(link.path)
            if known_file is None or known_file.etag == link.etag:
                links.append(link)
            else:
                self._wrong.append((link, known_file))
            if known_file is not None:
                self._sizes[known_file.etag] = known_file.size
        scan.links = links
        for blob in scan.blobs.values():
            self._plan_file(blob.path, blob.size, blob.mtime_ns, blob.inode, blob.name)
        inodes = {blob.inode: blob for blob in scan.blobs.values()} if scan.real_files else {}
        for link, file in scan.real_files:
            known_file = by_commit.get(link.commit, {}).get(link.path)
            same = inodes.get(file.inode)
            if known_file is None and same is not None and same[2:5] == file[2:5]:
                continue  # a hard link to a blob, which is proven by its name
            if known_file is None:
                reason = "its commit's listing does not have it" if link.commit in by_commit else _OFFLINE
                self._unverifiable(Path(file.path), file.size, reason)
            else:
                self._sizes[known_file.etag] = known_file.size
                self._plan_file(file.path, file.size, file.mtime_ns, file.inode, known_file.etag)
        for path, size in scan.unknown:
            self._unverifiable(path, size, "its name is not one that the library gives")

    def _count_absent(self, by_commit: dict[str, dict[str, Known]]) -> None:
        """Count what is listed and was never asked for."""
        there: dict[str, set[str]] = {commit: set() for commit in by_commit}
        for link in (*self._scan.links, *(link for link, _ in self._scan.real_files)) if there else ():
            if link.commit in there:
                there[link.commit].add(link.path)
        for commit, known in by_commit.items():
            self.not_downloaded += sum(path not in there[commit] for path in known)

    def _plan_file(self, path: str, size: int, mtime_ns: int, inode: int, expected: str) -> None:
        if not self._full and self.memory.lookup_values(path, size, mtime_ns, inode) == expected:
            self.remembered += 1
            self.bytes_proven += size
            return
        last_size = self.memory.size_of(path, expected)
        if last_size is not None:
            self._sizes.setdefault(expected, last_size)
        algorithm = XET if self.repo.is_store else algorithm_of(expected)
        self.tasks.append(Task(path, size, algorithm, expected, self.memory))

    def _known(self, commit: str) -> dict[str, Known] | None:
        """What the files of a commit are: by the caller's listing, else by the library's own, else unknown."""
        repo = self.repo.as_repo()
        if repo is not None:
            try:
                listing = self._listing_for(repo, commit)
            except (HfassetsError, OSError) as error:
                listing = None
                self._listing_errors.append(f"{self.repo.repo_id}: {error}")
            if listing is not None:
                return {file.path: Known(file.etag, file.size) for file in listing.files}
        try:
            return read_tree(self.repo, commit)
        except ValueError as error:
            self._bad_trees.append(Oddity(self.repo.folder / "trees" / f"{commit}.json", str(error), commit))
            return None

    def _places(self) -> dict[str, list[Link]]:
        """Links by etag, for those etags that something is wrong with."""
        wanted = {Path(outcome.task.path).name for outcome in self._failed}
        wanted |= {oddity.path.name for oddity in (*self._scan.odd, *self._scan.unreadable)} | self._missing()
        places: dict[str, list[Link]] = defaultdict(list)
        for link in self._scan.links if wanted else ():
            if link.etag in wanted:
                places[link.etag].append(link)
        return places

    def _missing(self) -> set[str]:
        """Etags that links name and that were not there when looked for."""
        if self._absent is None:
            elsewhere = {oddity.path.name for oddity in (*self._scan.odd, *self._scan.unreadable)}
            blobs = self._scan.blobs
            self._absent = {link.etag for link in self._scan.links if link.etag not in blobs} - elsewhere
        return self._absent

    def _missing_faults(self, places: dict[str, list[Link]]) -> list[Fault]:
        found = []
        for etag in sorted(self._missing()):
            links = [link for link in places[etag] if self._is_dangling(link)]
            if links:
                detail = f"its blob is gone, {len(links)} link(s) lead nowhere"
                found.append(self._fault(kinds.MISSING, self.repo.folder / "blobs" / etag, etag, detail, links))
        if found:
            self.purged = kinds.is_purge(len(found), len({link.etag for link in self._scan.links}))
        return found

    def _is_dangling(self, link: Link) -> bool:
        pointer = self.repo.folder / "snapshots" / link.commit / link.path
        try:
            pointer.stat()
        except FileNotFoundError:
            return pointer.is_symlink()
        except OSError:
            return False
        return False

    def _failed_faults(self, places: dict[str, list[Link]]) -> list[Fault]:
        real = {file.path: link for link, file in self._scan.real_files}
        found = []
        for outcome in self._failed:
            path, etag = Path(outcome.task.path), outcome.task.expected
            links = [real[outcome.task.path]] if outcome.task.path in real else places.get(path.name, [])
            if outcome.vanished:
                links = [link for link in links if link.etag and self._is_dangling(link)]
                if links:
                    found.append(self._fault(kinds.MISSING, path, etag, "its blob went away meanwhile", links))
            elif outcome.error is not None:
                found.append(self._fault(kinds.UNREADABLE, path, etag, f"cannot be read ({outcome.error})", links))
            else:
                found.append(self._content_fault(outcome, path, links))
        return found

    def _content_fault(self, outcome: Outcome, path: Path, links: list[Link]) -> Fault:
        etag, known = outcome.task.expected, self._sizes.get(outcome.task.expected)
        size = f"{outcome.size:,} bytes" if known is None else f"{outcome.size:,} of {known:,} bytes"
        short = outcome.size == 0 or (known is not None and outcome.size < known)
        detail = f"{outcome.task.algorithm} is {outcome.digest}, {size}"
        fault = self._fault(kinds.TRUNCATED if short else kinds.CORRUPT, path, etag, detail, links)
        return replace(fault, identity=outcome.identity)

    def _odd_faults(self, places: dict[str, list[Link]]) -> list[Fault]:
        found = []
        for oddity in self._scan.odd:
            if oddity.path.is_file():
                continue
            dangling = oddity.path.is_symlink() and not oddity.path.exists()
            if not dangling and not oddity.path.exists():
                continue
            name = oddity.path.name
            links = [Link(oddity.commit, oddity.inner, "")] if oddity.commit and oddity.inner else places.get(name, [])
            expected = name if etag_in(name) == name else None
            kind = kinds.DANGLING if dangling else kinds.NOT_A_FILE
            found.append(self._fault(kind, oddity.path, expected, oddity.reason, links))
        return found

    def _wrong_link_faults(self) -> list[Fault]:
        found = []
        for link, known in self._wrong:
            pointer = self.repo.folder / "snapshots" / link.commit / link.path
            detail = f"leads to the blob {link.etag}, its commit's listing says {known.etag}"
            found.append(self._fault(kinds.WRONG_LINK, pointer, known.etag, detail, [link]))
        return found

    def _leftover_faults(self) -> list[Fault]:
        """Broken-off downloads that nobody holds, has open, or has written to since the scan."""
        opened = open_files(self._scan.leftovers)
        found = []
        for path, before in self._leftover_sizes.items():
            now = _size_and_time(path)
            if now is None:
                continue
            etag = etag_in(path.name)
            lock = self.repo.hub_cache / ".locks" / self.repo.name / f"{etag}.lock"
            beside = path.with_name(f"{etag}.lock")
            if now != before or path in opened or any(is_locked(file) for file in (path, lock, beside)):
                self.in_progress.append(path)
            else:
                detail = f"a download that was broken off, {now[0]:,} bytes"
                found.append(self._fault(kinds.LEFTOVER, path, None, detail, []))
        return found

    def _odd_fault(self, kind: str, oddity: Oddity) -> Fault:
        links = [Link(oddity.commit, oddity.inner, "")] if oddity.commit and oddity.inner else []
        return self._fault(kind, oddity.path, None, oddity.reason, links)

    def _unverifiable(self, path: Path, size: int, reason: str) -> None:
        self.unverifiable.append(Unverifiable(self.repo.repo_id, self.repo.repo_type, path, size, reason))

    def _fault(self, kind: str, file: Path, expected: str | None, detail: str, links: list[Link]) -> Fault:
        pairs = tuple(sorted({(link.commit, link.path) for link in links}))
        commit, path = pairs[0] if pairs else (None, None)
        return Fault(
            kind=kind,
            repo_id=self.repo.repo_id,
            repo_type=self.repo.repo_type,
            commit=commit,
            path=path,
            file=file,
            expected=expected,
            detail=detail,
            hub_cache=self.repo.hub_cache,
            links=pairs,
        )


def _ref_is_bad(file: Path) -> bool:
    """Whether a ref that named no commit still does not: the library writes refs in place."""
    try:
        text = file.read_bytes().strip()
    except OSError:
        return False
    return len(text) != 40 or bool(text.translate(None, b"0123456789abcdef"))


def _size_and_time(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
