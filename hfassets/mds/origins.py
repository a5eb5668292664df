"""Where the text of a recipe comes from: files or an MDS of a folder, a dataset of the Hub, or a list of URLs.

Invariant: a conversion is the same whoever plans it: its parts follow from the source and the cut alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfassets.hub.layout import RepoCache
from hfassets.hub.memory import VerifyMemory
from hfassets.hub.options import HubOptions
from hfassets.hub.session import HubClient
from hfassets.hub.snapshot import plan_snapshot
from hfassets.mds.convert import Conversion, ShardShape
from hfassets.mds.documents import Columns
from hfassets.mds.index import INDEX
from hfassets.mds.inputs import Cut, InputFile, Piece, grouped, local_files, pieces, shard_files
from hfassets.mds.sides import ValidationRule
from hfassets.mds.urls import part_names
from hfassets.progress import ProgressCallback, silent
from hfassets.sources.files import find_sources
from hfassets.storage.state import StateDir


def part_name(index: int) -> str:
    """As parts are named unless somebody says otherwise."""
    return f"part_{index:05}"


@dataclass(frozen=True)
class Target:
    """Where a conversion goes, and what it makes of rows."""

    root: Path
    state: StateDir
    columns: Columns = field(default_factory=Columns)
    mapper: str | None = None
    validation: ValidationRule = field(default_factory=ValidationRule)
    shape: ShardShape = field(default_factory=ShardShape)
    cut: Cut = field(default_factory=Cut)
    name_of: Callable[[int], str] = part_name

    def conversion(
        self, inputs: dict[str, Any], groups: Sequence[tuple[str, Sequence[Piece]]], **given: Any
    ) -> Conversion:
        """The conversion of these pieces."""
        return Conversion(
            self.root, inputs, groups, self.columns, self.mapper, self.validation, self.shape, **given
        )  # fmt: skip

    def named(self, groups: Sequence[Sequence[Piece]]) -> list[tuple[str, Sequence[Piece]]]:
        """Each group with the name of its part."""
        return [(self.name_of(index), group) for index, group in enumerate(groups)]

    @property
    def spool(self) -> str:
        """Where files wait that workers fetch."""
        return str(self.state.work("mds_text", str(self.root.absolute())))


def from_files(source: Path, target: Target, progress: ProgressCallback = silent) -> Conversion:
    """The JSON lines, JSON and Parquet files of a folder, or one file; raises DataError when there are none."""
    files = local_files(source, target.state, progress, target.cut)
    groups = target.named(grouped(pieces(files), target.cut))
    inputs = {"files": [[file.path, file.size, file.hash] for file in files]}
    return target.conversion(inputs, groups, places={file.path: file.place for file in files})


def from_mds(source: Path, target: Target, progress: ProgressCallback = silent) -> Conversion:
    """The samples of an MDS that has text, whoever wrote it; raises DataError when there is none."""
    files = shard_files(source, target.state, progress, target.cut)
    groups = target.named(grouped(pieces(files), target.cut))
    inputs = {"mds": [[file.path, file.size, file.hash] for file in files]}
    return target.conversion(inputs, groups, places={file.path: file.place for file in files})


def from_folder(source: Path, target: Target, progress: ProgressCallback = silent) -> Conversion:
    """What lies in a folder: an MDS if it has an index, else files of rows; or one file."""
    return (from_mds if (source / INDEX).exists() else from_files)(source, target, progress)


def from_hub(
    client: HubClient,
    repo: RepoCache,
    commit: str,
    config: str | None,
    split: str,
    target: Target,
    token_env: str | None = None,
    progress: ProgressCallback = silent,
) -> Conversion:
    """The files of a split at a commit: from the Hub cache if they lie there, proven, else workers fetch them."""
    found = find_sources(client, repo, commit, config, split, target.state, progress)
    memory = VerifyMemory.open(target.state, repo)
    plan = plan_snapshot(found.listing.select([file.path for file in found.files]), repo, memory, progress=progress)
    memory.save()
    cached = {file.path for file in plan.cached}
    places = {
        file.path: str(blob if (blob := repo.blob(file.etag)).exists() else repo.snapshot(commit) / file.path)
        for file in found.files
        if file.path in cached
    }
    files = [InputFile(file.path, file.size, file.etag) for file in found.files]
    inputs = {"repo": repo.repo_id, "commit": commit, "config": config, "split": split}
    hub = _hub_context(client.options, repo, commit, token_env)
    groups = target.named(grouped(pieces(files), target.cut))
    return target.conversion(inputs, groups, places=places, context={"hub": hub, "spool": target.spool})


def from_urls(urls: Sequence[str], target: Target, max_retries: int = 5) -> Conversion:
    """Files at plain URLs, each a part of its own, named as the file. Raises DataError for two of one name."""
    names = part_names(urls)
    # What is at a URL is known when it has come: its address is all there is to tell files apart by.
    groups = [(name, [Piece(InputFile(_file_of(url), 0, f"url:{url}"))]) for name, url in zip(names, urls, strict=True)]
    context = {
        "urls": {_file_of(url): url for url in urls},
        "spool": target.spool,
        "max_retries": max_retries,
    }
    return target.conversion({"urls": list(urls)}, groups, context=context)


def _file_of(url: str) -> str:
    return url.split("://", 1)[1].partition("?")[0]


def _hub_context(options: HubOptions, repo: RepoCache, commit: str, token_env: str | None) -> dict[str, Any]:
    """What a worker needs to ask the same Hub; the token stays in the environment."""
    return {
        "endpoint": options.endpoint,
        "token_env": token_env,
        "max_retries": options.max_retries,
        "backoff_factor": options.backoff_factor,
        "quota_share": options.quota_share,
        "hub_cache": str(repo.hub_cache),
        "repo": repo.repo_id,
        "repo_type": repo.repo_type,
        "commit": commit,
    }
