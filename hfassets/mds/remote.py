"""Where a finished MDS may lie besides this disk: a dataset repo of the Hub, or a prefix in S3.

Invariant: a file that was put there has been proven by its hash; files are put in the order given, so that what comes
last tells that the others are there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hfassets.errors import DataError, HubError, UsageError
from hfassets.hub.hashing import algorithm_of, hash_file
from hfassets.hub.options import HubOptions, hub_options
from hfassets.storage.s3 import S3Prefix, S3Settings, S3Store

MOST_FILES, MOST_BYTES = 100, 5 << 30
"""Of one commit: what the Hub takes well (its guide to uploads says 50 to 100 files)."""
_REPO = re.compile(r"(?:hf://)?(?:datasets/)?([\w.-]+/[\w.-]+)((?:/[\w.=-]+)*)/?", re.ASCII)
_TRIES = 5

Entry = tuple[str, Path]
"""A path there, and the file here."""


class Remote(Protocol):
    """A place that takes files."""

    def prepare(self) -> None:
        """Make it if it is to be made, and find out whether it takes anything. Raises HubError or S3Error."""

    def read(self, path: str) -> bytes | None:
        """A small file whole; None when it is not there. Raises HubError or S3Error."""

    def put(self, files: Sequence[Entry], message: str, on_bytes: Callable[[int], None] = lambda _: None) -> int:
        """Put those files there that are not there yet; the number sent. `on_bytes` is told of each file's size.

        Raises HubError or S3Error, ObjectExistsError for another file of that name in S3.
        """


@dataclass(frozen=True)
class Place:
    """Where to, as it was written: `s3://bucket/prefix`, or `ORG/NAME[/folder]` of the Hub, with or without
    `hf://datasets/`. Settings of S3 as S3Settings has them; `revision`: a branch of the repo.
    """

    text: str
    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    revision: str = "main"

    def open(self) -> Remote:
        """The place; raises UsageError for what names none, HubError without a token."""
        if self.text.startswith("s3://"):
            return _Bucket(S3Store(S3Prefix.parse(self.text, S3Settings(self.endpoint_url, self.region, self.profile))))
        found = _REPO.fullmatch(self.text)
        if found is None or ".." in self.text:
            raise UsageError(
                f"{self.text!r} is no place for an upload; it is s3://bucket/prefix, or ORG/NAME of the Hub"
            )
        options = hub_options()
        if options.token is None:
            raise HubError(
                f"{self.text}: the Hub takes files from those it knows; set HF_TOKEN to a token that may write"
            )
        return _Repo(options, found[1], found[2].strip("/"), self.revision)


class _Bucket:
    def __init__(self, store: S3Store) -> None:
        self._store = store

    def prepare(self) -> None:
        # A bucket that is not there, or that nobody may read, is told now.
        self._store.read_bytes("manifest.json")

    def read(self, path: str) -> bytes | None:
        return self._store.read_bytes(path)

    def put(self, files: Sequence[Entry], message: str, on_bytes: Callable[[int], None] = lambda _: None) -> int:
        sent = 0
        for path, file in files:
            if not self._store.has(path, file):
                self._store.put(path, file, replace=path.endswith(".json"))
                sent += 1
            on_bytes(file.stat().st_size)
        return sent


class _Repo:
    def __init__(self, options: HubOptions, repo_id: str, below: str, revision: str) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import disable_progress_bars

        # There is one bar for all, and it is ours.
        disable_progress_bars()
        # Its own sessions begin a body anew that has to be sent again; ours are made for what is read.
        self._api = HfApi(endpoint=options.endpoint, token=options.token)
        self._repo_id = repo_id
        self._below = below
        self._revision = revision

    def prepare(self) -> None:
        with self._asking("make the repo"):
            self._api.create_repo(self._repo_id, repo_type="dataset", private=True, exist_ok=True)

    def read(self, path: str) -> bytes | None:
        from huggingface_hub.utils import EntryNotFoundError, build_hf_headers, get_session, hf_raise_for_status

        url = f"{self._api.endpoint}/datasets/{self._repo_id}/resolve/{self._revision}/{self._path(path)}"
        with self._asking(path):
            response = get_session().get(url, headers=build_hf_headers(token=self._api.token))
            try:
                hf_raise_for_status(response)
            except EntryNotFoundError:
                return None
            except Exception as error:
                if getattr(getattr(error, "response", None), "status_code", None) in (401, 404):
                    return None
                raise
            return bytes(response.content)

    def put(self, files: Sequence[Entry], message: str, on_bytes: Callable[[int], None] = lambda _: None) -> int:
        from huggingface_hub import CommitOperationAdd

        with self._asking(message):
            held = self._held([self._path(path) for path, _ in files])
        sent = 0
        for batch in _batches(files):
            operations = []
            for path, file in batch:
                oid = held.get(self._path(path))
                if oid is None or hash_file(file, algorithm_of(oid)) != oid:
                    operations.append(CommitOperationAdd(self._path(path), file))
            if operations:
                self._commit(operations, message)
            sent += len(operations)
            on_bytes(sum(file.stat().st_size for _, file in batch))
        return sent

    def _path(self, path: str) -> str:
        return f"{self._below}/{path}" if self._below else path

    def _held(self, paths: Sequence[str]) -> dict[str, str]:
        """What the repo has of some paths, with the hash that it lists."""
        found: dict[str, str] = {}
        for start in range(0, len(paths), 500):
            some = list(paths[start : start + 500])
            for one in self._api.get_paths_info(self._repo_id, some, revision=self._revision, repo_type="dataset"):
                lfs = getattr(one, "lfs", None)
                blob = lfs.sha256 if lfs is not None else getattr(one, "blob_id", None)
                if blob is not None:
                    found[one.path] = blob
        return found

    def _commit(self, operations: Sequence[Any], message: str) -> None:
        """One commit; somebody else's in between, or a server in trouble, is no reason to give up."""
        from huggingface_hub.errors import HfHubHTTPError
        from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

        def passes(error: BaseException) -> bool:
            while error.__cause__ is not None and not isinstance(error, HfHubHTTPError):
                error = error.__cause__
            status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
            return isinstance(error, OSError) and (status is None or status in (408, 409, 412, 429) or status >= 500)

        tries = Retrying(
            retry=retry_if_exception(passes), stop=stop_after_attempt(_TRIES), reraise=True,
            wait=wait_exponential_jitter(initial=1, max=60),
        )  # fmt: skip
        with self._asking(message):
            for attempt in tries:
                with attempt:
                    self._api.create_commit(
                        self._repo_id, operations, commit_message=message, repo_type="dataset", revision=self._revision
                    )

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Turn what the library raises into one line."""
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            if isinstance(error, OSError) and error.filename is not None:
                raise
            raise HubError(f"{self._repo_id}: {what}: {_said(error)}") from error


def _said(error: BaseException) -> str:
    """What the server said, or else what is at the bottom of an error."""
    while True:
        told = getattr(error, "server_message", None)
        if told or error.__cause__ is None:
            return " ".join((told or str(error) or type(error).__name__).split())[:300]
        error = error.__cause__


def _batches(files: Sequence[Entry]) -> Iterator[list[Entry]]:
    """The files in their order, as many at a time as a commit may have."""
    batch: list[Entry] = []
    size = 0
    for path, file in files:
        grown = file.stat().st_size
        if batch and (len(batch) == MOST_FILES or size + grown > MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((path, file))
        size += grown
    if batch:
        yield batch


def folder_files(folder: Path) -> list[Entry]:
    """All files of a folder but hidden ones, shards first, then indexes and stats from the deepest up, manifests last.

    Raises DataError when there is none.
    """
    found = [path for path in folder.rglob("*") if path.is_file()]
    named = {path.relative_to(folder): path for path in found}
    visible = [path for path in named if not any(part.startswith(".") for part in path.parts)]
    if not visible:
        raise DataError(f"{folder}: no file in it to upload")

    def order(path: Path) -> tuple[int, int, str]:
        kind = 2 if path.name == "manifest.json" else 1 if path.suffix == ".json" else 0
        return kind, -len(path.parts) if kind else 0, path.as_posix()

    return [(path.as_posix(), named[path]) for path in sorted(visible, key=order)]
