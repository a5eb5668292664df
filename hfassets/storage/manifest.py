"""Manifests: what was made, from what, with which hashes.

Invariant: a manifest is written last, so what has a valid one is done, and nothing else is. `fingerprint` is the
SHA-256 of the identity (stage, format, inputs, parameters); it is the skip rule and Dagster's data version. Package
versions, hosts, times and accounts are recorded beside the identity and never enter it. `seal` is the SHA-256 of all
the rest of the document, so that a list of files that was edited or has rotted is not believed.
"""

from __future__ import annotations

import hashlib
import platform
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from hfassets import __version__
from hfassets.errors import IntegrityError
from hfassets.storage.atomic import write_atomic

MANIFEST_VERSION = 1
MANIFEST_FILE = "manifest.json"
ADOPTED = "adopted.json"
"""The manifest of a folder that somebody else has written (see hfassets.adopt): it is what it is, whatever is asked."""


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One written file: path relative to the output's root, bytes, SHA-256 (or `git-sha1:<hex>` for Hub git blobs)."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The record of one finished output. `root` is the folder that `files` paths are relative to."""

    stage: str
    format: int
    inputs: Mapping[str, Any]
    parameters: Mapping[str, Any]
    root: str
    files: tuple[OutputFile, ...]
    account: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    recorded: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """64 hex digits that identify the content."""
        return identity_fingerprint(self.stage, self.format, self.inputs, self.parameters)

    @property
    def total_bytes(self) -> int:
        """Sum of the sizes of all files, in bytes."""
        return sum(file.size for file in self.files)


def identity_fingerprint(stage: str, format: int, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of the identity."""
    identity = {"stage": stage, "format": format, "inputs": inputs, "parameters": parameters}
    return hashlib.sha256(orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)).hexdigest()


def provenance() -> dict[str, Any]:
    """Who made it, where and when: recorded beside the identity."""
    return {
        "hfassets": __version__,
        "python": platform.python_version(),
        "host": socket.gethostname(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write the manifest atomically."""
    write_atomic(path, manifest_bytes(manifest))


def manifest_bytes(manifest: Manifest) -> bytes:
    """The content of a manifest's file, with its fingerprint in plain sight."""
    document = {"manifest_version": MANIFEST_VERSION, "fingerprint": manifest.fingerprint, **asdict(manifest)}
    # What is sealed is what a reader will see: JSON has no tuples.
    document["seal"] = _seal(orjson.loads(orjson.dumps(document)))
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n"


def _seal(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()


def read_manifest(path: Path) -> Manifest | None:
    """The manifest at `path`, or None when there is none. Raises IntegrityError as `parse_manifest` does."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return parse_manifest(data, path)


def parse_manifest(data: bytes, path: Path | str) -> Manifest:
    """The manifest that has this content; `path` is for messages.

    Raises IntegrityError for one that cannot be trusted: not JSON, another version, a seal that does not fit, or a
    fingerprint that is not its own identity's.
    """
    try:
        document = orjson.loads(data)
        version, claimed, seal = (document.pop(key) for key in ("manifest_version", "fingerprint", "seal"))
        sealed = _seal({"manifest_version": version, "fingerprint": claimed, **document})
        document["files"] = tuple(OutputFile(**file) for file in document["files"])
        manifest = Manifest(**document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{path}: not a manifest ({error}); remove it and run again") from error
    if version != MANIFEST_VERSION:
        raise IntegrityError(f"{path}: manifest version {version}, this hfassets reads {MANIFEST_VERSION}")
    if seal != sealed or claimed != manifest.fingerprint:
        raise IntegrityError(f"{path}: it was edited or damaged; remove it and run again")
    return manifest
