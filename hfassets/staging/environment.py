"""What a job's environment says of staging: how many workers it has, where its caches are, what its training is told.

Pure, but for the folder that training gets for temporary files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from hfassets.errors import UsageError

WORKERS = "_DATA_PREP_WORKERS"
_COUNTS = re.compile(r"(\d+)(?:\(x(\d+)\))?")


def cpus_per_node(text: str) -> list[int]:
    """The CPUs of each node of a job, from SLURM's short form: `12(x2),6` is 12, 12, 6. Raises UsageError.

    Source of the form: sbatch(1), SLURM_JOB_CPUS_PER_NODE.
    """
    found: list[int] = []
    for one in text.split(","):
        match = _COUNTS.fullmatch(one.strip())
        if match is None:
            raise UsageError(f"{text!r}: not CPUs of nodes as SLURM writes them, like 12(x2),6")
        found += [int(match[1])] * int(match[2] or 1)
    return found


def job_workers(environment: Mapping[str, str], cores: int) -> int:
    """Processes to work with: _DATA_PREP_WORKERS, else the job's CPUs on this node, else `cores`. Raises UsageError.

    Of nodes with different numbers this one's counts, by SLURM_NODEID; where no task knows its node, the smallest.
    """
    for name in (WORKERS, "SLURM_CPUS_PER_TASK", "SLURM_JOB_CPUS_PER_NODE", "SLURM_CPUS_ON_NODE"):
        text = environment.get(name, "").strip()
        if not text:
            continue
        try:
            counts = cpus_per_node(text)
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from None
        node = environment.get("SLURM_NODEID", "")
        place = int(node) if node.isdecimal() else len(counts)
        count = counts[place] if place < len(counts) else min(counts)
        if count < 1:
            raise UsageError(f"{name}={text}: at least 1")
        return count
    return cores


def default_cache(environment: Mapping[str, str]) -> Path:
    """The `datasets` cache: HF_DATASETS_CACHE, else that of HF_HOME, else $SCRATCH/cache/huggingface/datasets, else the
    library's own default.
    """
    named = environment.get("HF_DATASETS_CACHE")
    if named:
        return Path(named).expanduser()
    home = environment.get("HF_HOME")
    if not home and environment.get("SCRATCH"):
        home = f"{environment['SCRATCH']}/cache/huggingface"
    return Path(home or "~/.cache/huggingface").expanduser() / "datasets"


def training_environment(target: Path, environment: Mapping[str, str], *, cache: bool) -> dict[str, str]:
    """What training on a staged folder is told. `cache`: the folder is a `datasets` cache; else there is one for the
    job alone, for what training makes of its data must not lie in a folder that jobs share.

    TMPDIR: StreamingDataset leaves lock files of fixed names there, which would be another user's in /tmp.
    """
    base = Path(environment.get("SLURM_TMPDIR") or target.absolute().parent)
    job = environment.get("SLURM_JOB_ID")
    private = base / "-".join(["hfassets", str(os.getuid()), *([job] if job else [])])
    return {
        "HF_DATASETS_CACHE": str(target.absolute() if cache else private / "datasets"),
        "HF_HUB_OFFLINE": "1",
        "TMPDIR": str(private / "tmp"),
    }
