"""A file of a mix read again: every byte, and that its lines are what `datasets` can load.

Invariant: a file is called intact only after all its bytes were read and had the manifest's SHA-256.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from hfassets.distillation.output import SourceFile
from hfassets.hub.hashing import hash_file
from hfassets.progress import ProgressCallback, silent
from hfassets.report.bytecount import ByteCount
from hfassets.storage.ledger import record_damage, record_intact

_SAMPLED = 200
_FIELDS = {"text", "id", "source", "category", "metadata"}


@dataclass(frozen=True, slots=True)
class Proof:
    """`damage`: what is wrong with the bytes, "" if nothing. `invalid`: what is wrong with sampled lines."""

    damage: str
    invalid: str
    sampled: int


def prove_source_file(found: SourceFile, progress: ProgressCallback = silent, *, whole: bool = True) -> Proof:
    """Read the file; with `whole` false only its first lines, right after it was written and hashed."""
    count = ByteCount(f"verify {found.path.name}", found.size, progress)
    damage = ""
    try:
        if whole and (digest := hash_file(found.path, "sha256", count)) != found.sha256:
            damage = f"SHA-256 {digest[:12]}…, not {found.sha256[:12]}…"
        count.finish()
        sampled, invalid = (0, "") if damage else _sample(found.path)
    except OSError as error:
        return Proof(f"cannot be read ({error.strerror})", "", 0)
    return Proof(damage, invalid, sampled)


def record(ledger: Path, key: str, version: str, found: SourceFile, proof: Proof) -> None:
    """Write what was found into the ledger of re-verification."""
    if proof.damage:
        lines = [f"{found.path.name} {found.sha256}"]
        record_damage(ledger, key, version, found.size, lines, found.size, purged=not found.path.exists())
    else:
        record_intact(ledger, key, version, found.size)


def first_records(path: Path, count: int) -> list[dict[str, Any]]:
    """The first records of a file."""
    with path.open("rb") as lines:
        return [orjson.loads(line) for line, _ in zip(lines, range(count), strict=False)]


def _sample(path: Path) -> tuple[int, str]:
    looked = 0
    with path.open("rb") as lines:
        for line, _ in zip(lines, range(_SAMPLED), strict=False):
            looked += 1
            try:
                record = json.loads(line)
            except ValueError as error:
                return looked, f"line {looked}: {error}"
            if not isinstance(record, dict) or set(record) != _FIELDS:
                return looked, f"line {looked}: not a record of {', '.join(sorted(_FIELDS))}"
    return looked, ""
