"""Compressed bytes to bytes, piece by piece.

Invariant: memory is bounded whatever the ratio of compression, and what ends in the middle or is damaged is an error,
never a shorter file.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hfassets.c4.sources import Format
from hfassets.errors import DataError

PIECE = 1 << 20
_ZSTD_INPUT = 1 << 16


def decoded(chunks: Iterable[bytes], kind: Format, path: str) -> Iterator[bytes]:
    """The content of gzip (several members too), zstd (several frames too) or plain bytes, in pieces.

    Raises DataError naming `path` for a stream that is damaged or cut.
    """
    decoder: dict[str, Callable[[Iterable[bytes]], Iterator[bytes]]] = {"json.gz": _gunzipped, "json.zst": _unzstd}
    if kind == "json":
        yield from chunks
        return
    import zstandard
    from isal import igzip_lib

    damage: Any = (igzip_lib.IsalError, gzip.BadGzipFile, zstandard.ZstdError, EOFError)
    try:
        yield from decoder[kind](chunks)
    except damage as error:
        name = "gzip" if kind == "json.gz" else "zstd"
        raise DataError(f"{path}: the {name} stream is damaged: {error}") from error


class _Stream(io.RawIOBase):
    """Chunks as a file that can be read once."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if not self._left:
            self._left = memoryview(next(self._chunks, b""))
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size


def _gunzipped(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """RFC 1952: members one after the other; zero bytes behind the last are padding."""
    from isal import igzip

    stream: Any = igzip.IGzipFile(fileobj=_Stream(chunks), mode="rb")  # type: ignore[no-untyped-call]
    with stream as file:
        while piece := file.read(PIECE):
            yield piece


def _unzstd(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """RFC 8878: frames one after the other."""
    import zstandard

    context = zstandard.ZstdDecompressor()
    frame: Any = None
    for chunk in chunks:
        for start in range(0, len(chunk), _ZSTD_INPUT):
            data = chunk[start : start + _ZSTD_INPUT]
            while data:
                if frame is None:
                    frame = context.decompressobj()
                piece = frame.decompress(data)
                if piece:
                    yield piece
                data = b""
                if frame.eof:
                    data, frame = frame.unused_data, None
    if frame is not None:
        raise EOFError("it ends in the middle")
