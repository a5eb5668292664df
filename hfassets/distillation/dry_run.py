"""What a mix would take, before a byte of data: rows where a card tells, bytes, licences, gated or not.

Invariant: only the Hub's API and the metadata files of a repo are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hfassets.distillation.licences import licence_of
from hfassets.distillation.mix_run import MixRun
from hfassets.distillation.rows import SourceRows
from hfassets.errors import HfassetsError
from hfassets.hub.acquire import commit_listing, read_metadata
from hfassets.hub.configs import Card, read_card
from hfassets.hub.memory import VerifyMemory
from hfassets.hub.refusals import HubRefusalError
from hfassets.progress import ProgressCallback, silent


@dataclass(frozen=True, slots=True)
class Estimate:
    """One source. `rows`: of its split, None = the card does not tell. `size`: bytes of its files, None = unknown.

    `access`: `open`, `gated` (and granted), or what is to be done.
    """

    source: str
    category: str
    repo: str
    asked: int
    rows: int | None
    files: int | None
    size: int | None
    license: str
    commercial: str
    access: str
    granted: bool
    streaming: bool


def estimate(run: MixRun, progress: ProgressCallback = silent) -> list[Estimate]:
    """One estimate an enabled source, in order; what the Hub refuses is said in `access`."""
    shared = run.quotas()
    return [_estimate(run, name, count, progress) for name, count in shared.rows.items()]


def _estimate(run: MixRun, name: str, asked: int, progress: ProgressCallback) -> Estimate:
    source = run.mix.datasets[name]
    licence = licence_of(name, source.license)
    rows = files = size = None
    access, granted = "open", True
    try:
        with run.client(source, progress) as client:
            gated = client.is_gated(source.hf_path)
            access = "gated" if gated else "open"
            commit = run.commits.get(name) or client.resolve_commit(source.hf_path, source.revision)
            request = run.request(name, asked, commit, None)
            listing = commit_listing(client, request.repo, commit, run.state, progress)
            card = None
            try:
                memory = VerifyMemory.open(run.state, request.repo)
                card = read_card(source.hf_path, read_metadata(client, request.repo, listing, memory))
                found = [file for part in SourceRows(client, request, progress).files for file in part]
                files, size = len(found), sum(file.size for file in found)
                rows = _rows_of(card, [part.config for part in request.parts], source.split)
            except HubRefusalError as refused:
                access, granted = str(refused), False
    except HfassetsError as error:
        access, granted = str(error), False
    return Estimate(
        source=name,
        category=source.category,
        repo=source.hf_path,
        asked=asked,
        rows=rows,
        files=files,
        size=size,
        license=licence.data,
        commercial=licence.commercial,
        access=access,
        granted=granted,
        streaming=source.streaming,
    )


def _rows_of(card: Card, configs: list[str | None], split: str) -> int | None:
    """The rows of a split over some configs, if the card tells of all of them."""
    told: dict[str, int] = {}
    for info in card.infos:
        for one in info.get("splits") or []:
            if isinstance(one, Mapping) and one.get("name") == split and isinstance(one.get("num_examples"), int):
                told[str(info.get("config_name", "default")).casefold()] = one["num_examples"]
    names = [(config or "default").casefold() for config in configs]
    return sum(told[name] for name in names) if all(name in told for name in names) else None
