"""Workers of the older pipeline's two steps: documents to tokens, and tokens to rows of one size.

Invariant: the tokens of a split are those of its documents one after the other, special ones around each as the
tokenizer puts them; parts and shards are only where files end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from hfassets.errors import DataError
from hfassets.mds.tokenize import loaded_engine
from hfassets.parts import PartOutput
from hfassets.staging.arrow import read_rows
from hfassets.staging.splits import SplitPlan
from hfassets.tokens.ragged import Ragged, concatenated

COLUMNS = {"input_ids": "int32", "attention_mask": "int8", "labels": "int32"}
"""What a row holds, and as what numbers: as `datasets.map` stores the first two; labels are a copy of the tokens."""
BYTES_PER_TOKEN = 9
_BATCH_BYTES = 8 << 20
_ROWS = 1000
_BATCH_TOKENS = 4 << 20


def tokenize_part(part: dict[str, Any], folder: Path) -> PartOutput:
    """Worker: the tokens of some documents, a file for each split that they end in, and how long each document is."""
    context = part["context"]
    engine = loaded_engine(context)
    plan = SplitPlan(context["seed"], {}, context["shares"])
    outputs = plan.outputs(part["split"])
    before, after = tuple(context["in_front"]), tuple(context["behind"])
    counts = dict.fromkeys(("documents_in", "documents_empty", "tokens_in", "eos_added", "specials_added"), 0)
    lengths: dict[str, list[Any]] = {name: [] for name in outputs}
    files = {name: (folder / f"tokens-{name}.bin").open("wb") for name in outputs}
    try:
        for texts in _texts(part, context):
            tokens = engine.encode(texts, context["dtype"])
            full = np.flatnonzero(tokens.lengths)
            ended = concatenated([tokens], context["eos"]) if context["eos"] is not None else tokens
            whole = surrounded(ended, before, after)
            counts["documents_in"] += len(texts)
            counts["documents_empty"] += len(texts) - len(full)
            counts["tokens_in"] += len(tokens.values)
            counts["eos_added"] += len(ended.values) - len(tokens.values)
            counts["specials_added"] += len(whole.values) - len(ended.values)
            sides = plan.sides(texts) if len(outputs) > 1 else np.zeros(len(texts), dtype=np.int8)
            for place, name in enumerate(outputs):
                chosen = sides == place
                files[name].write(whole.values[np.repeat(chosen, whole.lengths)].data)
                lengths[name].append(whole.lengths[chosen].astype(np.int32))
    finally:
        for file in files.values():
            file.close()
    tokens_of, documents_of = {}, {}
    for name in outputs:
        found = np.concatenate(lengths[name]) if lengths[name] else np.zeros(0, dtype=np.int32)
        np.save(folder / f"lengths-{name}.npy", found)
        tokens_of[name], documents_of[name] = int(found.sum(dtype=np.int64)), len(found)
    return PartOutput(counts, {"tokens": tokens_of, "documents": documents_of, "engine": engine.engine})


def _texts(part: Mapping[str, Any], context: Mapping[str, Any]) -> Iterator[list[bytes]]:
    """The documents in UTF-8, some MB at a time; a missing one is empty."""
    import pyarrow as pa

    column, held, size = context["column"], [], 0
    for batch in read_rows(context["files"][part["split"]], part["start"], part["stop"], [column]):
        for text in batch.column(0).cast(pa.large_binary()).to_pylist():
            held.append(text or b"")
            size += len(held[-1])
        if size >= _BATCH_BYTES:
            yield held
            held, size = [], 0
    if held:
        yield held


def surrounded(documents: Ragged, before: Sequence[int], after: Sequence[int]) -> Ragged:
    """The documents with these tokens around each, empty ones included: so the tokenizer itself has it."""
    if not before and not after:
        return documents
    lengths = documents.lengths
    offsets = documents.offsets + np.arange(len(documents) + 1) * (len(before) + len(after))
    values = np.empty(offsets[-1], dtype=documents.values.dtype)
    shift = offsets[:-1] + len(before) - documents.offsets[:-1]
    values[np.arange(len(documents.values)) + np.repeat(shift, lengths)] = documents.values
    for place, token in enumerate(before):
        values[offsets[:-1] + place] = token
    for place, token in enumerate(reversed(after), 1):
        values[offsets[1:] - place] = token
    return Ragged(values, offsets)


def block_part(part: dict[str, Any], folder: Path) -> PartOutput:
    """Worker: one Arrow file of rows, from the tokens of a split."""
    import pyarrow as pa

    context = part["context"]
    size, dtype = context["block"], np.dtype(context["dtype"])
    tokens = _Tokens(context["tokens"][part["split"]], dtype)
    rows, step = 0, max(1, min(_ROWS, _BATCH_TOKENS // size)) * size
    with pa.OSFile(str(folder / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, token_schema()) as writer:
        for start, count in part["runs"]:
            for begin in range(start, start + count, step):
                batch = _rows(tokens.read(begin, min(start + count, begin + step)), size)
                writer.write_batch(batch)
                rows += batch.num_rows
    return PartOutput({"rows": rows}, {})


class _Tokens:
    """The tokens of a split, in several files, as one array."""

    def __init__(self, files: Sequence[tuple[str, int]], dtype: Any) -> None:
        self._files, self._dtype = [Path(path) for path, _ in files], dtype
        self._starts = np.concatenate([[0], np.cumsum([count for _, count in files], dtype=np.int64)])

    def read(self, start: int, stop: int) -> Any:
        """From one place to another, excluded, as int32."""
        found = []
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        for place in range(first, len(self._files)):
            begin, end = int(self._starts[place]), int(self._starts[place + 1])
            if begin >= stop:
                break
            low, high = max(start, begin) - begin, min(stop, end) - begin
            if low < high:
                offset = low * self._dtype.itemsize
                found.append(np.fromfile(self._files[place], self._dtype, high - low, offset=offset))
        read = np.concatenate(found) if found else np.zeros(0, dtype=self._dtype)
        if len(read) != stop - start:
            raise DataError(f"{self._files[first]}: tokens are missing; run again by force")
        return read.astype(np.int32)


def _rows(tokens: Any, size: int) -> Any:
    """A record batch of rows of `size` tokens, the last one as long as there are."""
    import pyarrow as pa

    ends = np.append(np.arange(0, len(tokens), size, dtype=np.int32), np.int32(len(tokens)))
    offsets = pa.array(ends, pa.int32())
    arrays = {
        "input_ids": pa.array(tokens),
        "attention_mask": pa.array(np.ones(len(tokens), dtype=np.int8)),
        "labels": pa.array(tokens),
    }
    return pa.record_batch([pa.ListArray.from_arrays(offsets, one) for one in arrays.values()], schema=token_schema())


def token_features() -> dict[str, Any]:
    """The features of the rows as `datasets` writes them down."""
    return {name: {"feature": {"dtype": dtype, "_type": "Value"}, "_type": "List"} for name, dtype in COLUMNS.items()}


def token_schema() -> Any:
    """The rows as Arrow, with the features that `datasets` reads."""
    import pyarrow as pa

    told = orjson.dumps({"info": {"features": token_features()}})
    fields = [(name, pa.list_(pa.type_for_alias(dtype))) for name, dtype in COLUMNS.items()]
    return pa.schema(fields, metadata={b"huggingface": told})
