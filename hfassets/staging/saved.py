"""A folder as `datasets.save_to_disk` writes it, with a manifest of its files.

Invariant: the folder appears whole, or not at all; nothing in it refers to anything outside of it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from hfassets.errors import IntegrityError
from hfassets.hub.hashing import hash_file
from hfassets.mds.verify import file_fault
from hfassets.progress import Progress, ProgressCallback, silent
from hfassets.storage.atomic import publish_directory
from hfassets.storage.manifest import MANIFEST_FILE, Manifest, OutputFile, provenance, read_manifest, write_manifest


@dataclass(frozen=True)
class SavedRows:
    """What is to be saved: files of each split with their rows, in order; `features` as `datasets` has them."""

    files: Mapping[str, Sequence[tuple[Path, int, OutputFile]]]
    features: Mapping[str, Any]
    account: Mapping[str, int]
    details: Mapping[str, Any]
    parts_made: int
    reused: int


@dataclass(frozen=True, slots=True)
class VerifiedFolder:
    """What was found. `faults`: one line each; none = as on the first day."""

    root: Path
    faults: tuple[str, ...]


def save(made: SavedRows, expected: Manifest, root: Path, temporary: Path, *, seconds: float) -> None:
    """Put the folder together in `temporary`, of the same file system, and give it its place in one step.

    Raises IntegrityError when the account does not close.
    """
    close_account(made.account)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    files: list[OutputFile] = []

    def write(name: str, document: Any) -> None:
        path = temporary / name
        path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
        files.append(OutputFile(name, path.stat().st_size, hash_file(path, "sha256")))

    splits = [name for name, found in made.files.items() if found]
    rows: dict[str, int] = {}
    for name in splits:
        (temporary / name).mkdir()
        count = len(made.files[name])
        names = [f"data-{number:05}-of-{count:05}.arrow" for number in range(count)]
        for place, (path, _, file) in zip(names, made.files[name], strict=True):
            _link(path, temporary / name / place)
            files.append(OutputFile(f"{name}/{place}", file.size, file.sha256))
        rows[name] = sum(number for _, number, _ in made.files[name])
        write(f"{name}/state.json", _state(name, names, expected.fingerprint))
        empty = {"citation": "", "description": "", "homepage": "", "license": ""}
        write(f"{name}/dataset_info.json", {**empty, "features": made.features})
    write("dataset_dict.json", {"splits": splits})
    manifest = replace(
        expected,
        files=tuple(sorted(files, key=lambda one: one.path)),
        account=dict(made.account),
        details={**made.details, "rows": rows, "splits": splits},
        recorded=provenance() | {"seconds": round(seconds, 3)},
    )
    write_manifest(temporary / MANIFEST_FILE, manifest)
    root.parent.mkdir(parents=True, exist_ok=True)
    publish_directory(temporary, root, replace=True)


def verify_folder(root: Path, progress: ProgressCallback = silent) -> VerifiedFolder:
    """Read every file of a saved folder again, and close its account; nothing is changed."""
    try:
        manifest = read_manifest(root / MANIFEST_FILE)
    except IntegrityError as error:
        return VerifiedFolder(root, (str(error),))
    if manifest is None:
        return VerifiedFolder(root, (f"{MANIFEST_FILE}: gone",))
    faults, size = [], 0
    for file in manifest.files:
        fault = file_fault(root / file.path, file, file.path)
        faults += [fault] if fault else []
        size += file.size
        progress(Progress("verify", size, manifest.total_bytes, "B"))
    try:
        close_account(manifest.account)
    except IntegrityError as error:
        faults.append(str(error))
    return VerifiedFolder(root, tuple(faults))


def close_account(account: Mapping[str, int]) -> None:
    """Raise IntegrityError when a token or a row is in no count or in two."""
    put_in = sum(account.get(name, 0) for name in ("tokens_in", "eos_added", "specials_added"))
    came_out = account.get("tokens_written", 0) + account.get("tokens_dropped", 0)
    lost = account["rows"] != account["rows_in"] if "rows_in" in account else put_in != came_out
    if lost:
        raise IntegrityError(f"the account does not close: {dict(account)}; this is a defect of hfassets")


def _state(split: str, names: Sequence[str], fingerprint: str) -> dict[str, Any]:
    """What `datasets` keeps of a saved split; its fingerprint follows from ours: maps over it are found again."""
    return {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": hashlib.sha256(f"{fingerprint}:{split}".encode()).hexdigest()[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }


def _link(source: Path, target: Path) -> None:
    """The same file by a second name, or a copy where the disk has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
