"""What one file of a mix is: its source, how rows are chosen, how many, and where they go. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from hfassets.distillation.candidates import Filters
from hfassets.distillation.digests import Method
from hfassets.distillation.registry import mapper_identity
from hfassets.hub.layout import RepoCache
from hfassets.storage.manifest import identity_fingerprint
from hfassets.storage.state import StateDir

STAGE = "distillation_file"
FORMAT = 1
STREAM_STAGE = "distillation_rows"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a source's repo: a config (None: the default one), or a folder when the repo has a folder a language.

    Rows of several parts come in turns, one of each.
    """

    config: str | None = None
    folder: str | None = None

    def __str__(self) -> str:
        return self.folder or self.config or "default"


@dataclass(frozen=True, slots=True)
class Curriculum:
    """Short prompts first: in the first half of the rows a prompt has fewer than `max_tokens` tokens.

    `tokenizer`: a tokenizer.json; `identity`: what it is, as repo@commit. `then`: in the second half a prompt has fewer
    than so many, None = any number; longer ones are refused.
    """

    max_tokens: int
    tokenizer: Path
    identity: str
    then: int | None = None


@dataclass(frozen=True, slots=True)
class Contents:
    """Where contents lie that a source names only by their ids: a bucket that anybody may read.

    `workers`: requests at once.
    """

    endpoint_url: str | None = None
    bucket: str = "softwareheritage"
    prefix: str = "content/"
    region: str = "us-east-1"
    workers: int = 16


@dataclass(frozen=True)
class SourceRequest:
    """One file of a mix. `batch` (i, n): of the rows those of slice i of n, from 0. `columns`: of Parquet, None = all.

    `earlier`: files of the same mix whose texts may not come again, with their fingerprints. Times in s.
    `processes`: those that look at the rows of a large source.
    """

    mix: str
    source: str
    category: str
    repo: RepoCache
    commit: str
    quota: int
    output: Path
    state: StateDir
    mapper: str
    parts: tuple[Part, ...] = (Part(),)
    split: str = "train"
    streaming: bool = True
    columns: tuple[str, ...] | None = None
    filters: Filters = field(default_factory=Filters)
    dedup: Method | None = "xxh3_128"
    curriculum: Curriculum | None = None
    contents: Contents | None = None
    notes: str | None = None
    batch: tuple[int, int] | None = None
    earlier: tuple[tuple[Path, str], ...] = ()
    force: bool = False
    run_id: str = ""
    lease_wait: float = 0.0
    on_shortfall: Literal["report", "fail"] = "report"
    processes: int = 1

    @property
    def key(self) -> str:
        """`mix/category/source`: the partition."""
        return f"{self.mix}/{self.category}/{self.source}"

    @property
    def folder(self) -> Path:
        """Where the file lies."""
        return self.output / self.category

    @property
    def path(self) -> Path:
        """The file itself."""
        return self.folder / f"{self.source}.jsonl"

    @property
    def stats_path(self) -> Path:
        """What the old document promises beside it."""
        return self.folder / f"{self.source}.stats.json"

    @property
    def manifest_path(self) -> Path:
        """The file's manifest: with it the file counts as done."""
        return self.folder / f"{self.source}.manifest.json"

    @property
    def partial(self) -> Path:
        """The growing file."""
        return self.folder / f".{self.source}.jsonl.partial"

    @property
    def work(self) -> Path:
        """What a later run goes on from."""
        return self.state.work(STAGE, str(self.path.absolute()))

    @property
    def inputs(self) -> Mapping[str, Any]:
        """Where the rows come from."""
        return {
            "repo": self.repo.repo_id,
            "commit": self.commit,
            "parts": [[part.config, part.folder] for part in self.parts],
            "split": self.split,
            "contents": None if self.contents is None else f"{self.contents.bucket}/{self.contents.prefix}",
            "earlier": [fingerprint for _, fingerprint in self.earlier],
        }

    @cached_property
    def parameters(self) -> Mapping[str, Any]:
        """What decides about bytes, but for how many rows there are."""
        given = self.curriculum
        return {
            "source": self.source,
            "category": self.category,
            "mapper": mapper_identity(self.mapper),
            "filters": self.filters.identity(),
            "dedup": self.dedup,
            "curriculum": None if given is None else [given.max_tokens, given.then, given.identity],
            "notes": None if self.notes is None else mapper_identity(self.notes),
            "batch": None if self.batch is None else list(self.batch),
        }

    @cached_property
    def stream(self) -> str:
        """Names the rows in their order, however many are asked for: a file of fewer of them can be extended."""
        return identity_fingerprint(STREAM_STAGE, FORMAT, self.inputs, self.parameters)

    @cached_property
    def fingerprint(self) -> str:
        """Names what is asked for."""
        return identity_fingerprint(STAGE, FORMAT, self.inputs, {**self.parameters, "quota": self.quota})
