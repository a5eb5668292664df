"""The demo's own home: a folder with the sample catalog, a Dagster instance and everything that is made.

Nothing outside that folder is written, and nothing but the demo ever uses the sample catalog.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from hfassets.demo.hub_app import TOKEN
from hfassets.storage import write_atomic


@dataclass(frozen=True, slots=True)
class DemoHome:
    """Where the demo keeps what; `root` is absolute."""

    root: Path

    @property
    def catalog(self) -> Path:
        """The demo's catalog.yaml."""
        return self.root / "catalog.yaml"

    @property
    def dagster(self) -> Path:
        """DAGSTER_HOME."""
        return self.root / "dagster"

    @property
    def hub(self) -> Path:
        """What the sample Hub serves."""
        return self.root / "sample-hub"

    def create(self, endpoint: str) -> None:
        """Lay the home out, keeping what is there, and point this process and its children at it.

        `endpoint` is where the sample Hub answers in this session; everything else is the same each time.
        """
        self.dagster.mkdir(parents=True, exist_ok=True)
        _place(resources.files("hfassets.demo") / "catalog.yaml", self.catalog)
        _place(Path(__file__).parents[2] / "dagster.yaml", self.dagster / "dagster.yaml")
        os.environ.update(
            HF_ENDPOINT=endpoint,
            # The sample Hub's own reader, who has access to the gated repos; the user's token is not for it.
            HF_TOKEN=TOKEN,
            HF_HOME=str(self.root / "huggingface"),
            HF_HUB_DISABLE_TELEMETRY="1",
            HF_HUB_DISABLE_XET="1",
            DAGSTER_HOME=str(self.dagster),
            HFASSETS_CATALOG=str(self.catalog),
        )
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE", "HF_HUB_OFFLINE"):
            os.environ.pop(name, None)

    def synchronise(self) -> None:
        """`hfassets catalog sync`: pin commits and detect configs, where the lock does not have them yet."""
        command = [sys.executable, "-m", "hfassets.cli.main", "catalog", "sync"]
        if subprocess.run(command, cwd=self.root, check=False, stderr=subprocess.DEVNULL).returncode:
            raise SystemExit("`hfassets catalog sync` failed in the demo")


def _place(source: Traversable, target: Path) -> None:
    if not target.exists():
        write_atomic(target, source.read_bytes())
