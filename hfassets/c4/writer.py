"""One part as it grows: compressed if asked, hashed, written.

Invariant: the file has a temporary name until `finish` has made all of it durable; whoever does not finish leaves none.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from hfassets.c4.account import Account
from hfassets.c4.journal import Part, Position, SourceRange
from hfassets.c4.request import Compression
from hfassets.c4.rows import Batch
from hfassets.storage.atomic import temporary_beside
from hfassets.storage.behind import WriteBehind

_GZIP_LEVEL = 6
_ZSTD_LEVEL = 3
_WITH_GZIP_HEADER = 31


class Compressor(Protocol):
    """What of zlib's and zstandard's objects is used."""

    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def new_compressor(compression: Compression) -> Compressor | None:
    """A compressor whose output follows from its input alone: no time, no name of a machine's fast paths.

    gzip by zlib, whose header has no time then; igzip would be faster, but its bytes differ between processors.
    """
    if compression == "gzip":
        return zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _WITH_GZIP_HEADER)
    if compression == "zstd":
        import zstandard

        return zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True).compressobj()
    return None


class PartWriter:
    """Writes one part; use as a context manager."""

    def __init__(self, index: int, path: Path, compression: Compression, begin: Position) -> None:
        self.index = index
        self.path = path
        self.temporary = temporary_beside(path)
        self.rows = 0
        self.account = Account()
        self.end = begin
        self._begin = begin
        self._ranges: list[SourceRange] = []
        self._hash = hashlib.sha256()
        self._size = 0
        self._compressor = new_compressor(compression)

    def __enter__(self) -> Self:
        # Unbuffered: what comes is large, and a buffer would only be one more lock.
        self._file = self.temporary.open("xb", buffering=0)
        self._behind = WriteBehind(self._file.fileno())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self.temporary.unlink(missing_ok=True)

    def add(self, batch: Batch, file: int, path: str) -> None:
        """Write the rows of a batch of source number `file`."""
        # At once, while the bytes that were just looked at are in the processor's cache.
        self._put(self._compressor.compress(batch.data) if self._compressor else batch.data)
        self.rows += batch.rows
        self.account = self.account.add(batch, path)
        self.end = Position(file, batch.end)
        if self._ranges and self._ranges[-1].path == path:
            last = self._ranges.pop()
            self._ranges.append(SourceRange(path, last.first, batch.end, last.rows + batch.rows))
        else:
            self._ranges.append(SourceRange(path, batch.first, batch.end, batch.rows))

    def finish(self) -> Part:
        """Make all of it durable; the caller then gives the file its name."""
        if self._compressor:
            self._put(self._compressor.flush())
        os.fsync(self._file.fileno())
        self._behind.synced()
        return Part(
            index=self.index,
            name=self.path.name,
            size=self._size,
            sha256=self._hash.hexdigest(),
            rows=self.rows,
            begin=self._begin,
            end=self.end,
            sources=tuple(self._ranges),
            account=self.account.close(),
        )

    def _put(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._hash.update(data)
        self._size += len(data)
        self._behind.grown(self._size)
