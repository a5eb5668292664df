"""Text MDS to tokenized MDS: each document's tokens, without special ones around them and without truncation.

Invariant: a part has the documents of its text part in their order, but for those without a token, which are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from hfassets.errors import DataError, IntegrityError
from hfassets.mds.columns import Column, column, encoded_ints
from hfassets.mds.convert import ShardShape
from hfassets.mds.index import write_merged
from hfassets.mds.reader import MdsReader, ShardData
from hfassets.mds.stage import STATS, Finished, Stage, find_stage, write_stats
from hfassets.mds.upstream import Upstream, side_folders
from hfassets.mds.writer import Encoded, MdsWriter, SideBySide
from hfassets.parts import PartOutput, PartsResult, Plan
from hfassets.tokens.chunking import Specials
from hfassets.tokens.engine import Engine, EngineName, TokenizerSource
from hfassets.tokens.ragged import Ragged

STAGE = "tokenized_mds"
FORMAT = 1
NUM_TOKENS = "num_tokens.json"
_TRUNCATED_AT = 1024
_PROBED_DOCUMENTS = 16
_RECORDED = ("engines", "fell_back", "tokenizer")
"""What of the stats is told in the manifest alone."""


@dataclass(frozen=True)
class Tokenization:
    """What is tokenized. `dtype`: uint16 or uint32, None = the smallest that fits.

    Shards are not compressed unless asked: tokens hardly shrink, and it takes longer than making them.
    """

    root: Path
    text: Upstream
    tokenizer: TokenizerSource
    tokenizer_path: Path
    dtype: str | None = None
    engine: EngineName = "auto"
    shape: ShardShape = field(default_factory=lambda: ShardShape(compression=None))
    text_column: str = "text"
    id_column: str = "id"

    def stage(self) -> Stage:
        """The folder as a stage; raises DataError for a tokenizer that cannot be read or ids that do not fit."""
        reference = Engine(self.tokenizer, "tokenizers")
        dtype, specials = reference.dtype(self.dtype), reference.specials
        self.text.expect({self.text_column: "str"})
        parameters = {
            "tokenizer": self.tokenizer.identity,
            "dtype": dtype,
            "columns": [self.text_column, self.id_column],
            "shape": self.shape.to_dict(),
        }
        context = {
            "tokenizer_path": str(self.tokenizer_path.absolute()),
            "tokenizer_name": self.tokenizer.name,
            "prefix_space": self.tokenizer.prefix_space,
            "engine": self.engine,
            "text": str(self.text.root.absolute()),
            "specials": [list(specials.before), list(specials.after), specials.eos, sorted(specials.ids)],
            **parameters,
        }
        plan = Plan(STAGE, FORMAT, {"text": self.text.fingerprint}, parameters, self.text.parts(), context)
        return Stage(self.root, plan, tokenize_part, _finish, {"text": str(self.text.root.absolute())})


def specials_of(root: Path) -> tuple[str, Specials]:
    """Name and special tokens of the tokenizer that a tokenized folder was made with.

    Raises DataError for a folder that hfassets has not made, or not finished.
    """
    found = find_stage(root)
    if found is None or "specials" not in found.details:
        raise DataError(f"{root}: not a finished tokenized MDS of hfassets; name its tokenizer")
    before, after, eos, ids = found.details["specials"]
    return str(found.details["tokenizer"]), Specials(tuple(before), tuple(after), eos, frozenset(ids))


def tokens_column(dtype: str) -> str:
    """The encoding of a column of tokens."""
    return f"ndarray:{dtype}"


def encoded_arrays(which: Column, arrays: Ragged) -> SideBySide:
    """The values of a column of arrays; none may be empty."""
    name, size = arrays.values.dtype.name, arrays.values.dtype.itemsize
    data: Any = memoryview(np.ascontiguousarray(arrays.values)).cast("B")  # type: ignore[arg-type]
    lengths = arrays.lengths.tolist()
    heads = {length: which.array_head((length,), name) for length in set(lengths)}
    offsets = (arrays.offsets * size).tolist()
    bodies = [data[start:end] for start, end in pairwise(offsets)]
    return SideBySide(([heads[length] for length in lengths], bodies))


def tokenize_part(part: dict[str, Any], folder: Path) -> PartOutput:
    """Worker: one part of a text MDS, both sides."""
    context = part["context"]
    engine = loaded_engine(context)
    counts: Counter[str] = Counter()
    shape = ShardShape.from_dict(context["shape"])
    for side, source in side_folders(Path(context["text"]) / part["source"]):
        _tokenize(MdsReader(source), folder / side, engine, context, shape, counts)
    return PartOutput(dict(counts), {"engine": engine.engine, "fell_back": engine.fell_back})


def loaded_engine(context: Mapping[str, Any]) -> Engine:
    """The tokenizer that a plan's context names; loaded once a process."""
    return _engine(context["tokenizer_path"], context["tokenizer_name"], context["prefix_space"], context["engine"])


@lru_cache(maxsize=2)
def _engine(path: str, name: str, prefix_space: bool, wanted: EngineName) -> Engine:
    return Engine(TokenizerSource.read(Path(path), name=name, prefix_space=prefix_space), wanted)


def _tokenize(
    reader: MdsReader,
    folder: Path,
    engine: Engine,
    context: Mapping[str, Any],
    shape: ShardShape,
    counts: Counter[str],
) -> None:
    dtype = context["dtype"]
    which = column(tokens_column(dtype))
    columns = {"input_ids": which.encoding, "id": "str", "len": "int"}
    text_column, id_column = context["columns"]
    with ExitStack() as stack:
        writer: MdsWriter | None = None
        for number, block in enumerate(reader.blocks()):
            texts = block.encoded(text_column)
            if number == 0:
                engine.check(texts[:_PROBED_DOCUMENTS])
            tokens = engine.encode(texts, dtype)
            lengths = tokens.lengths
            counts["documents_in"] += len(texts)
            counts["documents_empty"] += int((lengths == 0).sum())
            counts["bytes_in"] += sum(map(len, texts))
            counts["tokens"] += len(tokens.values)
            counts["tokens_truncated"] += int(np.minimum(lengths, _TRUNCATED_AT).sum())
            kept = np.flatnonzero(lengths)
            counts["documents_written"] += len(kept)
            if not len(kept):
                continue
            ids = _ids(block, id_column, reader, number)
            # Documents without a token take no room in the values: without their offsets, the rest is as it was.
            full = Ragged(tokens.values, np.append(tokens.offsets[kept], tokens.offsets[-1]))
            if writer is None:
                writer = stack.enter_context(shape.writer(folder, columns))
            values: dict[str, Encoded] = {
                "input_ids": encoded_arrays(which, full),
                "id": [ids[place] for place in kept.tolist()],
                "len": encoded_ints(lengths[kept]),
            }
            writer.write_encoded(values)


def _ids(block: ShardData, name: str, reader: MdsReader, shard: int) -> list[bytes]:
    """The ids of a shard's documents; where there is no such column, made of the shard's name and the row."""
    if name not in block.columns:
        raw = reader.shards[shard].raw
        return [f"{raw}#{row}".encode() for row in range(len(block))]
    if block.columns[name].encoding == "int":
        return [str(one).encode() for one in block.ints(name).tolist()]
    if block.columns[name].encoding != "str":
        raise DataError(f"{block.name}: ids in a column of {block.columns[name].encoding}; str or int can be read")
    return block.encoded(name)


def _finish(root: Path, result: PartsResult) -> Finished:
    account = dict(result.account)
    if account.get("documents_in", 0) != account.get("documents_written", 0) + account.get("documents_empty", 0):
        raise IntegrityError(f"{root}: the account does not close: {account}; this is a defect of hfassets")
    if not account.get("documents_written"):
        raise DataError(f"{root}: no document has a token; nothing to write")
    shards = write_merged(root)
    write_stats(
        root,
        {"num_tokens": account["tokens"], "num_truncated_tokens": account["tokens_truncated"]},
        NUM_TOKENS,
    )
    context = result.context
    engines = sorted({str(manifest.details["engine"]) for manifest in result.manifests})
    fallen = sorted({str(one) for manifest in result.manifests if (one := manifest.details["fell_back"])})
    stats = {
        "account": account,
        "instances": sum(shard.samples for shard in shards),
        "num_tokens": account["tokens"],
        "engines": engines,
        "fell_back": fallen,
        "tokenizer": context["tokenizer_name"],
        "specials": context["specials"],
        "parts": len(result.manifests),
    }
    # Which engine made the tokens is told in the manifest: equal tokens have to give equal files.
    write_stats(root, {key: value for key, value in stats.items() if key not in _RECORDED})
    return Finished(account, stats, (STATS, NUM_TOKENS))
