"""Rows of tokens as Parquet that a student trains on: fixed-size lists, padded, with labels; and the way back.

Invariant: a row's first tokens are its content, whatever is behind them is padding with mask 0 and label -100.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hfassets.errors import DataError
from hfassets.tokens.chunking import Rows
from hfassets.tokens.ragged import Ragged
from hfassets.tokens.rules import ChunkRule

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

IGNORED = -100
"""The label of a token that is not predicted, as torch's cross_entropy leaves it out."""
_GROUP_BYTES = 16 << 20
_TOKEN_BYTES = 12
"""Of a row's three lists of int32."""


@dataclass(frozen=True, slots=True)
class PackRule:
    """`size`: tokens of a row. `shifted`: label i is token i + 1, the last one -100; else label i is token i, for
    trainers that shift themselves. `bos`: the id in front of each document, None = none.
    """

    size: int
    mode: Literal["concat", "best_fit"] = "concat"
    shifted: bool = True
    bos: int | None = None
    pad: int = 0

    @property
    def chunks(self) -> ChunkRule:
        """The rule for cutting and packing; documents end with the end token."""
        return ChunkRule(self.size, self.mode, add_eos=True)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def with_bos(tokens: Ragged, bos: int | None) -> Ragged:
    """A token in front of each document that has any."""
    if bos is None or not len(tokens.values):
        return tokens
    full = tokens.lengths > 0
    values = np.insert(tokens.values, tokens.offsets[:-1][full], bos)
    return Ragged(values, tokens.offsets + np.concatenate(([0], np.cumsum(full))))


def padded(rows: Rows, first: int, stop: int, size: int, pad: int) -> tuple[Any, Any]:
    """Rows from `first` to before `stop`: their content, int32 of shape (rows, size), and its lengths, int64."""
    begin, end = int(rows.firsts[first]), int(rows.firsts[stop])
    lengths = rows.lengths[begin:end]
    sources = rows.tokens.offsets[rows.documents[begin:end]] + rows.offsets[begin:end]
    row = np.repeat(np.arange(stop - first), np.diff(rows.firsts[first : stop + 1]))
    before = np.cumsum(lengths) - lengths
    sizes = np.bincount(row, weights=lengths, minlength=stop - first).astype(np.int64)
    targets = row * size + before - (np.cumsum(sizes) - sizes)[row]
    found = np.full((stop - first) * size, pad, dtype=np.int32)
    # Token by token: where each piece begins, and how far into it.
    within = np.arange(int(lengths.sum())) - np.repeat(before, lengths)
    found[np.repeat(targets, lengths) + within] = rows.tokens.values[np.repeat(sources, lengths) + within]
    return found.reshape(stop - first, size), sizes


def labels_of(ids: Any, lengths: Any, *, shifted: bool) -> Any:
    """The labels of padded rows, int32 of their shape."""
    size = ids.shape[1]
    labels = np.full_like(ids, IGNORED)
    if shifted:
        labels[:, :-1] = ids[:, 1:]
    else:
        labels[:] = ids
    last = lengths - 1 if shifted else lengths
    labels[np.arange(size)[None, :] >= last[:, None]] = IGNORED
    return labels


def schema(size: int) -> pa.Schema:
    """`input_ids`, `attention_mask`, `labels` as lists of `size` int32; `spans`: document, offset in it, length."""
    import pyarrow as pa

    fixed = pa.list_(pa.int32(), size)
    span = pa.struct([("id", pa.string()), ("offset", pa.int64()), ("length", pa.int64())])
    return pa.schema(
        [(name, fixed) for name in ("input_ids", "attention_mask", "labels")] + [("spans", pa.list_(span))]
    )


def tables(rows: Rows, names: Sequence[bytes], rule: PackRule) -> Iterator[pa.Table]:
    """The rows as tables of one row group each; `names`: the documents' ids in UTF-8."""
    import pyarrow as pa

    count = max(1, _GROUP_BYTES // (_TOKEN_BYTES * rule.size))
    for first in range(0, len(rows), count):
        stop = min(first + count, len(rows))
        ids, lengths = padded(rows, first, stop, rule.size, rule.pad)
        mask = (np.arange(rule.size)[None, :] < lengths[:, None]).astype(np.int32)
        columns = [ids, mask, labels_of(ids, lengths, shifted=rule.shifted)]
        begin, end = int(rows.firsts[first]), int(rows.firsts[stop])
        spans = pa.StructArray.from_arrays(
            [
                pa.array([names[document].decode(errors="replace") for document in rows.documents[begin:end].tolist()]),
                pa.array(rows.offsets[begin:end]),
                pa.array(rows.lengths[begin:end]),
            ],
            ["id", "offset", "length"],
        )
        of_rows = pa.array(rows.firsts[first : stop + 1] - begin, type=pa.int32())
        yield pa.Table.from_arrays(
            [
                *(pa.FixedSizeListArray.from_arrays(pa.array(one.reshape(-1)), rule.size) for one in columns),
                pa.ListArray.from_arrays(of_rows, spans),
            ],
            schema=schema(rule.size),
        )


def rows_per_file(size: int, limit: int) -> int:
    """How many rows a file of at most `limit` bytes surely has room for."""
    return max(1, limit // (_TOKEN_BYTES * size))


def write_files(rows: Rows, names: Sequence[bytes], rule: PackRule, folder: Path, limit: int) -> int:
    """Write rows as `00000.parquet` and so on, of at most `limit` bytes each; the number of files."""
    import pyarrow.parquet as pq

    most, written, number = rows_per_file(rule.size, limit), 0, -1
    writer: Any = None
    try:
        for table in tables(rows, names, rule):
            place = 0
            while place < len(table):
                if writer is None:
                    number += 1
                    path = folder / f"{number:05}.parquet"
                    writer = pq.ParquetWriter(path, schema(rule.size), compression="snappy", write_page_checksum=True)
                some = table.slice(place, most - written)
                writer.write_table(some)
                place, written = place + len(some), written + len(some)
                if written == most:
                    writer.close()
                    writer, written = None, 0
    finally:
        if writer is not None:
            writer.close()
    return number + 1


def read_packed(folder: Path) -> datasets.Dataset:
    """The rows of a packed folder, mapped from Arrow: memory is bounded by a row group.

    Raises DataError when there is no shard in it.
    """
    import datasets

    paths = sorted(str(path) for path in folder.glob("shard_*.parquet"))
    if not paths:
        raise DataError(f"{folder}: no shard_*.parquet in it")
    found: datasets.Dataset = datasets.load_dataset("parquet", data_files=paths, split="train")
    return found.with_format("numpy")
