"""A file on the Hub that is read in pieces, for formats where a few columns or the first rows are wanted.

Invariant: what is read so is never taken for proven: a hash of the whole is all that the Hub lists.
"""

from __future__ import annotations

import io
import threading
from typing import Any

from hfassets.errors import HubError
from hfassets.hub.listing import RepoFile
from hfassets.hub.session import BodyCutError, HubClient, read_body
from hfassets.sources.files import DamagedSourceError, RemoteSource

_LEAST = 1 << 16
"""Bytes asked for at least: the end of a Parquet file is read in two steps."""


class RangeFile(io.RawIOBase):
    """Seekable; each read that the last answer does not cover is one request. `received`: bytes that came so far."""

    def __init__(self, source: RemoteSource) -> None:
        super().__init__()
        self._source = source
        self._place = 0
        self._start = 0
        self._held = b""
        self._lock = threading.Lock()
        self.received = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._file.size}[whence]
        self._place = base + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any, /) -> int:
        with self._lock:
            size = max(0, min(len(buffer), self._file.size - self._place))
            start = self._place - self._start
            if not 0 <= start <= len(self._held) - size:
                last = max(0, self._file.size - _LEAST)
                self._start = min(self._place, last) if size < _LEAST else self._place
                self._held = self._fetch(self._start, min(self._file.size, self._start + max(size, _LEAST)))
                start = self._place - self._start
            buffer[:size] = self._held[start : start + size]
            self._place += size
            return size

    def read_at(self, size: int, offset: int) -> bytes:
        """So many bytes from a place on, as they came: nothing is copied or kept, the file's place stays."""
        with self._lock:
            start = offset - self._start
            if 0 <= start <= len(self._held) - size:
                return self._held[start : start + size]
        return self._fetch(offset, min(self._file.size, offset + size))

    @property
    def _file(self) -> RepoFile:
        return self._source.file

    @property
    def _client(self) -> HubClient:
        return self._source.client

    def _fetch(self, start: int, end: int) -> bytes:
        pieces: list[bytes] = []
        came = failures = 0
        repo = self._source.repo
        while came < end - start:
            begin = start + came
            with self._client.open_stream(
                repo.repo_id, self._source.commit, self._file.path, begin, repo.repo_type, end=end
            ) as response:
                # A server that ignores ranges sends from the start.
                skip = 0 if response.status_code == 206 else begin
                try:
                    while response.status_code != 416 and came < end - start:
                        piece = read_body(response, min(skip, 1 << 20) if skip else end - start - came)
                        if not piece:
                            break
                        if skip:
                            skip -= len(piece)
                            continue
                        pieces.append(piece)
                        came += len(piece)
                        self.received += len(piece)
                        failures = 0
                    if came < end - start:
                        raise DamagedSourceError(
                            f"{repo.repo_id}/{self._file.path}: the Hub's file is shorter than the "
                            f"{self._file.size:,} B it lists"
                        )
                except BodyCutError as cut:
                    failures += 1
                    if failures > self._client.options.max_retries:
                        raise HubError(f"{cut} (after {failures - 1} retries)") from None
                    self._client.patience.pause(self._client.patience.backoff(failures), str(cut))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
