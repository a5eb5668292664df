"""Compressed bytes to bytes, piece by piece.

Invariant: memory is bounded whatever the ratio of compression, and what ends in the middle or is damaged is an error,
never a shorter file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hfassets.c4.sources import Format
from hfassets.errors import DataError

PIECE = 1 << 20
_WITH_GZIP_HEADER = 31
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

    damage: Any = (igzip_lib.IsalError, zstandard.ZstdError, EOFError)
    try:
        yield from decoder[kind](chunks)
    except damage as error:
        name = "gzip" if kind == "json.gz" else "zstd"
        raise DataError(f"{path}: the {name} stream is damaged: {error}") from error


def _gunzipped(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """RFC 1952: members one after the other; zero bytes between or behind them are padding."""
    from isal import isal_zlib

    member: Any = None
    for chunk in chunks:
        data = chunk
        while data:
            if member is None:
                data = data.lstrip(b"\0")
                if not data:
                    break
                member = isal_zlib.decompressobj(wbits=_WITH_GZIP_HEADER)
            piece = member.decompress(data, PIECE)
            if piece:
                yield piece
            if member.eof:
                data, member = member.unused_data, None
            else:
                data = member.unconsumed_tail
                if not data and len(piece) == PIECE:
                    # All input is taken in, and more output is waiting.
                    data = b""
                    while piece := member.decompress(b"", PIECE):
                        yield piece
                        if member.eof:
                            data, member = member.unused_data, None
                            break
    if member is not None:
        raise EOFError("it ends in the middle")


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
