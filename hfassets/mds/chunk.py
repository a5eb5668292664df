"""Tokenized MDS to chunked MDS: rows of at most so many tokens, special ones around each, every token accounted for.

Invariant: works on arrays of tokens alone; the rows of a side of a part are a function of that side's documents and the
rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from hfassets.errors import DataError
from hfassets.mds.columns import column, encoded_ints
from hfassets.mds.convert import ShardShape
from hfassets.mds.index import write_merged
from hfassets.mds.reader import MdsReader
from hfassets.mds.stage import SIDES, STATS, Finished, Stage, write_stats
from hfassets.mds.tokenize import tokens_column
from hfassets.mds.upstream import Upstream, side_folders
from hfassets.mds.writer import Encoded, SideBySide
from hfassets.parts import PartOutput, PartsResult, Plan
from hfassets.tokens.account import TokenAccount, total
from hfassets.tokens.chunking import Rows, Specials, check_rule, chunked
from hfassets.tokens.rules import ChunkRule

STAGE = "chunked_mds"
FORMAT = 1
PERCENTILES = (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 100)
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class Chunking:
    """What is chunked. `specials`: of the tokenizer that made the tokens. Shards are not compressed unless asked: the
    reader of a trainer takes them as they are.
    """

    root: Path
    tokens: Upstream
    rule: ChunkRule
    specials: Specials
    shape: ShardShape = field(default_factory=lambda: ShardShape(compression=None))
    tokens_column: str = "input_ids"
    id_column: str = "id"

    def stage(self) -> Stage:
        """The folder as a stage; raises UsageError for a rule that cannot be followed with these special tokens."""
        check_rule(self.rule, self.specials)
        self.tokens.expect({self.tokens_column: "ndarray", self.id_column: "str"})
        parameters = {
            "rule": self.rule.identity(),
            "specials": [
                list(self.specials.before),
                list(self.specials.after),
                self.specials.eos,
                sorted(self.specials.ids),
            ],
            "columns": [self.tokens_column, self.id_column],
            "shape": self.shape.to_dict(),
        }
        context = {**parameters, "rule": asdict(self.rule), "tokens": str(self.tokens.root.absolute())}
        plan = Plan(STAGE, FORMAT, {"tokens": self.tokens.fingerprint}, parameters, self.tokens.parts(), context)
        return Stage(self.root, plan, chunk_part, finish_chunks, {"tokens": str(self.tokens.root.absolute())})


def chunk_part(part: dict[str, Any], folder: Path) -> PartOutput:
    """Worker: one part of a tokenized MDS, each side by itself."""
    context = part["context"]
    before, after, eos, ids = context["specials"]
    specials = Specials(tuple(before), tuple(after), eos, frozenset(ids))
    rule, shape = ChunkRule(**context["rule"]), ShardShape.from_dict(context["shape"])
    details: dict[str, Any] = {}
    for side, source in side_folders(Path(context["tokens"]) / part["source"]):
        blocks = list(MdsReader(source).blocks())
        documents = [block.arrays(context["columns"][0]) for block in blocks]
        names = [name for block in blocks for name in block.encoded(context["columns"][1])]
        del blocks
        rows = chunked(documents, rule, specials)
        if len(rows):
            write_rows(rows, names, rule, specials, folder / side, shape)
        details[side] = chunk_details(rows, specials)
    return PartOutput(total(_accounts(details)).to_dict(), details)


def chunk_details(rows: Rows, specials: Specials) -> dict[str, Any]:
    """What a part's manifest says of a side: its account, and how many rows have which length."""
    lengths = np.bincount(rows.sizes + specials.count) if len(rows) else np.zeros(0, dtype=np.int64)
    found = {str(length): int(lengths[length]) for length in np.flatnonzero(lengths)}
    return {"account": rows.account.to_dict(), "lengths": found}


def row_values(rows: Rows, first: int, stop: int, specials: Specials) -> SideBySide:
    """The values of a column of tokens for rows `first` to `stop`: content with the special tokens around it."""
    values = rows.tokens.values
    which, size = column(tokens_column(values.dtype.name)), values.dtype.itemsize
    limit = np.iinfo(values.dtype).max
    if any(one > limit for one in (*specials.before, *specials.after)):
        raise DataError(f"a special token's id does not fit {values.dtype.name}")
    before, after = (np.array(one, dtype=values.dtype).tobytes() for one in (specials.before, specials.after))
    begin, end = int(rows.firsts[first]), int(rows.firsts[stop])
    starts = (rows.tokens.offsets[rows.documents[begin:end]] + rows.offsets[begin:end]) * size
    stops = starts + rows.lengths[begin:end] * size
    data: Any = memoryview(values).cast("B")
    contents = [data[start:one] for start, one in zip(starts.tolist(), stops.tolist(), strict=True)]
    if end - begin != stop - first:
        borders = (rows.firsts[first : stop + 1] - begin).tolist()
        contents = [b"".join(contents[one:other]) for one, other in pairwise(borders)]
    sizes = rows.sizes[first:stop].tolist()
    name = values.dtype.name
    heads = {one: which.array_head((one + specials.count,), name) + before for one in set(sizes)}
    tail = ([after] * len(sizes),) if after else ()
    return SideBySide(([heads[one] for one in sizes], contents, *tail))


def row_columns(rule: ChunkRule, dtype: str) -> dict[str, str]:
    """The columns of rows: a document's id and the row's place in it; of several documents, their spans as JSON."""
    where = {"offset": "int"} if rule.mode == "per_document" else {"spans": "str"}
    return {"input_ids": tokens_column(dtype), "id": "str", **where}


def write_rows(
    rows: Rows, names: Sequence[bytes], rule: ChunkRule, specials: Specials, folder: Path, shape: ShardShape
) -> None:
    """Rows as an MDS of their own; `names`: the documents' ids in UTF-8."""
    columns = row_columns(rule, rows.tokens.values.dtype.name)
    with shape.writer(folder, columns) as writer:
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            stop = min(first + _ROWS_AT_ONCE, len(rows))
            begins = rows.firsts[first:stop]
            values: dict[str, Encoded] = {
                "input_ids": row_values(rows, first, stop, specials),
                "id": [names[document] for document in rows.documents[begins].tolist()],
            }
            if "offset" in columns:
                values["offset"] = encoded_ints(rows.offsets[begins])
            else:
                values["spans"] = _spans(rows, names, first, stop)
            writer.write_encoded(values)


def _spans(rows: Rows, names: Sequence[bytes], first: int, stop: int) -> list[bytes]:
    """Of each row [[document id, offset in the document, length], …], an added end token included, as JSON."""
    begin, end = int(rows.firsts[first]), int(rows.firsts[stop])
    spans = [
        [names[document].decode(errors="replace"), offset, length]
        for document, offset, length in zip(
            rows.documents[begin:end].tolist(),
            rows.offsets[begin:end].tolist(),
            rows.lengths[begin:end].tolist(),
            strict=True,
        )
    ]
    borders = (rows.firsts[first : stop + 1] - begin).tolist()
    return [orjson.dumps(spans[borders[place] : borders[place + 1]]) for place in range(stop - first)]


def _accounts(details: Mapping[str, Any]) -> list[TokenAccount]:
    return [TokenAccount.from_dict(details[side]["account"]) for side in SIDES if side in details]


def finish_chunks(
    root: Path,
    result: PartsResult,
    more: Mapping[str, Any] | None = None,
    recorded: Mapping[str, Any] | None = None,
) -> Finished:
    """Index and stats over all parts; `more` goes into the stats, `recorded` only into the manifest.

    Raises DataError when there is no row at all.
    """
    sides: dict[str, TokenAccount] = {}
    lengths: dict[str, Counter[int]] = {}
    for side in SIDES:
        found = [manifest.details[side] for manifest in result.manifests if side in manifest.details]
        if found:
            sides[side] = total(TokenAccount.from_dict(one["account"]) for one in found).close()
            lengths[side] = Counter()
            for one in found:
                lengths[side].update({int(length): count for length, count in one["lengths"].items()})
    account = total(sides.values()).close()
    if not account.rows:
        raise DataError(f"{root}: no row came out of {account.documents_in:,} documents; nothing to write")
    write_merged(root)
    stats = chunk_stats(account, sum(lengths.values(), Counter()))
    stats["sides"] = {side: chunk_stats(one, lengths[side]) for side, one in sides.items()}
    stats |= more or {}
    write_stats(root, stats)
    return Finished(account.to_dict(), {**stats, **(recorded or {})}, (STATS,))


def chunk_stats(account: TokenAccount, lengths: Mapping[int, int]) -> dict[str, Any]:
    """The fields that older tools read, then the whole account and the rows by length."""
    return {
        "total_duplicated_tokens": account.duplicated,
        "total_tokens_written": account.content_written + account.specials_added,
        "total_tokens_skipped": account.skipped,
        "percentiles": percentiles(lengths),
        "account": account.to_dict(),
        "lengths": {str(length): count for length, count in sorted(lengths.items())},
    }


def percentiles(lengths: Mapping[int, int]) -> dict[str, float]:
    """Percentiles of row lengths by linear interpolation, from how often each length is there."""
    ordered = sorted(lengths)
    ends = np.cumsum([lengths[length] for length in ordered])
    count = int(ends[-1]) if ordered else 0
    found = {}
    for percent in PERCENTILES if count else ():
        place = (count - 1) * percent / 100
        low, high = (ordered[int(np.searchsorted(ends, one, side="right"))] for one in (int(place), -int(-place // 1)))
        found[f"{percent}th"] = low + (high - low) * (place - int(place))
    return found
