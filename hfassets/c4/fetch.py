"""A shard set brought back from S3 to a folder.

Invariant: a file appears under its name only after its bytes had the SHA-256 of the manifest; the manifest comes last.
"""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hfassets.c4.journal import Part
from hfassets.c4.prove import parts_of
from hfassets.c4.target import Folder, Objects
from hfassets.errors import DataError, HfassetsError, IntegrityError, PartialFailureError, UsageError
from hfassets.progress import ProgressCallback, silent
from hfassets.report.bytecount import ByteCount
from hfassets.storage.atomic import open_atomic
from hfassets.storage.manifest import Manifest
from hfassets.storage.s3 import S3Prefix, S3Store
from hfassets.storage.space import require_space

WORKERS = 4
MANIFEST_SUFFIX = ".manifest.json"


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came: parts in all, those that were there already, bytes of the set and bytes received."""

    place: str
    folder: Path
    parts: tuple[Part, ...]
    kept: int
    size: int
    received: int
    seconds: float


def find_manifest(place: S3Prefix, stem: str | None) -> Manifest:
    """The manifest of a shard set below a prefix; `stem` None = the only one there.

    Raises DataError when there is none, UsageError when there are several, S3Error.
    """
    if stem is None:
        found = [name for name in S3Store(place).names() if name.endswith(MANIFEST_SUFFIX)]
        if len(found) > 1:
            names = ", ".join(sorted(name.removesuffix(MANIFEST_SUFFIX) for name in found)[:10])
            raise UsageError(f"{place} holds {len(found)} shard sets ({names}); name one by --split and --num-samples")
        if not found:
            raise DataError(f"{place}: no shard set is there (no {MANIFEST_SUFFIX})")
        stem = found[0].removesuffix(MANIFEST_SUFFIX)
    manifest = Objects(place, f"{stem}{MANIFEST_SUFFIX}").manifest()
    if manifest is None:
        raise DataError(f"{place}/{stem}{MANIFEST_SUFFIX}: there is no such shard set, or it is not finished")
    return manifest


def fetch_shard_set(
    place: S3Prefix, manifest: Manifest, folder: Path, *, workers: int = WORKERS, progress: ProgressCallback = silent
) -> Fetched:
    """Bring all parts into `folder`; what is there and intact is kept.

    Raises SpaceError before the first byte, PartialFailureError naming every part that failed.
    """
    started = time.monotonic()
    parts = parts_of(manifest)
    target = Folder(folder, str(manifest.details["manifest"]))
    target.prepare(target.manifest_name.removesuffix(MANIFEST_SUFFIX))
    with ThreadPoolExecutor(workers, thread_name_prefix="fetch") as pool:
        here = list(pool.map(lambda part: target.has(part, by_hash=True), parts))
    wanted = [part for part, there in zip(parts, here, strict=True) if not there]
    require_space(folder, sum(part.size for part in wanted), len(wanted))
    count = ByteCount(f"fetch {place}", sum(part.size for part in wanted), progress)
    store = S3Store(place)
    failures: list[tuple[str, str]] = []

    def one(part: Part) -> None:
        try:
            _fetch(store, part, folder, count)
        except (HfassetsError, OSError) as error:
            failures.append((part.name, str(error)))

    with ThreadPoolExecutor(workers, thread_name_prefix="fetch") as pool:
        list(pool.map(one, wanted))
    count.finish()
    if failures:
        raise PartialFailureError("parts", sorted(failures), len(parts))
    target.write_manifest(manifest)
    received = sum(part.size for part in wanted)
    size = sum(part.size for part in parts)
    return Fetched(str(place), folder, parts, len(parts) - len(wanted), size, received, time.monotonic() - started)


def _fetch(store: S3Store, part: Part, folder: Path, count: ByteCount) -> None:
    digest = hashlib.sha256()
    with open_atomic(folder / part.name) as file:
        for piece in store.read(part.name):
            file.write(piece)
            digest.update(piece)
            count(len(piece))
        if digest.hexdigest() != part.sha256:
            raise IntegrityError(
                f"{store.place.uri(part.name)}: its bytes are not those of the manifest; verify the set"
            )
