"""What the outputs of a catalog share: its places, its Hub and its tokenizers, and the habits of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hfassets.catalog.models import Catalog
from hfassets.catalog.tokenizers import TokenizerEntry
from hfassets.hub.options import hub_options
from hfassets.hub.session import HubClient
from hfassets.mds.stage import StageRun
from hfassets.mds.tokenizers import tokenizer_folder
from hfassets.parts.pool import Backend
from hfassets.progress import ProgressCallback
from hfassets.storage.state import StateDir
from hfassets.tokens.engine import TokenizerSource

# s. Outputs may share a folder: whoever comes second waits, and finds it done.
PATIENCE = 86_400.0


@dataclass(frozen=True)
class CatalogRun:
    """A catalog with the habits of this run. `backend`: where parts are made, so many at once; None = here."""

    catalog: Catalog
    quota_share: int = 1
    run_id: str = ""
    force: bool = False
    workers: int | None = None
    backend: Callable[[int], Backend] | None = None

    @property
    def state(self) -> StateDir:
        """The state folder."""
        return StateDir(self.catalog.storage.state_dir)

    def stage_run(self, workers: int) -> StageRun:
        """The habits of a stage; `workers`: what the catalog says."""
        count = self.workers or workers
        return StageRun(
            self.state,
            count,
            self.force,
            self.run_id,
            lease_wait=PATIENCE,
            replaces=True,
            backend=self.backend(count) if self.backend else None,
        )

    def client(self, token_env: str | None, progress: ProgressCallback, *, offline: bool = False) -> HubClient:
        """A client by the section `hub`, with a token of the environment."""
        hub = self.catalog.hub
        options = hub_options(
            endpoint=hub.endpoint,
            token_env=token_env,
            max_retries=hub.max_retries,
            backoff_factor=hub.backoff_factor,
            quota_share=self.quota_share,
        )
        return HubClient(replace(options, offline=True) if offline else options, progress)

    def tokenizer(self, entry: TokenizerEntry, commit: str, progress: ProgressCallback) -> tuple[TokenizerSource, Path]:
        """A tokenizer at its pinned commit, brought here if it is of the Hub, and where it lies."""
        path = entry.file
        if path is None:
            cache = self.catalog.storage.hub_cache
            with self.client(None, progress) as client:
                path = tokenizer_folder(entry.repo or "", client, cache, self.state, commit, progress)
        return TokenizerSource.read(path, name=entry.name, prefix_space=entry.use_prefix_space), path
