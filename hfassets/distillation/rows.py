"""The rows of a source in their order, from any place on.

Invariant: the order is a function of the listing at the pinned commit alone: the files of a part one after the other,
and of several parts one row each in turns. A cursor is enough to go on behind any row.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfassets.distillation.request import Part, SourceRequest
from hfassets.errors import DataError, HubError
from hfassets.hub.acquire import commit_listing, read_metadata
from hfassets.hub.configs import METADATA_FILES, list_configs
from hfassets.hub.listing import Listing, RepoFile
from hfassets.hub.memory import VerifyMemory
from hfassets.hub.session import HubClient
from hfassets.progress import ProgressCallback
from hfassets.sources.cached import cached_path, fetch_sources
from hfassets.sources.files import DamagedSourceError, LocalSource, RemoteSource, Source, find_sources, format_of
from hfassets.sources.packed import PackedGroup, PackedLines, PackedRows, rows_of
from hfassets.sources.records import WHOLE_BELOW, records

Place = tuple[int, int]
"""File of a part, and row in it."""
_TURNS = 256
WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class Cursor:
    """Behind which row of each part, and whose turn it is."""

    places: tuple[Place, ...]
    turn: int = 0

    @classmethod
    def start(cls, parts: int) -> Cursor:
        """Before the first row."""
        return cls(((0, 0),) * parts)

    def to_json(self) -> list[Any]:
        """JSON-ready."""
        return [[list(place) for place in self.places], self.turn]

    @classmethod
    def from_json(cls, document: Sequence[Any]) -> Cursor:
        """What `to_json` gave."""
        places, turn = document
        return cls(tuple((file, row) for file, row in places), turn)


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows: what `records` gives, with the part, file and row of each, and the cursor behind each.

    Rows are packed only where that was asked for.
    """

    rows: Sequence[Any] | PackedRows
    origins: Sequence[tuple[int, int, int]] | tuple[int, int, int]
    behind: Sequence[Cursor] | Cursor

    def origin(self, place: int) -> tuple[int, int, int]:
        """Part, file and row (from 0) of a row."""
        if isinstance(self.origins, tuple):
            part, file, first = self.origins
            return part, file, first + place
        return self.origins[place]

    def cursor(self, place: int) -> Cursor:
        """The cursor behind a row."""
        if isinstance(self.behind, Cursor):
            _, file, row = self.origin(place)
            return Cursor(((file, row + 1),))
        return self.behind[place]


class SourceRows:
    """The rows of a request's source."""

    def __init__(self, client: HubClient, request: SourceRequest, progress: ProgressCallback) -> None:
        self._client = client
        self._request = request
        self._progress = progress
        self._memory = VerifyMemory.open(request.state, request.repo)
        self.listing: Listing = commit_listing(client, request.repo, request.commit, request.state, progress)
        self.files: list[tuple[RepoFile, ...]] = [self._files_of(part) for part in request.parts]
        self._in_cache: set[str] = set()
        self._whole: set[str] = set()
        self.damaged: RepoFile | None = None
        """The file that turned out to be damaged, after a DamagedSourceError."""

    def prepare(self) -> None:
        """Fetch all files whole, unless they are streamed."""
        if not self._request.streaming:
            paths = [file.path for files in self.files for file in files]
            wanted = self.listing.select([*METADATA_FILES, *paths])
            fetch_sources(self._client, self._request.repo, wanted, self._memory, self._progress)

    def where(self, origin: tuple[int, int, int]) -> str:
        """A row's place for people: `path, row 12`, counted from 1."""
        part, file, row = origin
        return f"{self.files[part][file].path}, row {row + 1:,}"

    def blocks(self, begin: Cursor, *, packed: bool = False) -> Generator[Block, None, None]:
        """All rows from a cursor on; raises DamagedSourceError (see `damaged`), DataError, HubError.

        `packed`: leave rows packed where that is possible.
        """
        if len(self.files) == 1:
            for file, first, rows in self._part(0, begin.places[0], packed=packed):
                yield Block(rows, (0, file, first), Cursor(begin.places))
        else:
            yield from self._turns(begin)

    def discard(self, file: RepoFile) -> None:
        """Forget what has arrived of a file, unless it is proven."""
        if file.path not in self._whole:
            self._spool(file).unlink(missing_ok=True)

    def suspect(self, origin: tuple[int, int, int]) -> None:
        """Rows of this file cannot be read: remember it, and raise DamagedSourceError if its hash tells why."""
        file = self.files[origin[0]][origin[1]]
        self._suspect(file, self._open(file))

    def used(self, end: Cursor) -> list[dict[str, Any]]:
        """The files up to a cursor, and how each was read: whole and proven, or in part."""
        found = []
        for files, (last, row) in zip(self.files, end.places, strict=True):
            for index, file in enumerate(files[: last + (row > 0)]):
                small = file.size <= WHOLE_BELOW
                to_its_end = index < last if format_of(file.path) != "parquet" else small
                read = WHOLE if file.path in self._in_cache or to_its_end else "in part, unverified"
                found.append({"path": file.path, "size": file.size, "hash": file.etag, "read": read})
        return found

    def _files_of(self, part: Part) -> tuple[RepoFile, ...]:
        request = self._request
        if part.folder is None:
            return find_sources(
                self._client, request.repo, request.commit, self._config(part), request.split, request.state,
                self._progress,
            ).files  # fmt: skip
        folders = sorted({file.path.rpartition("/")[0] for file in self.listing.files if "/" in file.path})
        folder = _same_word(part.folder, folders)
        below = [file for file in self.listing.files if file.path.startswith(f"{folder}/")]
        data = [file for file in below if _is_data(file.path)]
        of_split = [file for file in data if request.split in file.path.removeprefix(folder)]
        if not data:
            raise DataError(f"{request.repo.repo_id} has no data in {part.folder}/; it has {', '.join(folders[:20])}")
        return tuple(sorted(of_split or data, key=lambda file: file.path))

    def _config(self, part: Part) -> str | None:
        """The config that a part means: older documents write `python` where the repo has `Python`."""
        if part.config is None:
            return None
        metadata = read_metadata(self._client, self._request.repo, self.listing, self._memory)
        return _same_word(part.config, list_configs(self.listing, metadata))

    def _part(
        self, part: int, begin: Place, *, packed: bool = False
    ) -> Iterator[tuple[int, int, Sequence[Any] | PackedRows]]:
        """File, first row and rows of a part, from a place on."""
        folder = self._request.parts[part].folder
        for index in range(begin[0], len(self.files[part])):
            file = self.files[part][index]
            source = self._open(file)
            skip = begin[1] if index == begin[0] else 0
            try:
                left = packed and folder is None
                with closing(records(source, skip, self._request.columns, packed=left)) as found:  # type: ignore[type-var]
                    for one in found:
                        rows = one.rows
                        if folder is not None and not isinstance(rows, PackedGroup | PackedLines):
                            # As with partitioned folders elsewhere: the name of the folder is a column.
                            rows = [{**row, "data_dir": folder} if isinstance(row, dict) else row for row in rows]
                        yield index, one.first, rows
            except DamagedSourceError:
                self.damaged = file
                raise
            except DataError:
                self._suspect(file, source)
                raise

    def _turns(self, begin: Cursor) -> Iterator[Block]:
        streams = [_singly(part, self._part(part, place)) for part, place in enumerate(begin.places)]
        places, turn = list(begin.places), begin.turn
        over: set[int] = set()
        rows: list[Any] = []
        origins: list[tuple[int, int, int]] = []
        cursors: list[Cursor] = []
        while len(over) < len(streams):
            if turn not in over:
                found = next(streams[turn], None)
                if found is None:
                    over.add(turn)
                else:
                    row, origin = found
                    places[turn] = (origin[1], origin[2] + 1)
                    rows.append(row)
                    origins.append(origin)
                    cursors.append(Cursor(tuple(places), (turn + 1) % len(streams)))
            turn = (turn + 1) % len(streams)
            if len(rows) == _TURNS:
                yield Block(rows, origins, cursors)
                rows, origins, cursors = [], [], []
        if rows:
            yield Block(rows, origins, cursors)

    def _suspect(self, file: RepoFile, source: Source) -> None:
        self.damaged = file
        if isinstance(source, RemoteSource):
            # Damaged on its way, or by whoever made it? Its hash tells.
            in_pieces = not source.spool.exists()
            source.fetch()
            if in_pieces:
                self._whole.add(file.path)
                raise DamagedSourceError(f"{source.repo.repo_id}/{file.path}: pieces of it were not as they should be")

    def _open(self, file: RepoFile) -> Source:
        request = self._request
        path = cached_path(request.repo, request.commit, self.listing, file, self._memory)
        if path is not None:
            self._in_cache.add(file.path)
            return LocalSource(file, path)
        if self._client.options.offline:
            raise HubError(f"{request.repo.repo_id}/{file.path}: offline, and it is not in the cache")
        return RemoteSource(self._client, request.repo, request.commit, file, self._spool(file))

    def _spool(self, file: RepoFile) -> Path:
        return self._request.work / f"{file.etag}.received"


def _singly(
    part: int, blocks: Iterator[tuple[int, int, Sequence[Any] | PackedRows]]
) -> Iterator[tuple[Any, tuple[int, int, int]]]:
    for file, first, rows in blocks:
        for place, row in enumerate(rows_of(rows)):
            yield row, (part, file, first + place)


def _same_word(word: str, known: Iterable[str]) -> str:
    """The known word that is this one but for its case; itself when there is none, or when it is known."""
    by_case = {one.casefold(): one for one in known}
    return word if word in by_case.values() else by_case.get(word.casefold(), word)


def _is_data(path: str) -> bool:
    try:
        format_of(path)
    except DataError:
        return False
    return not path.rsplit("/", 1)[-1].startswith(".")
