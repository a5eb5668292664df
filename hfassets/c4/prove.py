"""A shard set read again: every byte of every part, wherever it lies, against its manifest.

Invariant: a part is called intact only after all its bytes were read and had its SHA-256; what cannot be read is damage
with a reason, never a part left out.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hfassets.c4.journal import Part
from hfassets.c4.request import STAGE
from hfassets.c4.target import Folder, Objects
from hfassets.errors import DataError, HfassetsError
from hfassets.hub.hashing import hash_file
from hfassets.progress import ProgressCallback, silent
from hfassets.report.bytecount import ByteCount
from hfassets.storage.ledger import record_damage, record_intact
from hfassets.storage.manifest import Manifest

WORKERS = 4
SAMPLED_PARTS = 20
SAMPLED_BYTES = 1 << 18
_WITH_GZIP_HEADER = 31


@dataclass(frozen=True, slots=True)
class Proof:
    """What was found of a shard set: its parts, bytes, rows, and what is wrong with which part."""

    place: str
    stem: str
    parts: int
    size: int
    rows: int
    damage: tuple[tuple[str, str], ...]
    invalid: tuple[tuple[str, str], ...]
    sampled: int

    @property
    def intact(self) -> bool:
        """Whether every part has the bytes that were written, and every sampled line is a JSON object."""
        return not self.damage and not self.invalid


def prove_shard_set(
    manifest: Manifest, store: Folder | Objects, *, workers: int = WORKERS, progress: ProgressCallback = silent
) -> Proof:
    """Read every part; `workers` at a time. Raises DataError for a manifest of something else."""
    parts = parts_of(manifest)
    count = ByteCount(f"verify {manifest.root}", manifest.total_bytes, progress)
    with ThreadPoolExecutor(workers, thread_name_prefix="prove") as pool:
        reasons = list(pool.map(lambda part: _damage(part, store, count), parts))
    count.finish()
    damage = tuple((part.name, reason) for part, reason in zip(parts, reasons, strict=True) if reason)
    sampled, invalid = sample_lines([part for part, reason in zip(parts, reasons, strict=True) if not reason], store)
    return _proof(manifest, parts, damage, invalid, sampled)


def sample_proof(manifest: Manifest, store: Folder | Objects) -> Proof:
    """What is known of a shard set whose parts were proven as they were written: a look at some of its lines."""
    parts = parts_of(manifest)
    sampled, invalid = sample_lines(parts, store)
    return _proof(manifest, parts, (), invalid, sampled)


def _proof(
    manifest: Manifest,
    parts: Sequence[Part],
    damage: tuple[tuple[str, str], ...],
    invalid: tuple[tuple[str, str], ...],
    sampled: int,
) -> Proof:
    return Proof(
        manifest.root,
        str(manifest.details["manifest"]).removesuffix(".manifest.json"),
        len(parts),
        manifest.total_bytes,
        sum(part.rows for part in parts),
        damage,
        invalid,
        sampled,
    )


def parts_of(manifest: Manifest) -> tuple[Part, ...]:
    """The parts that a manifest of a shard set names; raises DataError for another manifest."""
    if manifest.stage != STAGE:
        raise DataError(f"{manifest.root}: the manifest is that of {manifest.stage}, not of {STAGE}")
    return tuple(Part.from_dict(part) for part in manifest.details["parts"])


def record_proof(ledger: Path, key: str, version: str, manifest: Manifest, proof: Proof) -> None:
    """Write what was found into the ledger of re-verification."""
    if not proof.damage:
        record_intact(ledger, key, version, manifest.total_bytes)
        return
    damaged = {name for name, _ in proof.damage}
    lost = [file for file in manifest.files if file.path in damaged]
    lines = [f"{file.path} {file.sha256}" for file in lost]
    record_damage(ledger, key, version, manifest.total_bytes, lines, sum(file.size for file in lost), purged=False)


def sample_lines(parts: Sequence[Part], store: Folder | Objects) -> tuple[int, tuple[tuple[str, str], ...]]:
    """Parse the first lines of some parts with Python's own parser.

    Returns how many lines were looked at, and (part, what is wrong) for each part with one that is no JSON object.
    """
    step = max(1, len(parts) // SAMPLED_PARTS)
    looked, invalid = 0, []
    for part in parts[::step]:
        for number, line in enumerate(_first_lines(part, store), 1):
            looked += 1
            try:
                whole = isinstance(json.loads(line), dict)
            except ValueError as error:
                invalid.append((part.name, f"line {number}: {error}"))
                break
            if not whole:
                invalid.append((part.name, f"line {number}: not an object"))
                break
    return looked, tuple(invalid)


def _first_lines(part: Part, store: Folder | Objects) -> list[bytes]:
    if isinstance(store, Folder):
        with (store.path / part.name).open("rb") as file:
            data = file.read(SAMPLED_BYTES)
    else:
        data = b"".join(store.store.read(part.name, min(SAMPLED_BYTES, part.size)))
    whole = len(data) >= part.size
    if part.name.endswith(".gz"):
        data = zlib.decompressobj(_WITH_GZIP_HEADER).decompress(data, 4 * SAMPLED_BYTES)
    elif part.name.endswith(".zst"):
        import zstandard

        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    lines = data.split(b"\n")
    # The last one is empty, or was cut by us.
    return lines[:-1] if whole or len(lines) > 1 else []


def _damage(part: Part, store: Folder | Objects, count: ByteCount) -> str:
    try:
        if isinstance(store, Folder):
            path = store.path / part.name
            if (size := path.stat().st_size) != part.size:
                return f"{size:,} B instead of {part.size:,} B"
            found = hash_file(path, "sha256", count)
        else:
            found = store.store.sha256(part.name, count)
    except FileNotFoundError:
        return "it is gone"
    except OSError as error:
        return error.strerror or str(error)
    except HfassetsError as error:
        return str(error)
    return "" if found == part.sha256 else f"SHA-256 {found} instead of {part.sha256}"
