"""Text to MDS: the first stage, with columns `id` and `text`, and the sides fixed.

Invariant: every row that is read is a document on one side, or in a named count; parts are the same bytes whatever the
number of workers, and whole or not there at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfassets.distillation.registry import mapper_identity
from hfassets.errors import DataError, IntegrityError
from hfassets.mds.batches import source_documents
from hfassets.mds.documents import Columns, Documents, Reading
from hfassets.mds.index import write_merged
from hfassets.mds.inputs import Piece
from hfassets.mds.sides import TRAIN, VALIDATION, ValidationRule
from hfassets.mds.stage import SIDES, STATS, Finished, Stage, write_stats
from hfassets.mds.writer import SIZE_LIMIT, MdsWriter
from hfassets.parts import PartOutput, PartsResult, Plan

STAGE = "text_mds"
FORMAT = 1
COLUMNS = {"id": "str", "text": "str"}
HASHES = ("xxh3_64",)


@dataclass(frozen=True)
class ShardShape:
    """How shards are stored. `size_limit`: bytes of an uncompressed one."""

    compression: str | None = "zstd:1"
    hashes: Sequence[str] = HASHES
    size_limit: int = SIZE_LIMIT

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"compression": self.compression, "hashes": list(self.hashes), "size_limit": self.size_limit}

    def writer(self, folder: Path, columns: Mapping[str, str]) -> MdsWriter:
        """A writer of this shape."""
        return MdsWriter(folder, columns, self.compression, self.hashes, self.size_limit)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ShardShape:
        """What `to_dict` gave."""
        return cls(document["compression"], tuple(document["hashes"]), document["size_limit"])


@dataclass(frozen=True)
class Conversion:
    """What is converted. `inputs`: where it comes from; `groups`: the pieces of each part, with the part's name.

    `mapper`: a row's text by name or `module:function`, None = the text column. `places`: where files lie by their
    paths; others are fetched, as `context` tells.
    """

    root: Path
    inputs: Mapping[str, Any]
    groups: Sequence[tuple[str, Sequence[Piece]]]
    columns: Columns = field(default_factory=Columns)
    mapper: str | None = None
    validation: ValidationRule = field(default_factory=ValidationRule)
    shape: ShardShape = field(default_factory=ShardShape)
    places: Mapping[str, str] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)

    def stage(self) -> Stage:
        """The folder as a stage."""
        parameters = {
            "columns": self.columns.to_list(),
            "mapper": None if self.mapper is None else mapper_identity(self.mapper),
            "validation": self.validation.identity(),
            "shape": self.shape.to_dict(),
        }
        parts = [{"name": name, "pieces": [one.to_dict() for one in group]} for name, group in self.groups]
        context = {
            **self.context,
            "places": dict(self.places),
            "columns": self.columns.to_list(),
            "mapper": self.mapper,
            "validation": [self.validation.seed, self.validation.fraction, self.validation.share],
            "shape": self.shape.to_dict(),
        }
        return Stage(self.root, Plan(STAGE, FORMAT, self.inputs, parameters, parts, context), convert_part, _finish)


def convert_part(part: dict[str, Any], folder: Path) -> PartOutput:
    """Worker: the documents of a part's pieces, each side as an MDS of its own."""
    context = part["context"]
    reading = Reading()
    rule, shape = ValidationRule(*context["validation"]), ShardShape.from_dict(context["shape"])
    counts = write_sides(source_documents(part, context, reading), folder, rule, shape)
    counts["rows_read"] = reading.read
    counts.update({f"refused_{name}": count for name, count in sorted(reading.refused.items())})
    return PartOutput(dict(counts))


def write_sides(blocks: Iterator[Documents], folder: Path, rule: ValidationRule, shape: ShardShape) -> Counter[str]:
    """Write documents to `train` and `validation` below a folder, and count them; a side without any has no folder."""
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        writers: dict[int, MdsWriter] = {}
        for block in blocks:
            sides = rule.sides(block.texts)
            for side in set(sides):
                places = [place for place, one in enumerate(sides) if one == side]
                texts = [block.texts[place] for place in places]
                name = (*SIDES, "held_out")[side]
                counts[f"documents_{name}"] += len(places)
                counts[f"bytes_{name}"] += sum(map(len, texts))
                if side not in (TRAIN, VALIDATION):
                    continue
                if side not in writers:
                    writers[side] = stack.enter_context(shape.writer(folder / SIDES[side], COLUMNS))
                writers[side].write_encoded({"id": [block.ids[place] for place in places], "text": texts})
    return counts


def _finish(root: Path, result: PartsResult) -> Finished:
    account = dict(result.account)
    documents_found = sum(count for name, count in account.items() if name.startswith("documents_"))
    refused = sum(count for name, count in account.items() if name.startswith("refused_"))
    if account.get("rows_read", 0) != documents_found + refused:
        raise IntegrityError(f"{root}: the account does not close: {account}; this is a defect of hfassets")
    if not documents_found:
        raise DataError(f"{root}: no document in {account.get('rows_read', 0):,} rows; nothing to write")
    shards = write_merged(root)
    stats = {
        "account": account,
        "instances": sum(shard.samples for shard in shards),
        "shards": len(shards),
        "raw_bytes": sum(shard.raw_bytes for shard in shards),
        "parts": len(result.manifests),
    }
    write_stats(root, stats)
    return Finished(account, stats, (STATS,))
