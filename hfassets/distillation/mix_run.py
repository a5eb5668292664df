"""A mix with the places and habits of one run, and the request of each of its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hfassets.catalog.mixes import Mix, MixSource, PromptCurriculum
from hfassets.distillation.candidates import Filters
from hfassets.distillation.licences import licence_of
from hfassets.distillation.quotas import Quotas, Share, quotas
from hfassets.distillation.request import Contents, Curriculum, Part, SourceRequest
from hfassets.errors import DataError
from hfassets.hub.acquire import commit_listing
from hfassets.hub.layout import RepoCache
from hfassets.hub.memory import VerifyMemory
from hfassets.hub.options import hub_options
from hfassets.hub.session import HubClient
from hfassets.hub.sweep import default_workers
from hfassets.progress import ProgressCallback
from hfassets.sources.cached import cached_path, fetch_sources
from hfassets.storage.state import StateDir

CHAT = "instruction_chat"
TOKENIZER_FILE = "tokenizer.json"


def _curriculum(wanted: PromptCurriculum, commit: str, path: Path) -> Curriculum:
    return Curriculum(wanted.phase1_max_tokens, path, f"{wanted.tokenizer}@{commit}", wanted.phase2_max_tokens)


@dataclass(frozen=True)
class MixRun:
    """A mix and the places and habits of this run. `commits`: by source; a source without one is asked about.

    `processes`: those that look at the rows of a large source.
    `batch`: slice i of n, from 0. `tokenizer_commit`: of the curriculum's tokenizer, None = ask.
    """

    mix: Mix
    output: Path
    hub_cache: Path
    state: StateDir
    endpoint: str | None = None
    max_retries: int = 5
    backoff_factor: float = 1.0
    quota_share: int = 1
    commits: Mapping[str, str] = field(default_factory=dict)
    tokenizer_commit: str | None = None
    batch: tuple[int, int] | None = None
    force: bool = False
    run_id: str = ""
    lease_wait: float = 0.0
    processes: int = field(default_factory=default_workers)

    @property
    def shares(self) -> list[Share]:
        """All declared sources, for the quotas."""
        return [
            Share(name, source.category, source.allocation, source.enabled)
            for name, source in self.mix.datasets.items()
        ]

    def quotas(self) -> Quotas:
        """Rows of each enabled source. Raises DataError when the mix is strict and its shares do not add up, when
        nothing is enabled, and when the licence policy refuses a source.
        """
        found = quotas(self.mix.total_samples, self.mix.category_ratios, self.shares)
        if self.mix.strict and found.notices:
            raise DataError(f"mix {self.mix.name} is strict: {'; '.join(found.notices)}")
        if not found.rows:
            raise DataError(f"mix {self.mix.name}: no source is enabled")
        refused = self._refused()
        if refused:
            raise DataError(
                f"mix {self.mix.name}, license_policy commercial: {'; '.join(refused)}; disable them, or choose "
                "license_policy: any"
            )
        return found

    def _refused(self) -> list[str]:
        if self.mix.license_policy != "commercial":
            return []
        found = []
        for name, source in self.mix.enabled.items():
            licence = licence_of(name, source.license)
            by_file = licence.commercial == "by file" and source.filters.allowed_licenses is not None
            if licence.commercial != "yes" and not by_file:
                found.append(f"{name} ({licence.data}; commercial use: {licence.commercial})")
        return found

    def with_force(self) -> MixRun:
        """The same, making everything again."""
        return replace(self, force=True)

    def client(self, source: MixSource | None, progress: ProgressCallback) -> HubClient:
        """A client with the token of a source."""
        options = hub_options(
            endpoint=self.endpoint,
            token_env=None if source is None else source.token_env,
            max_retries=self.max_retries,
            backoff_factor=self.backoff_factor,
            quota_share=self.quota_share,
        )
        return HubClient(options, progress)

    def curriculum(self, source: MixSource, progress: ProgressCallback) -> Curriculum | None:
        """The curriculum of a source, its tokenizer brought near; None for sources without."""
        wanted = self.mix.curriculum
        if wanted is None or source.category != CHAT:
            return None
        repo = RepoCache(self.hub_cache, wanted.tokenizer, "model")
        path: Path | None
        with self.client(None, progress) as client:
            commit = self.tokenizer_commit or client.resolve_commit(
                wanted.tokenizer, wanted.tokenizer_revision, "model"
            )
            memory = VerifyMemory.open(self.state, repo)
            listing = commit_listing(client, repo, commit, self.state, progress)
            file = next((one for one in listing.files if one.path == TOKENIZER_FILE), None)
            if file is None:
                raise DataError(f"{wanted.tokenizer} has no {TOKENIZER_FILE}; choose another tokenizer")
            path = cached_path(repo, commit, listing, file, memory)
            if path is None:
                fetch_sources(client, repo, listing.select([TOKENIZER_FILE]), memory, progress)
                path = cached_path(repo, commit, listing, file, memory)
        if path is None:
            raise DataError(f"{wanted.tokenizer}/{TOKENIZER_FILE} was fetched and is not there any more; run again")
        return _curriculum(wanted, commit, path)

    def pinned(self, name: str, quota: int, earlier: Sequence[tuple[Path, str]] = ()) -> SourceRequest:
        """The request of a file whose repo and tokenizer are pinned; it is good for looking, not for making."""
        source, wanted = self.mix.datasets[name], self.mix.curriculum
        curriculum = None
        if wanted is not None and source.category == CHAT and self.tokenizer_commit is not None:
            curriculum = _curriculum(wanted, self.tokenizer_commit, Path(TOKENIZER_FILE))
        return self.request(name, quota, self.commits[name], curriculum, earlier)

    def declared(self, name: str) -> str:
        """What names a file as the mix declares it, whatever is on disk. Everything has to be pinned."""
        rows = self.quotas().rows
        names = list(rows)
        earlier: list[tuple[Path, str]] = []
        if self.mix.preprocessing.dedup_scope == "mix":
            for one in names[: names.index(name)]:
                earlier.append((Path(one), self.pinned(one, rows[one], earlier).fingerprint))
        return self.pinned(name, rows[name], earlier).fingerprint

    def request(
        self,
        name: str,
        quota: int,
        commit: str,
        curriculum: Curriculum | None,
        earlier: Sequence[tuple[Path, str]] = (),
    ) -> SourceRequest:
        """What one file of the mix is; raises DataError for filters that fit no row."""
        mix, source = self.mix, self.mix.datasets[name]
        of = mix.preprocessing
        folders = source.subset_is == "folder"
        parts = tuple(
            Part(folder=one) if folders else Part(config=one) for one in source.subset or (None,)
        )  # fmt: skip
        contents = None
        if source.contents is not None:
            archive = mix.software_heritage
            contents = Contents(archive.endpoint_url, archive.bucket, workers=archive.workers)
        return SourceRequest(
            mix=mix.name,
            source=name,
            category=source.category,
            repo=RepoCache(self.hub_cache, source.hf_path),
            commit=commit,
            quota=quota,
            output=self.output,
            state=self.state,
            mapper=source.mapper,
            parts=parts,
            split=source.split,
            streaming=source.streaming,
            columns=source.columns,
            filters=self._filters(name, source),
            dedup=of.dedup_method if of.deduplicate else None,
            curriculum=curriculum,
            contents=contents,
            notes=source.notes_hook,
            batch=self.batch,
            earlier=tuple(earlier),
            force=self.force,
            run_id=self.run_id,
            lease_wait=self.lease_wait,
            on_shortfall="fail" if mix.on_shortfall == "fail" else "report",
            processes=self.processes,
        )

    def _filters(self, name: str, source: MixSource) -> Filters:
        own, of = source.filters, self.mix.preprocessing
        allowed = None
        if own.allowed_licenses is not None:
            allowed = frozenset(one.strip().lower() for one in own.allowed_licenses)
            if source.license_column is None:
                whole = licence_of(name, source.license).data
                if whole not in allowed:
                    raise DataError(
                        f"{name}: its rows name no licence, and that of the data ({whole}) is not among "
                        f"allowed_licenses ({', '.join(sorted(allowed))})"
                    )
                allowed = None
        return Filters(
            min_length=of.min_text_length if own.min_length is None else own.min_length,
            max_length=of.max_text_length if own.max_length is None else own.max_length,
            min_words=of.min_words if own.min_words is None else own.min_words,
            newlines=None if source.verbatim else of.max_consecutive_newlines,
            licenses=allowed,
            license_column=source.license_column if allowed is not None else None,
        )

    def to_json(self) -> dict[str, Any]:
        """What a worker process needs."""
        return {
            "mix": self.mix.model_dump(mode="json"),
            "output": str(self.output),
            "hub_cache": str(self.hub_cache),
            "state": str(self.state.root),
            "endpoint": self.endpoint,
            "max_retries": self.max_retries,
            "backoff_factor": self.backoff_factor,
            "quota_share": self.quota_share,
            "commits": dict(self.commits),
            "tokenizer_commit": self.tokenizer_commit,
            "batch": self.batch,
            "force": self.force,
            "run_id": self.run_id,
            "lease_wait": self.lease_wait,
            "processes": self.processes,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> MixRun:
        """What `to_json` gave."""
        batch = document["batch"]
        return cls(
            **{
                **document,
                "mix": Mix.model_validate(document["mix"]),
                "output": Path(document["output"]),
                "hub_cache": Path(document["hub_cache"]),
                "state": StateDir(Path(document["state"])),
                "batch": None if batch is None else (batch[0], batch[1]),
            }
        )
