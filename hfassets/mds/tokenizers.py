"""A tokenizer by its name: a folder, a tokenizer.json, or a repo of the Hub at a revision."""

from __future__ import annotations

from pathlib import Path

from hfassets.errors import DataError
from hfassets.hub.acquire import commit_listing
from hfassets.hub.download import resolve_revision
from hfassets.hub.layout import RepoCache
from hfassets.hub.memory import VerifyMemory
from hfassets.hub.session import HubClient
from hfassets.progress import ProgressCallback, silent
from hfassets.sources.cached import cached_path, fetch_sources
from hfassets.storage.state import StateDir
from hfassets.tokens.engine import CONFIG_FILES, TOKENIZER_FILE


def tokenizer_folder(
    name: str,
    client: HubClient,
    hub_cache: Path,
    state: StateDir,
    revision: str = "main",
    progress: ProgressCallback = silent,
) -> Path:
    """The folder, or the file, of a tokenizer; from the Hub its files are fetched and proven.

    Raises DataError when there is none, HubError.
    """
    local = Path(name).expanduser()
    if local.exists():
        return local
    repo = RepoCache(hub_cache, name, "model")
    commit = resolve_revision(client, repo, revision)
    memory = VerifyMemory.open(state, repo)
    listing = commit_listing(client, repo, commit, state, progress)
    there = [file.path for file in listing.files if file.path in (TOKENIZER_FILE, *CONFIG_FILES)]
    if TOKENIZER_FILE not in there:
        raise DataError(f"{name} has no {TOKENIZER_FILE}; choose another tokenizer, or give a file of your own")
    wanted = listing.select(there)
    if any(cached_path(repo, commit, listing, file, memory) is None for file in wanted.files):
        fetch_sources(client, repo, wanted, memory, progress)
    return repo.snapshot(commit)
