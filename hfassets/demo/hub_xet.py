"""The reading half of xet storage: a file as segments of plain chunks, made from the file itself when asked for.

Invariant: what the reconstruction names adds up to the true bytes of the range asked for. The chunks are not cut by
content, as an upload's would be: a reader cannot tell. Source: the xet protocol specification 1.1
(huggingface.co/docs/xet: "CAS API", "Xorb Formation & Serialization Format").
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import Any

from hfassets.demo.hub_store import StoredFile

CHUNK = 64 * 1024
SEGMENT = 128 * CHUNK

_RANGE = re.compile(r"^bytes=(\d+)-(\d+)$")


def reconstruction(file: StoredFile, base: str, requested: str) -> dict[str, Any] | None:
    """The terms that give a range of the file (all of it without a Range header); None when it starts past the end."""
    match = _RANGE.match(requested)
    first, last = (int(match.group(1)), int(match.group(2))) if match else (0, file.size - 1)
    last = min(last, file.size - 1)
    if first > last:
        return None
    terms, fetches = [], {}
    for number in range(first // SEGMENT, last // SEGMENT + 1):
        size = min(SEGMENT, file.size - number * SEGMENT)
        name = hashlib.sha256(f"{file.xet_hash} {number}".encode()).hexdigest()
        chunks = {"start": 0, "end": -(-size // CHUNK)}
        terms.append({"hash": name, "unpacked_length": size, "range": chunks})
        url = f"{base}/xet/xorbs/{file.xet_hash}/{number}"
        whole = {"start": 0, "end": size + 8 * chunks["end"] - 1}
        fetches[name] = [{"range": chunks, "url": url, "url_range": whole}]
    return {"offset_into_first_range": first % SEGMENT, "terms": terms, "fetch_info": fetches}


def xorb(file: StoredFile, number: int) -> bytes:
    """One segment as a xorb of uncompressed chunks, each behind its 8-byte header; empty past the end of the file."""
    with file.source.open("rb") as source:
        data = os.pread(source.fileno(), SEGMENT, number * SEGMENT)
    pieces = []
    for start in range(0, len(data), CHUNK):
        chunk = data[start : start + CHUNK]
        size = len(chunk).to_bytes(3, "little")
        pieces += [b"\0", size, b"\0", size, chunk]
    return b"".join(pieces)
