"""A corpus of real documents through the stages, for the tests of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from hfassets.demo.hub_corpus import passages
from hfassets.mds.chunk import Chunking
from hfassets.mds.documents import Columns
from hfassets.mds.fused import FusedChunking
from hfassets.mds.inputs import Cut
from hfassets.mds.origins import Target, from_files
from hfassets.mds.reader import MdsReader
from hfassets.mds.sides import ValidationRule
from hfassets.mds.stage import StageOutput, StageRun, make_stage
from hfassets.mds.tokenize import Tokenization
from hfassets.mds.upstream import upstream
from hfassets.storage.state import StateDir
from hfassets.tokens.engine import Engine, TokenizerSource
from hfassets.tokens.rules import ChunkRule

RULE = ChunkRule(128, minimum=100, skip=62, backfill=True, duplicates=False, add_eos=True)
COUNT = 2200
VALIDATION = ValidationRule(seed=1, fraction=0.1)


def corpus(count: int) -> list[dict[str, Any]]:
    """Documents of the standard library's documentation; some without an id, some empty."""
    found: list[dict[str, Any]] = []
    for number, (_, text) in enumerate(passages()[:count]):
        row: dict[str, Any] = {"id": f"doc-{number}", "text": text if number % 97 else ""}
        if number % 5 == 0:
            del row["id"]
        found.append(row)
    return found


def write_jsonl(folder: Path, rows: Sequence[Any], files: int = 3) -> None:
    """Rows as files of JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    each = -(-len(rows) // files)
    for number in range(files):
        lines = b"".join(orjson.dumps(row) + b"\n" for row in rows[number * each : (number + 1) * each])
        (folder / f"f{number}.jsonl").write_bytes(lines)


@dataclass
class Pipeline:
    """A place with a corpus and a tokenizer, and the stages made in it."""

    root: Path
    tokenizer: Path
    workers: int = 1

    @property
    def run(self) -> StageRun:
        """Habits."""
        return StageRun(StateDir(self.root / "state"), workers=self.workers)

    @property
    def engine(self) -> Engine:
        """The tokenizer."""
        return Engine(TokenizerSource.read(self.tokenizer))

    def text(self, cut: Cut | None = None, **given: Any) -> StageOutput:
        """The text stage."""
        target = Target(
            self.root / "text",
            self.run.state,
            columns=given.pop("columns", Columns()),
            validation=given.pop("validation", VALIDATION),
            cut=cut or Cut(bytes=200_000),
            **given,
        )
        return make_stage(from_files(self.root / "source", target).stage(), self.run)

    def tokens(self, **given: Any) -> StageOutput:
        """The tokenized stage."""
        source = TokenizerSource.read(self.tokenizer)
        made = Tokenization(self.root / "tokens", upstream(self.root / "text"), source, self.tokenizer, **given)
        return make_stage(made.stage(), self.run)

    def fused(self, rule: ChunkRule = RULE, name: str = "fused") -> StageOutput:
        """The chunked stage in one go."""
        target = Target(self.root / "none", self.run.state, validation=VALIDATION, cut=Cut(bytes=200_000))
        source = TokenizerSource.read(self.tokenizer)
        conversion = from_files(self.root / "source", target)
        made = FusedChunking(self.root / name, conversion, source, self.tokenizer, rule)
        return make_stage(made.stage(), self.run)

    def chunks(self, rule: ChunkRule = RULE, name: str = "chunks") -> StageOutput:
        """The chunked stage."""
        made = Chunking(self.root / name, upstream(self.root / "tokens"), rule, self.engine.specials)
        return make_stage(made.stage(), self.run)


def samples(folder: Path) -> list[dict[str, Any]]:
    """All samples of a folder's index."""
    return list(MdsReader(folder))


def tree(folder: Path) -> dict[str, bytes]:
    """What has to be equal after any interruption: every file but plans and manifests, with places and times."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("manifest.json", "plan.json")
    }
