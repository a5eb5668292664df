"""The rows of a split in its own order, from any place on.

Invariant: the same lines come whether the sources are streamed or lie in the Hub cache, and a source that arrived
damaged is told before anybody takes its end for good.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from hfassets.c4.account import Account
from hfassets.c4.journal import Position
from hfassets.c4.request import ShardSetRequest
from hfassets.c4.rows import Batch, batches
from hfassets.errors import DataError, HubError
from hfassets.hub.listing import RepoFile
from hfassets.hub.memory import VerifyMemory
from hfassets.hub.session import HubClient
from hfassets.progress import ProgressCallback
from hfassets.sources.cached import cached_path, fetch_sources, located
from hfassets.sources.files import DamagedSourceError, LocalSource, RemoteSource, Source, Sources, find_sources


class FirstRows:
    """The lines of all source files, one after the other."""

    def __init__(self, client: HubClient, request: ShardSetRequest, progress: ProgressCallback) -> None:
        self._client = client
        self._request = request
        self._progress = progress
        self._memory = VerifyMemory.open(request.state, request.repo)
        self.sources: Sources = find_sources(
            client, request.repo, request.commit, request.config, request.split, request.state, progress
        )
        self._proven: set[int] = set()
        self.damaged: int | None = None
        """The source that turned out to be damaged, after a DamagedSourceError."""

    def located(self) -> list[tuple[RepoFile, Path]]:
        """All source files with the places where they lie; they have been fetched."""
        found = located(
            self._request.repo, self._request.commit, self.sources.listing, self.sources.files, self._memory
        )
        self._proven |= set(range(len(found)))
        return found

    def tail(self) -> Account:
        """Nothing: every line that was read belongs to a part, or was read last."""
        return Account()

    def prepare(self) -> None:
        """Fetch all source files, unless they are streamed."""
        if not self._request.streams:
            fetch_sources(
                self._client,
                self._request.repo,
                self.sources.listing,
                self._memory,
                self._progress,
                hint="; --streaming reads only what it needs",
            )

    def rows(self, begin: Position) -> Generator[tuple[int, str, Batch], None, None]:
        """(file index, path, batch) from `begin` on; raises DamagedSourceError (see `damaged`), DataError, HubError."""
        for index in range(begin.file, len(self.sources.files)):
            file = self.sources.files[index]
            source = self._open(file)
            try:
                for batch in batches(source, begin.line if index == begin.file else 0):
                    yield index, file.path, batch
            except DamagedSourceError:
                self.damaged = index
                raise
            except DataError:
                self.damaged = index
                if isinstance(source, RemoteSource):
                    # Damaged on its way, or by whoever made it? Its hash tells.
                    source.fetch()
                raise
            self._proven.add(index)

    def discard(self, index: int) -> None:
        """Forget what has arrived of a source: it was damaged, or is not needed any more."""
        self._spool(self.sources.files[index]).unlink(missing_ok=True)

    def used(self, end: Position) -> tuple[Mapping[str, Any], ...]:
        """The sources up to `end`, and whether each was read to its end and proven, or its beginning only."""
        last = min(end.file, len(self.sources.files) - 1)
        return tuple(
            {
                "path": file.path,
                "size": file.size,
                "hash": file.etag,
                "read": "whole" if index < last or index in self._proven else "prefix, unverified",
            }
            for index, file in enumerate(self.sources.files[: last + 1])
        )

    def _open(self, file: RepoFile) -> Source:
        path = cached_path(self._request.repo, self._request.commit, self.sources.listing, file, self._memory)
        if path is not None:
            self._proven.add(self.sources.files.index(file))
            return LocalSource(file, path)
        if self._client.options.offline:
            raise HubError(f"{self._request.repo.repo_id}/{file.path}: offline, and it is not in the cache")
        return RemoteSource(self._client, self._request.repo, self._request.commit, file, self._spool(file))

    def _spool(self, file: RepoFile) -> Path:
        return self._request.work / f"{file.etag}.received"
