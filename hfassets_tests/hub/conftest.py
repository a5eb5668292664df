"""Hub caches laid out by hand, as each version of the library lays them out."""

from __future__ import annotations

import hashlib
import json
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hfassets.hub.layout import RepoCache
from hfassets.storage.state import StateDir

COMMIT = "a" * 40


def content(size: int, seed: int = 0) -> bytes:
    """Bytes that look random and are the same in every run."""
    return random.Random(seed).randbytes(size)


def etag_of(data: bytes, lfs: bool = True) -> str:
    """The name of the blob: SHA-256 for LFS files, else git's blob id."""
    if lfs:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class HandMadeCache:
    """Writes repos into `hub`; `state` is the project's own folder, outside."""

    hub: Path
    state: StateDir
    commit: str = COMMIT
    other: str = "b" * 40

    content = staticmethod(content)
    etag_of = staticmethod(etag_of)

    def repo(self, repo_id: str = "org/name", repo_type: str = "dataset") -> RepoCache:
        """The folder of a repo."""
        return RepoCache(self.hub, repo_id, repo_type)

    def add(
        self,
        path: str,
        data: bytes,
        *,
        repo_id: str = "org/name",
        repo_type: str = "dataset",
        commit: str = COMMIT,
        lfs: bool = True,
        ref: str | None = "main",
    ) -> Path:
        """A file as huggingface_hub 0.36 leaves it: blob, relative link, ref. Returns the blob."""
        repo = self.repo(repo_id, repo_type)
        blob = repo.blob(etag_of(data, lfs))
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        self.link(repo, commit, path, blob)
        if ref:
            repo.ref(ref).parent.mkdir(parents=True, exist_ok=True)
            repo.ref(ref).write_text(commit)
        return blob

    def link(self, repo: RepoCache, commit: str, path: str, blob: Path) -> Path:
        """A snapshot link to a blob."""
        pointer = repo.snapshot(commit) / path
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        return pointer

    def add_stored(self, path: str, data: bytes, *, repo_id: str = "org/name", commit: str = COMMIT) -> Path:
        """A file as hub 2.x leaves it: in the cache-wide store under its xet hash. Returns the store's file."""
        import hf_xet

        self.hub.mkdir(parents=True, exist_ok=True)
        source = self.hub / "source"
        source.write_bytes(data)
        name = hf_xet.hash_files([str(source)])[0].hash
        stored = self.hub / "blobs" / name[:2] / name
        stored.parent.mkdir(parents=True, exist_ok=True)
        source.rename(stored)
        (self.hub / "blobs" / ".huggingface-shared-blobs").write_text("1\n")
        repo = self.repo(repo_id)
        blob = repo.blob(etag_of(data))
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.symlink_to(os.path.relpath(stored, blob.parent))
        stored.with_name(f"{name}.lock").touch()
        with stored.with_name(f"{name}.refs").open("a") as refs:
            refs.write(f"{blob.relative_to(self.hub)}\n")
        self.link(repo, commit, path, blob)
        return stored

    def add_tree(
        self, files: dict[str, tuple[bytes, bool]], *, repo_id: str = "org/name", commit: str = COMMIT
    ) -> Path:
        """`trees/<commit>.json` as hub 1.2x and later write it; files: path -> (content, is it LFS)."""
        entries = {}
        for path, (data, lfs) in files.items():
            entries[path] = {"size": len(data), "blob_id": etag_of(data, lfs=False)}
            if lfs:
                entries[path] |= {"lfs_sha256": etag_of(data), "lfs_size": len(data)}
        tree = self.repo(repo_id).folder / "trees" / f"{commit}.json"
        tree.parent.mkdir(parents=True, exist_ok=True)
        tree.write_text(json.dumps({"format_version": 1, "files": entries}, indent=1))
        return tree


@pytest.fixture
def cache(tmp_path: Path) -> HandMadeCache:
    """An empty cache and a state folder."""
    return HandMadeCache(tmp_path / "hub", StateDir(tmp_path / "state"))


@pytest.fixture(scope="session")
def make_cache(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], HandMadeCache]:
    """Any number of empty caches, for properties that need a new one for each example."""

    def make() -> HandMadeCache:
        root = tmp_path_factory.mktemp("cache")
        return HandMadeCache(root / "hub", StateDir(root / "state"))

    return make


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that other users can reach; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory(prefix="hfassets-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def as_nobody() -> Callable[[Callable[[], Any]], Any]:
    """Call a function as the user nobody, in a forked process; gives what it returns, as JSON can carry it.

    Forked, not executed: the interpreter may lie where nobody may look.
    """
    if os.getuid() != 0:
        pytest.skip("needs root to become another user")

    def call(function: Callable[[], Any]) -> Any:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                answer = {"value": function()}
            except BaseException as error:
                answer = {"error": repr(error)}
            os.write(writing, json.dumps(answer).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            told = json.loads(pipe.read())
        os.waitpid(child, 0)
        assert "error" not in told, told["error"]
        return told["value"]

    return call
