"""Pieces of input files, opened: those that lie here, and those that a worker fetches for itself and proves.

Invariant: rows are read only from bytes that have the hash their source claims; a file that was fetched for a part is
gone again when the part has been written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hfassets.errors import DataError
from hfassets.hub.layout import RepoCache
from hfassets.hub.listing import RepoFile
from hfassets.hub.options import hub_options
from hfassets.hub.session import HubClient
from hfassets.mds.documents import opened
from hfassets.mds.inputs import Piece
from hfassets.mds.urls import fetch_url
from hfassets.sources.files import DamagedSourceError, LocalSource, RemoteSource, Source
from hfassets.storage.state import file_name


@contextmanager
def open_piece(piece: Piece, context: Mapping[str, Any]) -> Iterator[Source]:
    """A piece as a source of rows; for one that does not lie here, `context` says from where it comes.

    Raises what fetching raises: HubError, IntegrityError, DataError.
    """
    if piece.file.place:
        yield opened(piece)
        return
    spool = Path(context["spool"]) / f"{file_name(piece.file.path)}.received"
    if "hub" in context:
        _fetch_from_hub(piece, context["hub"], spool)
    elif "urls" in context:
        fetch_url(context["urls"][piece.file.path], spool, context.get("max_retries", 5))
    else:
        raise DataError(f"{piece.file.path}: it does not lie here, and nobody says where it comes from")
    yield LocalSource(RepoFile(piece.file.path, spool.stat().st_size, piece.file.hash), spool)
    spool.unlink()


def _fetch_from_hub(piece: Piece, hub: Mapping[str, Any], spool: Path) -> None:
    options = hub_options(
        endpoint=hub["endpoint"],
        token_env=hub["token_env"],
        max_retries=hub["max_retries"],
        backoff_factor=hub["backoff_factor"],
        quota_share=hub["quota_share"],
    )
    file = RepoFile(piece.file.path, piece.file.size, piece.file.hash)
    repo = RepoCache(Path(hub["hub_cache"]), hub["repo"], hub["repo_type"])
    with HubClient(options) as client:
        source = RemoteSource(client, repo, hub["commit"], file, spool)
        try:
            source.fetch()
        except DamagedSourceError:
            source.discard()
            source.fetch()
