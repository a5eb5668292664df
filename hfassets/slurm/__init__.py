"""Dagster runs as SLURM jobs: a run launcher, its reconciler, and what they are made of. Usable without the rest.

run_launcher: {module: hfassets.slurm, class: SlurmRunLauncher, config: {…}}
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hfassets.slurm.launcher import SlurmRunLauncher

__all__ = ["SlurmRunLauncher"]


def __getattr__(name: str) -> Any:
    """The launcher, imported when it is asked for: it needs Dagster, and the rest of this package does not."""
    if name in __all__:
        return getattr(importlib.import_module("hfassets.slurm.launcher"), name)
    raise AttributeError(name)
