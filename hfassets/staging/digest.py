"""What proves a copy: SHA-256 where the source's manifest has it, else XXH3, which costs next to nothing.

Invariant: a digest says which of the two it is; one of 64 hex digits alone is SHA-256.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

import xxhash

_XXH3 = "xxh3:"
_BLOCK = 256 << 10


class Digest(Protocol):
    """What both libraries' hashes can do."""

    def update(self, data: memoryview, /) -> None:
        """Take more bytes in."""

    def hexdigest(self) -> str:
        """Of all bytes so far."""


def new_digest(expected: str) -> Digest:
    """Of the kind that `expected` is; XXH3 with 128 bits for "", where there is nothing to compare with."""
    return xxhash.xxh3_128() if expected == "" or expected.startswith(_XXH3) else hashlib.sha256()


def said_digest(digest: Digest) -> str:
    """As it is written down."""
    text = digest.hexdigest()
    return text if len(text) == 64 else _XXH3 + text


def has_digest(path: Path, expected: str) -> bool:
    """Read a file and compare; raises OSError."""
    digest, buffer = new_digest(expected), memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return said_digest(digest) == expected
