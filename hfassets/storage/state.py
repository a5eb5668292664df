"""The state folder: plain files, one writer a file, no database, fit for a shared file system.

Keys (partition keys, repo ids) become one path component by percent-encoding, so that no key can leave its folder.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

# A component may have 255 bytes; suffixes and temporary names (`.<name>.json.<8 hex>.tmp`) need some of them.
LONGEST_NAME = 200


def file_name(key: str) -> str:
    """One safe path component of at most `LONGEST_NAME` characters for any key; different keys give different names.

    Percent-encoding; dots are kept except where they would be a step or hide the file. Of a long key the beginning is
    kept, then `%~` (which no encoding contains) and the SHA-256 of the whole.
    """
    name = quote(key, safe="") or "%"
    if name.startswith("."):
        name = name.replace(".", "%2E")
    if len(name) > LONGEST_NAME:
        name = f"{name[:100]}%~{hashlib.sha256(key.encode()).hexdigest()}"
    return name


@dataclass(frozen=True, slots=True)
class StateDir:
    """Where each kind of state lives below `root` (`storage.state_dir` of the catalog)."""

    root: Path

    def manifest(self, stage: str, key: str) -> Path:
        """Manifest of an output that lives in a folder owned by a library (Hub cache, datasets cache)."""
        return self.root / "manifests" / file_name(stage) / f"{file_name(key)}.json"

    def ledger(self, asset: str) -> Path:
        """Folder with one re-verification entry a partition of `asset`."""
        return self.root / "ledger" / file_name(asset)

    def lease(self, resource: str) -> Path:
        """Lease file of a resource (a repo folder in a Hub cache, an output folder)."""
        return self.root / "leases" / f"{file_name(resource)}.json"

    def work(self, stage: str, key: str) -> Path:
        """Folder of a stage's unfinished business with one output: what a later run goes on from."""
        return self.root / "work" / file_name(stage) / file_name(key)

    @property
    def verify_memory(self) -> Path:
        """Folder of what the verifier has seen intact: one file a cache and repo."""
        return self.root / "verify"

    @property
    def quarantine(self) -> Path:
        """Folder of damaged files moved aside, and the lists that say where they came from."""
        return self.root / "quarantine"

    @property
    def reports(self) -> Path:
        """Folder of failure reports for people."""
        return self.root / "reports"

    @property
    def catalogs(self) -> Path:
        """Folder of accepted catalogs, one subfolder a content hash."""
        return self.root / "catalog"
