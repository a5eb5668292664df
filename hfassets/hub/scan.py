"""What lies in a Hub cache, seen without reading one blob and without changing anything.

Invariant: one bad entry never ends a scan. Whatever cannot be looked at is listed with its reason, the rest goes on.
Layouts of huggingface_hub 0.x to 2.x are known: links into `blobs/`, real files in `snapshots/` (link-less file
systems), `trees/<commit>.json`, and the cache-wide store `<hub_cache>/blobs/<2 hex>/<xet hash>`.
"""

from __future__ import annotations

import os
import re
import stat as stat_module
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import orjson

from hfassets.errors import HfassetsError, HubError, UnsafePathError
from hfassets.hub.layout import RepoCache
from hfassets.hub.names import REPO_TYPES, check_path
from hfassets.storage.atomic import TEMPORARY

STORE = "blobs"
"""Name of the folder of the shared store in a hub cache."""

_REPO_FOLDER = re.compile(rf"^({'|'.join(REPO_TYPES)})s--(.+)$", re.DOTALL)
_BLOB_NAME = re.compile(r"^(?:[0-9a-f]{40}|[0-9a-f]{64})$")
_COMMIT_NAME = re.compile(r"^[0-9a-f]{40}$")
_STORE_BLOB = re.compile(r"^[0-9a-f]{64}$")
_STORE_PREFIX = re.compile(r"^[0-9a-f]{2}$")
_STORE_SIDECAR = re.compile(r"^(?:[0-9a-f]{64}\.(?:refs|lock|lock\.soft)|\.huggingface-shared-blobs)$")
_LEFTOVER = re.compile(
    r"\.incomplete$"  # 0.x: <etag>.incomplete; 1.x and later: <etag>.<8 hex>.incomplete
    r"|^\..+\.[0-9a-f]{8}\.shared$"  # a link on its way into the shared store
    r"|^\.huggingface-shared-blobs\.[0-9a-f]{8}\.tmp$"
)
_ETAG_IN_NAME = re.compile(r"(?:[0-9a-f]{64}|[0-9a-f]{40})")
_HELPERS = frozenset({".DS_Store", "CACHEDIR.TAG", ".gitignore"})
_CACHE_MARKERS = frozenset({".locks", "CACHEDIR.TAG", "version.txt", "version_diffusers_cache.txt", STORE})


@dataclass(frozen=True, slots=True)
class RepoFolder:
    """A repo's folder as found on disk; `repo_id` is what its name says, checked by nothing."""

    hub_cache: Path
    name: str
    repo_type: str
    repo_id: str

    @property
    def folder(self) -> Path:
        """The folder itself."""
        return self.hub_cache / self.name

    @property
    def is_store(self) -> bool:
        """Whether this is the shared store rather than a repo."""
        return self.name == STORE

    @classmethod
    def of(cls, repo: RepoCache) -> RepoFolder:
        """The folder of a repo that is known by id."""
        return cls(repo.hub_cache, repo.folder_name, repo.repo_type, repo.repo_id)

    def as_repo(self) -> RepoCache | None:
        """The repo, or None when the folder's name is none that the Hub could have given."""
        try:
            repo = RepoCache(self.hub_cache, self.repo_id, self.repo_type)
        except HubError:
            return None
        return repo if repo.folder_name == self.name else None


class Blob(NamedTuple):
    """A file with content to prove. `linked` = a repo's blob that is a link (into the shared store, or elsewhere)."""

    name: str
    folder: str
    size: int
    mtime_ns: int
    inode: int
    linked: bool

    @property
    def path(self) -> str:
        """Where it lies."""
        return f"{self.folder}/{self.name}"


class Link(NamedTuple):
    """A link of a snapshot; `etag` is the blob it names in its repo's `blobs/`."""

    commit: str
    path: str
    etag: str


class Known(NamedTuple):
    """What a file at a commit is, by a tree listing: its hash and its size in bytes."""

    etag: str
    size: int


class Oddity(NamedTuple):
    """An entry that is not what belongs there, and why."""

    path: Path
    reason: str
    commit: str | None = None
    inner: str | None = None


@dataclass(slots=True)
class RepoScan:
    """All that one folder holds, by what is to be done about it."""

    repo: RepoFolder
    blobs: dict[str, Blob] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    real_files: list[tuple[Link, Blob]] = field(default_factory=list)
    """Files that lie in a snapshot themselves (link-less layout); their Link has no etag."""
    commits: list[str] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)
    leftovers: list[Path] = field(default_factory=list)
    unknown: list[tuple[Path, int]] = field(default_factory=list)
    foreign_links: list[Oddity] = field(default_factory=list)
    odd: list[Oddity] = field(default_factory=list)
    unreadable: list[Oddity] = field(default_factory=list)
    bad_refs: list[Oddity] = field(default_factory=list)


def find_hub_caches(cache_dir: Path) -> tuple[Path, ...]:
    """The hub caches that `cache_dir` stands for: itself, its `hub/` (when it is HF_HOME), or both.

    Raises HfassetsError when there is no such folder, or when it holds things and none of them is a hub cache.
    """
    if not cache_dir.is_dir():
        raise HfassetsError(f"{cache_dir}: no such folder; --cache-dir is HF_HOME or a hub cache")
    cache_dir = cache_dir.absolute()
    try:
        names = [entry.name for entry in cache_dir.iterdir()]
    except OSError as error:
        raise HfassetsError(f"{cache_dir}: cannot be read ({error.strerror})") from error
    found = []
    if (cache_dir / "hub").is_dir():
        found.append(cache_dir / "hub")
    if any(_REPO_FOLDER.match(name) for name in names) or (not found and _CACHE_MARKERS & set(names)):
        found.append(cache_dir)
    if not found and names:
        raise HfassetsError(
            f"{cache_dir}: neither HF_HOME nor a hub cache: it has no hub/ and no models--*, datasets--* or spaces--*"
        )
    return tuple(found) or (cache_dir,)


def find_repos(hub_cache: Path) -> tuple[RepoFolder, ...]:
    """All repo folders of a hub cache, by name; whatever else lies there is none of ours."""
    repos = []
    for entry in sorted(hub_cache.iterdir()):
        match = _REPO_FOLDER.match(entry.name)
        if match is not None and entry.is_dir():
            repos.append(RepoFolder(hub_cache, entry.name, match[1], match[2].replace("--", "/")))
    return tuple(repos)


def find_store(hub_cache: Path) -> RepoFolder | None:
    """The shared store of a hub cache, if it has one."""
    folder = hub_cache / STORE
    return RepoFolder(hub_cache, STORE, "store", "shared store") if folder.is_dir() else None


def scan_repo(repo: RepoFolder) -> RepoScan:
    """Look at everything in a repo's folder, one stat a blob and one readlink a link. Never raises OSError."""
    scan = RepoScan(repo)
    _scan_blobs(scan, str(repo.folder / "blobs"))
    _scan_snapshots(scan)
    _scan_refs(scan, repo.folder / "refs")
    for entry in _entries(scan, str(repo.folder / "trees")):
        if entry.name.endswith(".tmp"):
            scan.leftovers.append(Path(entry.path))
    return scan


def scan_store(store: RepoFolder) -> RepoScan:
    """Look at everything in the shared store. Never raises OSError."""
    scan = RepoScan(store)
    for prefix in _entries(scan, str(store.folder)):
        if prefix.is_dir(follow_symlinks=False) and _STORE_PREFIX.match(prefix.name):
            for entry in _entries(scan, prefix.path):
                is_blob = _STORE_BLOB.match(entry.name) and entry.name.startswith(prefix.name)
                _take_blob_entry(scan, prefix.path, entry, bool(is_blob))
        elif not _STORE_SIDECAR.match(prefix.name):
            _take_blob_entry(scan, str(store.folder), prefix, False)
    return scan


def read_tree(repo: RepoFolder, commit: str) -> dict[str, Known] | None:
    """The tree listing that newer libraries keep beside a repo; None when there is none.

    Raises ValueError with the reason when it is there and cannot be used.
    """
    file = repo.folder / "trees" / f"{commit}.json"
    try:
        document = orjson.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ValueError("is not JSON; the library ignores it and so do we") from error
    try:
        if document["format_version"] != 1:
            return None
        known = {}
        for path, info in document["files"].items():
            lfs = info.get("lfs_sha256")
            etag, size = (lfs, info.get("lfs_size")) if lfs else (info["blob_id"], info["size"])
            if not _BLOB_NAME.match(etag):
                raise ValueError(f"names {etag!r} as a hash")
            known[check_path(path)] = Known(etag, int(info["size"] if size is None else size))
        return known
    except (KeyError, TypeError, AttributeError, UnsafePathError) as error:
        raise ValueError(f"is not a tree listing ({error})") from error


def etag_in(name: str) -> str | None:
    """The etag that a leftover's name begins with, if any."""
    match = _ETAG_IN_NAME.search(name)
    return match[0] if match else None


def _entries(scan: RepoScan, folder: str) -> Iterator[os.DirEntry[str]]:
    """The entries of a folder; one that is not there is empty, one that cannot be read is listed."""
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except FileNotFoundError:
        return
    except NotADirectoryError:
        scan.odd.append(Oddity(Path(folder), "is not a folder"))
    except OSError as error:
        scan.unreadable.append(Oddity(Path(folder), f"cannot be listed ({error.strerror})"))


def _scan_blobs(scan: RepoScan, folder: str) -> None:
    for entry in _entries(scan, folder):
        _take_blob_entry(scan, folder, entry, _BLOB_NAME.match(entry.name) is not None)


def _take_blob_entry(scan: RepoScan, folder: str, entry: os.DirEntry[str], is_blob: bool) -> None:
    """Sort one entry of a folder of blobs; `is_blob` = its name is a hash of what it holds."""
    name = entry.name
    if not is_blob and (_LEFTOVER.search(name) or TEMPORARY.match(name)):
        scan.leftovers.append(Path(entry.path))
        return
    if not is_blob and (name in _HELPERS or (scan.repo.is_store and _STORE_SIDECAR.match(name))):
        return
    try:
        status = entry.stat()
    except FileNotFoundError:
        # A link that leads nowhere is as good as no blob: the snapshots that need it will say so.
        if is_blob and entry.is_symlink():
            target = _readlink(entry.path)
            scan.odd.append(Oddity(Path(entry.path), f"is a link to {target}, which is not there"))
        return
    except OSError as error:
        scan.unreadable.append(Oddity(Path(entry.path), f"cannot be looked at ({error.strerror})"))
        return
    if not is_blob:
        scan.unknown.append((Path(entry.path), status.st_size))
    elif stat_module.S_ISREG(status.st_mode):
        scan.blobs[name] = Blob(name, folder, status.st_size, status.st_mtime_ns, status.st_ino, entry.is_symlink())
    else:
        scan.odd.append(Oddity(Path(entry.path), f"is {_kind(status.st_mode)}, not a file"))


def _scan_snapshots(scan: RepoScan) -> None:
    root = scan.repo.folder / "snapshots"
    for entry in _entries(scan, str(root)):
        if entry.name in _HELPERS:
            continue
        if entry.is_symlink():
            if Path(entry.path).resolve().parent != root.resolve():  # an alias of another commit is harmless
                target = _readlink(entry.path)
                scan.foreign_links.append(Oddity(Path(entry.path), f"leads to {target}, out of the cache", entry.name))
        elif entry.is_dir(follow_symlinks=False):
            scan.commits.append(entry.name)
            _scan_folder(scan, entry.name, entry.path, "", 0)
        elif TEMPORARY.match(entry.name):
            scan.leftovers.append(Path(entry.path))
        else:
            with suppress(FileNotFoundError):
                scan.unknown.append((Path(entry.path), entry.stat(follow_symlinks=False).st_size))


def _scan_folder(scan: RepoScan, commit: str, folder: str, inner: str, depth: int) -> None:
    """One folder of a snapshot; `inner` is its path in the repo with a trailing slash, `depth` how far down it is."""
    # How the library writes its links; told by its text alone, such a one costs no further system call.
    usual = "../" * (depth + 2) + "blobs/"
    for entry in _entries(scan, folder):
        path = inner + entry.name
        if entry.is_symlink():
            _take_link(scan, commit, path, entry, usual)
        elif entry.is_dir(follow_symlinks=False):
            _scan_folder(scan, commit, entry.path, path + "/", depth + 1)
        elif TEMPORARY.match(entry.name):
            scan.leftovers.append(Path(entry.path))
        elif entry.name != ".DS_Store":
            _take_real_file(scan, commit, path, entry)


def _take_link(scan: RepoScan, commit: str, path: str, entry: os.DirEntry[str], usual: str) -> None:
    try:
        text = os.readlink(entry.path)  # noqa: PTH115 (there may be millions)
    except OSError:
        return  # gone since the folder was listed
    if text.startswith(usual) and "/" not in text[len(usual) :]:
        name = text[len(usual) :]
    else:
        target = Path(entry.path).parent / text
        inside = target.parent.resolve() == (scan.repo.folder / "blobs").resolve()
        name = target.name if inside else ""
    if entry.name.startswith(".") and TEMPORARY.match(entry.name):
        scan.leftovers.append(Path(entry.path))
        return
    if name in ("", ".", ".."):
        reason = f"leads to {text}, out of the repo's blobs"
        scan.foreign_links.append(Oddity(Path(entry.path), reason, commit, path))
        return
    blob = scan.blobs.get(name)
    scan.links.append(Link(commit, path, blob.name if blob is not None else name))


def _take_real_file(scan: RepoScan, commit: str, path: str, entry: os.DirEntry[str]) -> None:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return
    except OSError as error:
        scan.unreadable.append(Oddity(Path(entry.path), f"cannot be looked at ({error.strerror})", commit, path))
        return
    if stat_module.S_ISREG(status.st_mode):
        folder = entry.path.rpartition("/")[0]
        blob = Blob(entry.name, folder, status.st_size, status.st_mtime_ns, status.st_ino, False)
        scan.real_files.append((Link(commit, path, ""), blob))
    else:
        scan.odd.append(Oddity(Path(entry.path), f"is {_kind(status.st_mode)}, not a file", commit, path))


def _scan_refs(scan: RepoScan, root: Path) -> None:
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files):
            file = Path(folder, name)
            if TEMPORARY.match(name):
                scan.leftovers.append(file)
            elif name not in _HELPERS:
                _take_ref(scan, file, str(file.relative_to(root)))


def _take_ref(scan: RepoScan, file: Path, revision: str) -> None:
    try:
        text = file.read_bytes()[:200].decode("utf-8", "replace")
    except FileNotFoundError:
        return
    except OSError as error:
        scan.unreadable.append(Oddity(file, f"cannot be read ({error.strerror})"))
        return
    commit = text.strip()
    # Caches that people fill by hand may name a snapshot as they like; what names no snapshot must be a commit.
    if _COMMIT_NAME.match(commit) or commit in scan.commits:
        scan.refs[revision] = commit
    else:
        scan.bad_refs.append(Oddity(file, f"names {commit!r}, which is no commit"))


def _readlink(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return "another place"


def _kind(mode: int) -> str:
    for test, name in (
        (stat_module.S_ISDIR, "a folder"),
        (stat_module.S_ISFIFO, "a pipe"),
        (stat_module.S_ISSOCK, "a socket"),
        (stat_module.S_ISCHR, "a device"),
        (stat_module.S_ISBLK, "a device"),
    ):
        if test(mode):
            return name
    return "something else"
