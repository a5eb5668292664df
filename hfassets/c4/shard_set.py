"""A shard set that is done, as its manifest tells.

Invariant: there is a shard set only while its manifest stands at its destination, is that of the request, and every
part it names is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from hfassets.c4.account import Account
from hfassets.c4.journal import Part
from hfassets.c4.request import STAGE, ShardSetRequest
from hfassets.c4.target import Folder, Objects
from hfassets.storage.manifest import Manifest
from hfassets.storage.s3 import S3Prefix

_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class ShardSet:
    """A shard set that is done. `made`: parts made now; `reused`: nothing had to be done at all. Sizes in bytes."""

    name: str
    place: str
    stem: str
    parts: tuple[Part, ...]
    account: Account
    asked: int
    made: int
    seconds: float
    reused: bool
    fingerprint: str
    sources: tuple[Mapping[str, Any], ...]
    commit: str

    @property
    def rows(self) -> int:
        """Rows in all parts."""
        return sum(part.rows for part in self.parts)

    @property
    def size(self) -> int:
        """Bytes in all parts."""
        return sum(part.size for part in self.parts)

    @property
    def urls(self) -> tuple[str, ...]:
        """Where each part is."""
        return tuple(f"{self.place}/{part.name}" for part in self.parts)


def find_shard_set(request: ShardSetRequest, *, by_hash: bool = False) -> ShardSet | None:
    """The shard set as an earlier run has published it, if every part is still there.

    By size (in S3: and by its server's checksum), or by reading all bytes. Raises S3Error.
    """
    manifest, store = published(request)
    if manifest is None or manifest.stage != STAGE or manifest.fingerprint != request.fingerprint:
        return None
    parts = tuple(Part.from_dict(part) for part in manifest.details["parts"])
    stores = [store]
    if request.keep_local and isinstance(store, Objects):
        stores.append(Folder(request.local, request.manifest_name))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for place in stores:
            if not all(pool.map(lambda part, place=place: place.has(part, by_hash=by_hash), parts)):
                return None
    return shard_set(request, manifest, made=0, seconds=0.0)


def published(request: ShardSetRequest) -> tuple[Manifest | None, Folder | Objects]:
    """The manifest at the destination (of whatever has this name there), and the destination."""
    if isinstance(request.destination, S3Prefix):
        objects = Objects(request.destination, request.manifest_name)
        return objects.manifest(), objects
    folder = Folder(request.destination, request.manifest_name)
    return folder.manifest(), folder


def shard_set(request: ShardSetRequest, manifest: Manifest, *, made: int, seconds: float) -> ShardSet:
    """What a manifest says of a shard set."""
    parts = tuple(Part.from_dict(part) for part in manifest.details["parts"])
    return ShardSet(
        name=request.name,
        place=request.place,
        stem=request.stem,
        parts=parts,
        account=Account.from_dict(manifest.details["rows"]),
        asked=request.num_samples,
        made=made,
        seconds=seconds,
        reused=made == 0,
        fingerprint=manifest.fingerprint,
        sources=tuple(manifest.details["sources"]),
        commit=request.commit,
    )
