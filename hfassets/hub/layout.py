"""Where things lie in a Hub cache, as `huggingface_hub` lays them out.

`<hub_cache>/<type>s--<owner>--<name>/` holds `blobs/<etag>`, `snapshots/<commit>/<path>` (relative links into blobs)
and `refs/<revision>`; locks lie in `<hub_cache>/.locks/<same folder>/<etag>.lock`.
Source: huggingface_hub 0.36, "Understand caching" and `file_download.py`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hfassets.errors import UnsafePathError
from hfassets.hub.names import check_blob_id, check_commit, check_path, check_repo_id, check_revision


def default_hub_cache(environment: dict[str, str] | None = None) -> Path:
    """HF_HUB_CACHE, then HUGGINGFACE_HUB_CACHE, then HF_HOME/hub, then ~/.cache/huggingface/hub."""
    env = os.environ if environment is None else environment
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if env.get(name):
            return Path(env[name]).expanduser()
    return default_hf_home(environment) / "hub"


def default_datasets_cache(environment: dict[str, str] | None = None) -> Path:
    """HF_DATASETS_CACHE, then HF_HOME/datasets."""
    env = os.environ if environment is None else environment
    if env.get("HF_DATASETS_CACHE"):
        return Path(env["HF_DATASETS_CACHE"]).expanduser()
    return default_hf_home(environment) / "datasets"


def default_hf_home(environment: dict[str, str] | None = None) -> Path:
    """HF_HOME, else XDG_CACHE_HOME/huggingface, else ~/.cache/huggingface."""
    env = os.environ if environment is None else environment
    if env.get("HF_HOME"):
        return Path(env["HF_HOME"]).expanduser()
    return Path(env.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface"


@dataclass(frozen=True, slots=True)
class RepoCache:
    """One repo's folder in a Hub cache; every path it gives lies inside that folder."""

    hub_cache: Path
    repo_id: str
    repo_type: str = "dataset"

    def __post_init__(self) -> None:
        check_repo_id(self.repo_id)

    @property
    def folder_name(self) -> str:
        """`datasets--owner--name`."""
        return f"{self.repo_type}s--{self.repo_id.replace('/', '--')}"

    @property
    def folder(self) -> Path:
        """The repo's folder."""
        return self.hub_cache / self.folder_name

    def blob(self, etag: str) -> Path:
        """The content-addressed file of an etag (40 or 64 hex digits)."""
        return self.folder / "blobs" / check_blob_id(etag, etag)

    def snapshot(self, commit: str) -> Path:
        """The folder of a commit's links."""
        return self.folder / "snapshots" / check_commit(commit)

    def pointer(self, commit: str, path: str) -> Path:
        """The link of one file at a commit.

        Raises UnsafePathError when a link already on disk would lead the write out of the repo's folder.
        """
        pointer = self.snapshot(commit) / check_path(path)
        if not pointer.parent.resolve().is_relative_to(self.folder.resolve()):
            raise UnsafePathError(f"{pointer.parent} is a link that leads out of the cache; nothing was written")
        return pointer

    def ref(self, revision: str) -> Path:
        """The file that records which commit a branch or tag was at."""
        return self.folder / "refs" / check_revision(revision)

    def lock(self, etag: str) -> Path:
        """The lock file that `huggingface_hub` takes while it downloads a blob."""
        return self.hub_cache / ".locks" / self.folder_name / f"{check_blob_id(etag, etag)}.lock"
