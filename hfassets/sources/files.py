"""The source files of a split at a pinned commit, and their compressed bytes.

Invariant: bytes of a source that was read to its end have the hash that the Hub lists, or IntegrityError is raised;
what was received before a crash is kept and not asked for again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hfassets.errors import DataError, HubError, IntegrityError
from hfassets.hub.acquire import commit_listing, read_metadata
from hfassets.hub.configs import METADATA_FILES, config_files
from hfassets.hub.hashing import new_hash
from hfassets.hub.layout import RepoCache
from hfassets.hub.listing import Listing, RepoFile
from hfassets.hub.memory import VerifyMemory
from hfassets.hub.session import BodyCutError, HubClient, read_body
from hfassets.progress import ProgressCallback
from hfassets.storage.behind import WriteBehind
from hfassets.storage.state import StateDir

CHUNK = 1 << 20

Format = Literal["json", "json.gz", "json.zst", "parquet"]
_ENDINGS: tuple[tuple[str, Format], ...] = (
    *((f"{name}.gz", "json.gz") for name in (".json", ".jsonl", ".ndjson")),
    *((f"{name}.zst", "json.zst") for name in (".json", ".jsonl", ".ndjson")),
    *((name, "json") for name in (".json", ".jsonl", ".ndjson")),
    (".parquet", "parquet"),
)


class DamagedSourceError(IntegrityError):
    """A source arrived with other bytes than the Hub lists; what was received of it is thrown away."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The files of a split, in the order in which `datasets` reads them; `listing` has these and the metadata files."""

    listing: Listing
    files: tuple[RepoFile, ...]


def format_of(path: str) -> Format:
    """How a file's rows are stored, by its name; raises DataError for what cannot be read here."""
    for ending, kind in _ENDINGS:
        if path.lower().endswith(ending):
            return kind
    raise DataError(f"{path}: not a source of rows; gzip, zstd or plain JSON lines and Parquet can be read")


def find_sources(
    client: HubClient,
    repo: RepoCache,
    commit: str,
    config: str | None,
    split: str,
    state: StateDir,
    progress: ProgressCallback,
) -> Sources:
    """The files of a split; raises DataError for a config or split that the repo does not have."""
    listing = commit_listing(client, repo, commit, state, progress)
    metadata = read_metadata(client, repo, listing, VerifyMemory.open(state, repo))
    found = config_files(listing, metadata, config)
    if split not in found.data_files:
        raise DataError(
            f"{repo.repo_id}: config {found.name!r} has no split {split!r}; it has {', '.join(found.data_files)}"
        )
    by_path = {file.path: file for file in listing.files}
    files = tuple(by_path[path] for path in found.data_files[split])
    for file in files:
        format_of(file.path)
    return Sources(listing.select([*METADATA_FILES, *(file.path for file in files)]), files)


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A source that lies in the Hub cache, proven."""

    file: RepoFile
    path: Path

    def chunks(self) -> Iterator[bytes]:
        """Its bytes, in order."""
        with self.path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk


@dataclass(frozen=True, slots=True)
class SliceSource:
    """The lines of a plain file of JSON lines from one byte to another, excluded; both are where a line begins."""

    file: RepoFile
    path: Path
    begin: int
    end: int

    def chunks(self) -> Iterator[bytes]:
        """Its bytes, in order."""
        with self.path.open("rb") as file:
            file.seek(self.begin)
            left = self.end - self.begin
            while left and (chunk := file.read(min(CHUNK, left))):
                left -= len(chunk)
                yield chunk


@dataclass(frozen=True, slots=True)
class RemoteSource:
    """A source on the Hub, read as it arrives. `spool` keeps what has arrived, for a later run and for who seeks."""

    client: HubClient
    repo: RepoCache
    commit: str
    file: RepoFile
    spool: Path

    def chunks(self) -> Iterator[bytes]:
        """Its bytes, in order: what the spool has, then the rest from the Hub; stops being asked when closed.

        Raises DamagedSourceError at its end, HubError when the Hub does not give it.
        """
        self.spool.parent.mkdir(parents=True, exist_ok=True)
        digest, have, size = new_hash(self.file.algorithm, self.file.size), 0, self.file.size
        with self.spool.open("a+b") as spool:
            spool.seek(0)
            while have < size and (chunk := spool.read(min(CHUNK, size - have))):
                digest.update(chunk)
                have += len(chunk)
                yield chunk
            if spool.tell() > size or spool.read(1):
                raise self._damaged(f"more than {size:,} B had arrived")
            behind = WriteBehind(spool.fileno())
            for chunk in self._rest(have):
                spool.write(chunk)
                digest.update(chunk)
                have += len(chunk)
                behind.grown(have)
                yield chunk
        found = digest.hexdigest()
        if have != size or found != self.file.etag:
            raise self._damaged(f"{have:,} B of {self.file.algorithm} {found[:12]}…")

    def fetch(self) -> Path:
        """The whole file on disk, proven: for formats that are read from their end."""
        for _ in self.chunks():
            pass
        return self.spool

    def discard(self) -> None:
        """Forget what has arrived."""
        self.spool.unlink(missing_ok=True)

    def _rest(self, have: int) -> Iterator[bytes]:
        size, failures = self.file.size, 0
        while have < size:
            with self.client.open_stream(
                self.repo.repo_id, self.commit, self.file.path, have, self.repo.repo_type
            ) as response:
                skip = 0 if response.status_code == 206 else have
                if response.status_code == 416:
                    raise self._damaged("the Hub's file is shorter than listed")
                try:
                    while have < size:
                        chunk = read_body(response, min(CHUNK, size - have) if not skip else min(CHUNK, skip))
                        if not chunk:
                            raise self._damaged(f"the Hub's file ends after {have:,} B")
                        failures = 0
                        if skip:
                            # A server that ignores ranges sends from the start.
                            skip -= len(chunk)
                            continue
                        have += len(chunk)
                        yield chunk
                except BodyCutError as cut:
                    failures += 1
                    if failures > self.client.options.max_retries:
                        raise HubError(f"{cut} (after {failures - 1} retries)") from None
                    self.client.patience.pause(
                        self.client.patience.backoff(failures), f"{cut}; {have:,} of {size:,} B are here"
                    )

    def _damaged(self, what: str) -> DamagedSourceError:
        return DamagedSourceError(
            f"{self.repo.repo_id}/{self.file.path}: not the {self.file.size:,} B of {self.file.algorithm} "
            f"{self.file.etag[:12]}… that the Hub lists: {what}"
        )


Source = LocalSource | SliceSource | RemoteSource
