"""One tree listing at a pinned commit: the sizes and hashes that everything after it is held against."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from hfassets.hub.names import check_blob_id, check_commit, check_paths


@dataclass(frozen=True, slots=True)
class RepoFile:
    """A file as the Hub lists it: path, bytes, and its etag (SHA-256 for LFS and xet, else git-sha1)."""

    path: str
    size: int
    etag: str

    @property
    def algorithm(self) -> str:
        """`sha256` or `git-sha1`: what `etag` is a hash of."""
        return "sha256" if len(self.etag) == 64 else "git-sha1"


@dataclass(frozen=True, slots=True)
class Listing:
    """All files of a repo at one commit; every path and hash is checked when it is made (UnsafePathError)."""

    repo_id: str
    commit: str
    files: tuple[RepoFile, ...]
    repo_type: str = "dataset"

    def __post_init__(self) -> None:
        check_commit(self.commit)
        check_paths(file.path for file in self.files)
        for file in self.files:
            check_blob_id(file.etag, file.path)

    def select(self, paths: Iterable[str]) -> Listing:
        """The same commit with only the files named, in listing order."""
        wanted = set(paths)
        files = tuple(file for file in self.files if file.path in wanted)
        return Listing(self.repo_id, self.commit, files, self.repo_type)

    @property
    def total_bytes(self) -> int:
        """Sum of all sizes, in bytes."""
        return sum(file.size for file in self.files)

    @property
    def digest(self) -> str:
        """SHA-256 over (path, size, etag) of all files in path order: equal content has equal digests."""
        lines = sorted(f"{file.path}\0{file.size}\0{file.etag}\n" for file in self.files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()
