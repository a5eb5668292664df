"""Atomic publication, manifests, leases and state."""

from hfassets.storage.atomic import open_atomic, publish_directory, write_atomic
from hfassets.storage.lease import lease
from hfassets.storage.ledger import LedgerEntry, read_entries, read_entry, record_damage, record_intact
from hfassets.storage.manifest import (
    Manifest,
    OutputFile,
    identity_fingerprint,
    provenance,
    read_manifest,
    write_manifest,
)
from hfassets.storage.space import require_space
from hfassets.storage.state import StateDir

__all__ = [
    "LedgerEntry",
    "Manifest",
    "OutputFile",
    "StateDir",
    "identity_fingerprint",
    "lease",
    "open_atomic",
    "provenance",
    "publish_directory",
    "read_entries",
    "read_entry",
    "read_manifest",
    "record_damage",
    "record_intact",
    "require_space",
    "write_atomic",
    "write_manifest",
]
