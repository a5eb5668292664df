"""What the network may name: repo ids, revisions, commits, blob ids and paths, checked before any becomes a path.

Invariant: nothing that passes here can leave the folder it is joined to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from hfassets.errors import HubError, UnsafePathError

REPO_TYPES = ("dataset", "model", "space")

_REPO_ID = re.compile(r"^(?:[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}/)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}\Z")
_COMMIT = re.compile(r"^[0-9a-f]{40}\Z")
_BLOB_ID = re.compile(r"^(?:[0-9a-f]{40}|[0-9a-f]{64})\Z")


def check_repo_id(repo_id: str) -> str:
    """`name` or `owner/name` in the Hub's alphabet; raises HubError."""
    if not _REPO_ID.match(repo_id) or ".." in repo_id or "--" in repo_id or repo_id.endswith((".git", ".", "-")):
        raise HubError(f"{repo_id!r} is not a Hub repo id; it looks like owner/name")
    return repo_id


def check_revision(revision: str) -> str:
    """A branch, tag, `refs/...` name or commit that is also a safe relative path; raises HubError."""
    if not revision or revision.startswith(("/", "-")) or "\\" in revision or "\0" in revision or ".." in revision:
        raise HubError(f"{revision!r} is not a revision; it is a branch, a tag or a commit")
    return revision


def check_commit(commit: str) -> str:
    """A full commit hash of 40 hex digits; raises UnsafePathError, since it names a folder."""
    if not _COMMIT.match(commit):
        raise UnsafePathError(f"the Hub named {commit!r} as a commit; a commit is 40 hex digits")
    return commit


def check_blob_id(blob_id: str, path: str) -> str:
    """40 hex digits (git-sha1) or 64 (SHA-256); raises UnsafePathError, since it names a file."""
    if not _BLOB_ID.match(blob_id):
        raise UnsafePathError(f"the Hub named {blob_id!r} as the hash of {path!r}; it is 40 or 64 hex digits")
    return blob_id


def check_path(path: str) -> str:
    """A relative POSIX path without empty, `.` or `..` steps, backslashes or control characters."""
    steps = path.split("/")
    unsafe = any(step in ("", ".", "..") or len(step.encode()) > 255 for step in steps)
    if unsafe or "\\" in path or any(ord(character) < 32 or ord(character) == 127 for character in path):
        raise UnsafePathError(f"the Hub listed {path!r}, which is no plain path inside the repo; nothing was written")
    return path


def check_paths(paths: Iterable[str]) -> None:
    """All of `check_path`, and that no path is listed twice or is also the folder of another."""
    seen: set[str] = set()
    folders: set[str] = set()
    for path in paths:
        check_path(path)
        if path in seen:
            raise UnsafePathError(f"the Hub listed {path!r} twice; nothing was written")
        seen.add(path)
        while "/" in path:
            path = path.rpartition("/")[0]
            folders.add(path)
    both = sorted(seen & folders)
    if both:
        raise UnsafePathError(f"the Hub listed {both[0]!r} as a file and as a folder; nothing was written")
