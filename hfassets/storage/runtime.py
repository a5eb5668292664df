"""A folder for what the processes of one user on one host share while they run: budgets, snapshots of a queue.

Invariant: the folder belongs to this user and nobody else can enter it, or it is not used.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path


def runtime_folder(environment: Mapping[str, str] | None = None) -> Path:
    """`$XDG_RUNTIME_DIR/hfassets`, else `<tmp>/hfassets-<uid>`, mode 0700, made when missing.

    When another user has taken both names: a folder of this process alone, so that sharing is lost and nothing else.
    """
    env = os.environ if environment is None else environment
    candidates = [Path(tempfile.gettempdir()) / f"hfassets-{os.getuid()}"]
    if env.get("XDG_RUNTIME_DIR"):
        candidates.insert(0, Path(env["XDG_RUNTIME_DIR"]) / "hfassets")
    for candidate in candidates:
        if _is_private(candidate):
            return candidate
    return _process_folder(os.getpid())


def _is_private(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


@cache
def _process_folder(_pid: int) -> Path:
    return Path(tempfile.mkdtemp(prefix="hfassets-"))
