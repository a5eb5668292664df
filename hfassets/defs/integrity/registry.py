"""What can be re-verified: each system registers its assets here, and one sensor serves them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg


@dataclass(frozen=True, slots=True)
class Verifiable:
    """An asset whose runs prove what lies on disk and write the ledger.

    `system` names the group whose assets have the same partitions: their runs are of one job. `versions` maps each
    partition to the version that the catalog wants now (a pinned commit, a fingerprint): what was verified at another
    one is neither verified nor repaired, it waits to be made anew. `repair` is what a repair run selects: what fetches
    anew, and the asset itself, which proves it again. `run_config` is what makes a run of the asset prove what it would
    otherwise trust.
    """

    system: str
    asset: dg.AssetKey
    ledger: Path
    versions: Mapping[str, str]
    repair: tuple[dg.AssetKey, ...]
    run_config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def job(self) -> str:
        """Name of the job that its runs are of."""
        return f"{self.system}_integrity"
