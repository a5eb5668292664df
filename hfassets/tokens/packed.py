"""Rows of tokens as Parquet that a student trains on: fixed-size lists, padded, with labels; and the way back.

Invariant: a row's first tokens are its content, whatever is behind them is padding with mask 0 and label -100. A file
says itself how its labels stand and which vocabulary its tokens are of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import orjson

from hfassets.tokens.chunking import Rows
from hfassets.tokens.ragged import Ragged
from hfassets.tokens.rules import ChunkRule
from hfassets.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    import pyarrow as pa

IGNORED = -100
"""The label of a token that is not predicted, as torch's cross_entropy leaves it out."""
METADATA = b"hfassets"
"""The key of a file's metadata under which its rule and its vocabulary stand, as JSON."""
_GROUP_BYTES = 16 << 20
_TOKEN_BYTES = 12
"""Of a row's three lists of int32."""
_SPLIT = {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in ("input_ids", "labels")}
# Ids have empty upper bytes: each byte by itself is half as large as a dictionary of ids, and written in half the time.
_STORED: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 1,
    "use_dictionary": [
        *(f"{name}.list.element" for name in ("attention_mask", "loss_mask")),
        *(f"spans.list.element.{name}" for name in ("id", "offset", "length")),
    ],
    "column_encoding": _SPLIT,
    "write_page_checksum": True,
}


@dataclass(frozen=True, slots=True)
class PackRule:
    """`size`: tokens of a row. `shifted`: label i is token i + 1, the last one -100; else label i is token i, for
    trainers that shift themselves. `bos`: the id in front of each document, None = none. `masked`: with a `loss_mask`.
    """

    size: int
    mode: Literal["concat", "best_fit"] = "concat"
    shifted: bool = True
    bos: int | None = None
    pad: int = 0
    masked: bool = False

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


class Padding:
    """Where the content of rows from `first` to before `stop` goes in an array of shape (rows, size).

    `lengths`: content tokens of each row, int64.
    """

    def __init__(self, rows: Rows, first: int, stop: int, size: int) -> None:
        begin, end = int(rows.firsts[first]), int(rows.firsts[stop])
        lengths = rows.lengths[begin:end]
        sources = rows.tokens.offsets[rows.documents[begin:end]] + rows.offsets[begin:end]
        row = np.repeat(np.arange(stop - first), np.diff(rows.firsts[first : stop + 1]))
        before = np.cumsum(lengths) - lengths
        self.lengths = np.bincount(row, weights=lengths, minlength=stop - first).astype(np.int64)
        self._shape = (stop - first, size)
        targets = row * size + before - (np.cumsum(self.lengths) - self.lengths)[row]
        # Token by token: where each piece begins, and how far into it.
        within = np.arange(int(lengths.sum())) - np.repeat(before, lengths)
        self._targets = np.repeat(targets, lengths) + within
        self._sources = np.repeat(sources, lengths) + within

    def fill(self, values: Any, rest: int) -> Any:
        """The values of the rows' tokens, int32, with `rest` behind them. `values`: one for each token of the rows."""
        found = np.full(self._shape[0] * self._shape[1], rest, dtype=np.int32)
        found[self._targets] = values[self._sources]
        return found.reshape(self._shape)


def labels_of(ids: Any, lengths: Any, *, shifted: bool, ignored: int = IGNORED) -> Any:
    """The labels of padded rows, int32 of their shape; or what else goes with the tokens that labels are."""
    size = ids.shape[1]
    labels = np.full_like(ids, ignored)
    if shifted:
        labels[:, :-1] = ids[:, 1:]
    else:
        labels[:] = ids
    last = lengths - 1 if shifted else lengths
    labels[np.arange(size)[None, :] >= last[:, None]] = ignored
    return labels


def schema(rule: PackRule, vocabulary: Vocabulary) -> pa.Schema:
    """`input_ids`, `attention_mask`, `labels` as lists of int32 of one size, `loss_mask` if there is one; `spans`:
    document, offset in it, length. What is needed to read the rows is in the metadata.
    """
    import pyarrow as pa

    fixed = pa.list_(pa.int32(), rule.size)
    span = pa.struct([("id", pa.string()), ("offset", pa.int64()), ("length", pa.int64())])
    told = {"rule": rule.to_dict(), "vocabulary": vocabulary.to_dict()}
    metadata = {METADATA: orjson.dumps(told, option=orjson.OPT_SORT_KEYS)}
    return pa.schema([*((name, fixed) for name in _lists(rule)), ("spans", pa.list_(span))], metadata)


def _lists(rule: PackRule) -> list[str]:
    return ["input_ids", "attention_mask", "labels", *(["loss_mask"] if rule.masked else [])]


def tables(
    rows: Rows, names: Sequence[bytes], rule: PackRule, vocabulary: Vocabulary, learnt: Any = None
) -> Iterator[pa.Table]:
    """The rows as tables of one row group each. `names`: the documents' ids in UTF-8; `learnt`: 1 for each token of
    `rows.tokens` that is to be learnt, else 0; for rules with a mask.
    """
    import pyarrow as pa

    count = max(1, _GROUP_BYTES // (_TOKEN_BYTES * rule.size))
    for first in range(0, len(rows), count):
        stop = min(first + count, len(rows))
        padding = Padding(rows, first, stop, rule.size)
        lengths = padding.lengths
        ids = padding.fill(rows.tokens.values, rule.pad)
        mask = (np.arange(rule.size)[None, :] < lengths[:, None]).astype(np.int32)
        columns = [ids, mask, labels_of(ids, lengths, shifted=rule.shifted)]
        if rule.masked:
            columns.append(labels_of(padding.fill(learnt, 0), lengths, shifted=rule.shifted, ignored=0))
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
            schema=schema(rule, vocabulary),
        )


def rows_per_file(rule: PackRule, limit: int) -> int:
    """How many rows a file of at most `limit` bytes surely has room for."""
    return max(1, limit // (4 * len(_lists(rule)) * rule.size))


def write_files(
    rows: Rows,
    names: Sequence[bytes],
    rule: PackRule,
    vocabulary: Vocabulary,
    folder: Path,
    limit: int,
    learnt: Any = None,
) -> int:
    """Write rows as `00000.parquet` and so on, of at most `limit` bytes each; the number of files. See `tables`."""
    import pyarrow.parquet as pq

    most, written, number = rows_per_file(rule, limit), 0, -1
    writer: Any = None
    try:
        for table in tables(rows, names, rule, vocabulary, learnt):
            place = 0
            while place < len(table):
                if writer is None:
                    number += 1
                    path = folder / f"{number:05}.parquet"
                    writer = pq.ParquetWriter(path, table.schema, **_STORED)
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
