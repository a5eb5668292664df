"""The state folder: plain files, one writer a file, no database, fit for a shared file system.

Keys (partition keys, repo ids) become one path component by percent-encoding, so that no key can leave its folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote


def file_name(key: str) -> str:
    """One safe path component for any key; reversible by `key_of`. Dots are kept except where they would be a step."""
    name = quote(key, safe="")
    return name.replace(".", "%2E") if name.startswith(".") else name


def key_of(name: str) -> str:
    """The key behind a component made by `file_name`."""
    return unquote(name)


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
