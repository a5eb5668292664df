"""What can be re-verified: each system registers its assets here, and one sensor serves them all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import dagster as dg


@dataclass(frozen=True, slots=True)
class Verifiable:
    """An asset whose runs prove what lies on disk and write the ledger.

    `repair` is what a repair run selects: what fetches anew, and the asset itself, which proves it again.
    """

    asset: dg.AssetKey
    ledger: Path
    partitions: tuple[str, ...]
    repair: tuple[dg.AssetKey, ...]
