"""Compressed bytes to bytes, piece by piece.

Invariant: memory is bounded whatever the ratio of compression, and what ends in the middle or is damaged is an error,
never a shorter file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hfassets.errors import DataError
from hfassets.sources.files import Format

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

    damage: Any = (igzip_lib.IsalError, zstandard.ZstdError, EOFError)
    try:
        yield from decoder[kind](chunks)
    except damage as error:
        name = "gzip" if kind == "json.gz" else "zstd"
        raise DataError(f"{path}: the {name} stream is damaged: {error}") from error


def _gunzipped(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """RFC 1952: members one after the other; zero bytes behind the last are padding.

    One call a piece, all of it without Python's lock: a file object would take the lock again for every buffer, and
    wait each time for the thread that parses.
    """
    from isal import igzip_lib

    member: Any = None
    ended = False
    for chunk in chunks:
        data = chunk
        while data:
            if member is None:
                data = data.lstrip(b"\0") if ended else data
                if not data:
                    break
                member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
            yield member.decompress(data, PIECE)
            while not member.eof and not member.needs_input:
                yield member.decompress(b"", PIECE)
            data = b""
            if member.eof:
                data, member, ended = member.unused_data, None, True
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
