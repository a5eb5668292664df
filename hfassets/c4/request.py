"""What a shard set is: which rows, under which names, where.

Invariant: two requests with one identity give the same bytes, however and wherever they are made: how sources are
read, how many workers there are and where the parts go is no part of the identity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hfassets.errors import UsageError
from hfassets.hub.layout import RepoCache
from hfassets.parts import LocalPool
from hfassets.parts.pool import Backend
from hfassets.storage.manifest import identity_fingerprint
from hfassets.storage.s3 import S3Prefix, S3Settings
from hfassets.storage.state import StateDir, file_name

STAGE = "c4_shards"
FORMAT = 1

DEFAULT_REPO = "allenai/c4"
DEFAULT_CONFIG = "en"
DEFAULT_SAMPLES = 1000
DEFAULT_SEED = 42
STREAMING_SAMPLES = 10_000
"""At most so many samples are streamed when nobody says how to read."""

Compression = Literal["none", "gzip", "zstd"]
OnShortfall = Literal["fail", "report"]
SUFFIXES: Mapping[Compression, str] = {"none": "", "gzip": ".gz", "zstd": ".zst"}


def parse_destination(text: str, settings: S3Settings | None = None) -> Path | S3Prefix:
    """A folder, or a prefix in a bucket for `s3://bucket[/prefix]`; raises UsageError for what is neither."""
    if "://" not in text:
        return Path(text).expanduser()
    return S3Prefix.parse(text, settings or S3Settings())


@dataclass(frozen=True, slots=True)
class ShardSetRequest:
    """Rows of one split at a pinned commit, as JSONL parts at a destination.

    `num_samples`: rows in all; `max_lines_per_file` None = one file. `seed` None = the first rows of the split, else a
    seeded sample over it. `streaming` None = decided by the number of samples. `local`: where parts are written; with a
    destination in S3 they stay there only if `keep_local`. `key` names the shard set in the state folder; `backend`:
    where whole sources are worked on, None = in `workers` processes here.
    """

    repo: RepoCache
    commit: str
    destination: Path | S3Prefix
    state: StateDir
    local: Path
    config: str | None = None
    split: str = "train"
    num_samples: int = DEFAULT_SAMPLES
    max_lines_per_file: int | None = None
    compression: Compression = "none"
    seed: int | None = None
    streaming: bool | None = None
    keep_local: bool = False
    on_shortfall: OnShortfall = "fail"
    workers: int = 1
    force: bool = False
    key: str | None = None
    run_id: str = ""
    lease_wait: float = 0.0
    backend: Backend | None = field(default=None, compare=False)

    def pool(self, parts: int) -> Backend:
        """Where so many parts are made."""
        return self.backend or LocalPool(min(self.workers, max(1, parts)))

    @property
    def in_parallel(self) -> bool:
        """Whether whole sources are worked on side by side."""
        return not self.streams and (self.workers > 1 or self.backend is not None)

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise UsageError(f"{self.num_samples} samples were asked for; at least 1 is needed")
        if self.max_lines_per_file is not None and self.max_lines_per_file < 1:
            raise UsageError(f"{self.max_lines_per_file} lines a file cannot be; at least 1 is needed")
        if file_name(self.split) != self.split:
            raise UsageError(f"{self.split!r} is no name of a split; it looks like train or validation")
        if isinstance(self.destination, Path) and self.local != self.destination:
            raise UsageError("parts of a local shard set are written where they stay")

    @property
    def streams(self) -> bool:
        """Whether only what is needed of the sources is read, as it arrives; a sample needs whole sources."""
        if self.seed is not None:
            return False
        return self.num_samples <= STREAMING_SAMPLES if self.streaming is None else self.streaming

    @property
    def stem(self) -> str:
        """`c4_<split>_<N>`, with the number of rows asked for."""
        return f"c4_{self.split}_{self.num_samples}"

    @property
    def parts(self) -> int:
        """How many parts there are when the source has enough rows."""
        return 1 if self.max_lines_per_file is None else -(-self.num_samples // self.max_lines_per_file)

    def part_name(self, index: int) -> str:
        """File name of part `index` (from 0): numbered from 001 if there are several, wider past 999."""
        number = f"_part{index + 1:03}" if self.parts > 1 else ""
        return f"{self.stem}{number}.jsonl{SUFFIXES[self.compression]}"

    def part_rows(self, index: int) -> int:
        """Rows of part `index` when the source has enough of them."""
        each = self.max_lines_per_file or self.num_samples
        return min(each, self.num_samples - index * each)

    def names(self, name: str) -> bool:
        """Whether a file name is that of one of the parts."""
        found = re.fullmatch(rf"{re.escape(self.stem)}(?:_part([0-9]+))?\.jsonl(\.gz|\.zst)?", name)
        if found is None:
            return False
        index = int(found[1] or 1) - 1
        return 0 <= index < self.parts and self.part_name(index) == name

    @property
    def manifest_name(self) -> str:
        """The manifest's file name, beside the parts."""
        return f"{self.stem}.manifest.json"

    @property
    def place(self) -> str:
        """The destination as people write it."""
        return str(self.destination)

    @property
    def name(self) -> str:
        """Key of the shard set in the state folder, and its name for people."""
        return self.key or f"{self.place}/{self.stem}"

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The identity's inputs."""
        return {"repo_id": self.repo.repo_id, "repo_type": self.repo.repo_type, "commit": self.commit}

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The identity's parameters."""
        return {
            "config": self.config,
            "split": self.split,
            "num_samples": self.num_samples,
            "max_lines_per_file": self.max_lines_per_file,
            "compression": self.compression,
            "seed": self.seed,
        }

    @property
    def fingerprint(self) -> str:
        """64 hex digits that identify the content."""
        return identity_fingerprint(STAGE, FORMAT, self.inputs, self.parameters)

    @property
    def work(self) -> Path:
        """Folder for the journal and what is received in part; removed when the shard set is done."""
        return self.state.work(STAGE, self.name)
