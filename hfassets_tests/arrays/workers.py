"""Parts for arrays: quick ones, slow ones, and some that fail."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from hfassets.errors import DataError
from hfassets.parts import PartOutput


def work(part: dict[str, Any], folder: Path) -> PartOutput:
    """Write the part's number; sleep as it says; fail while its stone lies in the way."""
    context = part["context"]
    stone = Path(context["stones"]) / part["name"]
    if stone.exists():
        raise DataError(f"a stone: {stone.name}")
    slow = "slow" in context and Path(context["slow"]).read_text() == part["name"]
    time.sleep(300 if slow else context.get("seconds", 0))
    (folder / "number").write_text(part["name"])
    with Path(context["log"]).open("a") as log:
        where = [os.environ.get(name, "-") for name in ("SLURM_ARRAY_JOB_ID", "SLURMD_NODENAME")]
        log.write(" ".join([part["name"], *where]) + "\n")
    return PartOutput({"parts": 1})
