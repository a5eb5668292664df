"""The repos of the sample Hub: files on disk, named by hashes, in commits whose ids follow from their content.

Invariant: the same repo id, files and earlier commits always give the same commit ids, whatever the order of insertion.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

ARCHIVE = "softwareheritage/archive"
"""The repo whose files are the objects of the bucket `softwareheritage`."""

# What the Hub's default .gitattributes sends to LFS, as far as the sample repos have such files.
LFS_SUFFIXES = (
    *(".7z", ".arrow", ".bin", ".bz2", ".gz", ".lz4", ".parquet", ".rar", ".tar", ".tgz", ".xz", ".zip", ".zst"),
    *(".h5", ".joblib", ".mds", ".npy", ".npz", ".onnx", ".pickle", ".pkl", ".pt", ".pth", ".safetensors"),
    *(".avi", ".jpeg", ".jpg", ".mp3", ".mp4", ".png", ".wav", ".webp"),
)
LFS_SIZE = 10_000_000

LfsRule = Callable[[str, int], bool]
_SHA256 = re.compile("[0-9a-f]{64}")


def default_lfs(path: str, size: int) -> bool:
    """The Hub's rule: binary formats by suffix, and whatever is over 10 MB."""
    return size > LFS_SIZE or path.endswith(LFS_SUFFIXES)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a commit. `oid` is the git id of what git itself stores (the pointer, for LFS); sizes in bytes."""

    path: str
    size: int
    source: Path
    oid: str
    sha256: str
    lfs: bool
    xet_hash: str | None = None

    @property
    def etag(self) -> str:
        """SHA-256 for LFS files, git-sha1 for others."""
        return self.sha256 if self.lfs else self.oid

    def entry(self, title: str | None = None, date: str = "", commit: str = "") -> dict[str, Any]:
        """The file as the tree API lists it; with a `title`, as `expand` asks for it."""
        entry: dict[str, Any] = {"type": "file", "oid": self.oid, "size": self.size, "path": self.path}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": len(_pointer(self.sha256, self.size))}
        if self.xet_hash:
            entry["xetHash"] = self.xet_hash
        if title is not None:
            entry["lastCommit"] = {"id": commit, "title": title, "date": date}
        return entry


@dataclass(frozen=True, slots=True)
class Commit:
    """One state of a repo; `date` as the Hub writes it."""

    sha: str
    title: str
    date: str
    files: Mapping[str, StoredFile]
    _listings: dict[tuple[str, bool, bool], list[dict[str, Any]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def folders(self) -> dict[str, str]:
        """Every folder and its id (of its own here: nobody can check a git tree id without the whole tree)."""
        found: dict[str, str] = {}
        for path in self.files:
            parent = path.rpartition("/")[0]
            while parent and parent not in found:
                found[parent] = hashlib.sha1(f"{self.sha}/{parent}".encode(), usedforsecurity=False).hexdigest()
                parent = parent.rpartition("/")[0]
        return found

    def entries(self, folder: str, *, recursive: bool, expand: bool) -> list[dict[str, Any]]:
        """The tree API's answer for a folder ("" = the root), sorted by path; empty when there is no such folder.

        Kept after the first call: pages of one listing do not make it again.
        """
        key = (folder, recursive, expand)
        if key not in self._listings:
            self._listings[key] = self._list(folder, recursive=recursive, expand=expand)
        return self._listings[key]

    def _list(self, folder: str, *, recursive: bool, expand: bool) -> list[dict[str, Any]]:
        prefix = f"{folder}/" if folder else ""
        title = self.title if expand else None
        entries = [
            file.entry(title, self.date, self.sha)
            for path, file in self.files.items()
            if path.startswith(prefix) and (recursive or "/" not in path[len(prefix) :])
        ]
        for path, oid in self.folders().items():
            if path.startswith(prefix) and (recursive or "/" not in path[len(prefix) :]):
                entry: dict[str, Any] = {"type": "directory", "oid": oid, "size": 0, "path": path}
                if expand:
                    entry["lastCommit"] = {"id": self.sha, "title": self.title, "date": self.date}
                entries.append(entry)
        return sorted(entries, key=lambda entry: str(entry["path"]))


@dataclass(slots=True)
class Repo:
    """A repo with its commits (oldest first), branches and tags."""

    repo_id: str
    repo_type: str
    gated: bool = False
    redirect: bool = True
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    tree_override: list[dict[str, Any]] | None = None

    def resolve(self, revision: str) -> Commit | None:
        """The commit of a branch, tag, `refs/...` name or (abbreviated) commit id."""
        sha = self.branches.get(revision) or self.tags.get(revision) or self.branches.get(f"refs/heads/{revision}")
        if sha is None and len(revision) >= 7:
            sha = next((known for known in self.commits if known.startswith(revision)), None)
        return self.commits[sha] if sha else None


class HubStore:
    """All repos of a sample Hub. Bytes handed in are kept below `objects`; paths are served where they lie."""

    def __init__(self, objects: Path) -> None:
        self._objects = objects
        self._lock = threading.Lock()
        self._repos: dict[tuple[str, str], Repo] = {}
        self._xet: dict[str, StoredFile] = {}

    def get(self, repo_type: str, repo_id: str) -> Repo | None:
        """The repo, or None."""
        return self._repos.get((repo_type, repo_id))

    def xet_file(self, xet_hash: str) -> StoredFile | None:
        """The file with a xet hash, or None."""
        return self._xet.get(xet_hash)

    def repos(self) -> list[Repo]:
        """All repos, by type and id."""
        return [self._repos[key] for key in sorted(self._repos)]

    def object(self, sha256: str) -> Path | None:
        """Content that was handed in or received, by its hash."""
        path = self._objects / sha256
        return path if _SHA256.fullmatch(sha256) and path.exists() else None

    @contextmanager
    def receiving(self) -> Iterator[Any]:
        """A file for content that is on its way; it is gone afterwards unless it was kept."""
        self._objects.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=self._objects, prefix="coming-", delete=False) as file:
            try:
                yield file
            finally:
                Path(file.name).unlink(missing_ok=True)

    def keep(self, path: Path, sha256: str) -> None:
        """Give received content its name; raises KeyError for what is no hash."""
        if not _SHA256.fullmatch(sha256):
            raise KeyError(sha256)
        path.replace(self._objects / sha256)

    def remove(self, repo_type: str, repo_id: str) -> None:
        """Forget a repo; raises KeyError when there is none."""
        with self._lock:
            del self._repos[repo_type, repo_id]

    def snapshot(self) -> dict[tuple[str, str], Repo]:
        """All repos as they are now, for `restore`."""
        return {key: _copy(repo) for key, repo in self._repos.items()}

    def restore(self, repos: Mapping[tuple[str, str], Repo]) -> None:
        """Back to an earlier `snapshot`; bytes added since are deleted."""
        kept = {
            file.source for repo in repos.values() for commit in repo.commits.values() for file in commit.files.values()
        }
        with self._lock:
            self._repos = {key: _copy(repo) for key, repo in repos.items()}
            if self._objects.is_dir():
                for path in self._objects.iterdir():
                    if path not in kept:
                        path.unlink()

    def commit(
        self,
        repo_id: str,
        files: Mapping[str, bytes | str | Path],
        *,
        repo_type: str = "dataset",
        title: str = "",
        branch: str = "main",
        tag: str | None = None,
        gated: bool = False,
        redirect: bool = True,
        xet: bool = False,
        lfs: LfsRule = default_lfs,
    ) -> str:
        """Add one commit with exactly these files (and no others) to a branch, making the repo when it is new.

        A `str` is text; `xet` gives all LFS files a xet hash; `redirect` answers for LFS files with a 302.
        Returns the commit id.
        """
        stored = {path: self._store(path, content, lfs, xet) for path, content in sorted(files.items())}
        with self._lock:
            self._xet.update({file.xet_hash: file for file in stored.values() if file.xet_hash})
            repo = self._repos.setdefault((repo_type, repo_id), Repo(repo_id, repo_type))
            repo.gated, repo.redirect = gated, redirect
            parent = repo.branches.get(branch, "")
            identity = "\n".join([repo_type, repo_id, parent, title, *(f"{f.path}\0{f.etag}" for f in stored.values())])
            sha = hashlib.sha1(identity.encode(), usedforsecurity=False).hexdigest()
            date = f"2024-01-{min(len(repo.commits) + 1, 28):02}T12:00:00.000Z"
            repo.commits[sha] = Commit(sha, title or f"Commit {len(repo.commits) + 1}", date, stored)
            repo.branches[branch] = sha
            if tag:
                repo.tags[tag] = sha
            repo.tree_override = None
        return sha

    def override_tree(self, repo_type: str, repo_id: str, entries: Sequence[Mapping[str, Any]] | None) -> None:
        """Answer every tree listing of the repo with these raw entries, whatever they are; None = the truth again."""
        repo = self._repos[repo_type, repo_id]
        repo.tree_override = None if entries is None else [dict(entry) for entry in entries]

    def _store(self, path: str, content: bytes | str | Path, lfs: LfsRule, xet: bool) -> StoredFile:
        if isinstance(content, Path):
            source, (size, sha256, oid) = content, _hash_file(content)
        else:
            data = content.encode() if isinstance(content, str) else content
            size, sha256, oid = len(data), hashlib.sha256(data).hexdigest(), _git_sha1(data)
            source = self._objects / sha256
            if not source.exists():
                self._objects.mkdir(parents=True, exist_ok=True)
                source.write_bytes(data)
        is_lfs = lfs(path, size)
        if is_lfs:
            oid = _git_sha1(_pointer(sha256, size))
        return StoredFile(path, size, source, oid, sha256, is_lfs, _xet_hash(source) if xet and is_lfs else None)


def _copy(repo: Repo) -> Repo:
    return Repo(
        repo.repo_id,
        repo.repo_type,
        repo.gated,
        repo.redirect,
        dict(repo.commits),
        dict(repo.branches),
        dict(repo.tags),
        repo.tree_override,
    )


def _pointer(sha256: str, size: int) -> bytes:
    """The text that git stores for an LFS file (git-lfs specification, "The Pointer")."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def _git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _hash_file(path: Path) -> tuple[int, str, str]:
    """Size, SHA-256 and git-sha1 of a file in one pass."""
    size = path.stat().st_size
    sha256, sha1 = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            sha256.update(data)
            sha1.update(data)
    return size, sha256.hexdigest(), sha1.hexdigest()


def _xet_hash(path: Path) -> str:
    import hf_xet

    return str(hf_xet.hash_files([str(path)])[0].hash)
