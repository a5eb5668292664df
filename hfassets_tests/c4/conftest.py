"""A split of four small gzip sources, and shard sets made of it."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from hfassets.c4.make import make_shard_set
from hfassets.c4.request import ShardSetRequest
from hfassets.c4.shard_set import ShardSet
from hfassets.demo.hub_server import SampleHub
from hfassets.hub.layout import RepoCache
from hfassets.hub.session import HubClient, hub_options
from hfassets.storage.s3 import S3Prefix, S3Settings
from hfassets.storage.state import StateDir
from hfassets_tests.s3 import BUCKET, S3Server, s3, s3_server

__all__ = ["s3", "s3_server"]

ROWS = 3000
FILES = 4
WORDS = ["café", "—", "data", "of", "the", "web", "\U0001f409", '"quoted"']
CARD = b"""---
configs:
- config_name: en
  data_files:
  - {split: train, path: en/c4-train.*.json.gz}
  - {split: validation, path: en/c4-validation.*.json.gz}
---
"""


def row(number: int) -> dict[str, Any]:
    """A row as C4 has them; some with text beyond ASCII."""
    words = random.Random(number).choices(WORDS, k=5 + number % 40)
    return {"text": " ".join(words), "timestamp": "2019-04-25T12:57:54Z", "url": f"http://example.com/{number}"}


def lines(first: int, end: int) -> list[bytes]:
    """Rows as JSON lines, with their newlines."""
    return [orjson.dumps(row(number)) + b"\n" for number in range(first, end)]


def sources(all_lines: list[bytes], files: int = FILES) -> dict[str, bytes]:
    """The lines spread over gzip files."""
    each = -(-len(all_lines) // files)
    return {
        f"en/c4-train.{index:05}-of-{files:05}.json.gz": gzip.compress(
            b"".join(all_lines[index * each : (index + 1) * each]), mtime=0
        )
        for index in range(files)
    }


@dataclass
class C4:
    """The sample Hub with C4 on it, and a place to make shard sets in. `all_lines`: the split, in order."""

    hub: SampleHub
    root: Path
    commit: str
    all_lines: list[bytes]

    def request(self, place: str | Path | None = None, **fields: Any) -> ShardSetRequest:
        """A request; to a folder of its own unless said."""
        local = self.root / "out"
        destination: Path | S3Prefix = local
        if isinstance(place, str):
            destination = S3Prefix.parse(place, S3Settings())
        elif place is not None:
            destination = local = place
        defaults: dict[str, Any] = {
            "repo": RepoCache(self.root / "hub", "allenai/c4"),
            "commit": self.commit,
            "destination": destination,
            "state": StateDir(self.root / "state"),
            "local": local,
            "config": "en",
        }
        return ShardSetRequest(**{**defaults, **fields})

    def make(self, request: ShardSetRequest, progress: Callable[[Any], None] = lambda _: None) -> ShardSet:
        """Make the shard set."""
        with HubClient(hub_options(endpoint=self.hub.url, max_retries=2, backoff_factor=0.01), progress) as client:
            return make_shard_set(client, request, progress)

    def expect(self, number: int, first: int = 0) -> bytes:
        """The first rows of the split."""
        return b"".join(self.all_lines[first : first + number])

    def republish(self, files: dict[str, bytes]) -> None:
        """A new commit with these source files of train."""
        validation = {"en/c4-validation.00000-of-00001.json.gz": gzip.compress(b"".join(lines(9000, 9100)), mtime=0)}
        self.commit = self.hub.add_repo("allenai/c4", {"README.md": CARD, **files, **validation})


@pytest.fixture
def c4(tmp_path: Path, sample_hub: SampleHub) -> Iterator[C4]:
    """C4 with 3,000 rows in four source files."""
    all_lines = lines(0, ROWS)
    made = C4(sample_hub, tmp_path, "", all_lines)
    made.republish(sources(all_lines))
    sample_hub.reset_log()
    yield made


@pytest.fixture
def prefix() -> str:
    """A destination in S3."""
    return f"s3://{BUCKET}/c4/en"


def files_of(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of everything in a folder but manifests."""
    if not folder.exists():
        return {}
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(".manifest.json")}


def keys_of(server: S3Server) -> set[str]:
    """Keys of all objects but manifests."""
    return {key for key in server.objects() if not key.endswith(".manifest.json")}
