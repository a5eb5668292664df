"""Documents of tokens become rows: cut each by itself, joined and cut, or packed. Pure, on arrays of tokens alone.

Invariant: the contents of a document's pieces in order, less what is recorded as duplicated and plus what is recorded
as skipped, are its tokens (and one end token where that was added), always; nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hfassets.errors import UsageError
from hfassets.tokens.account import TokenAccount
from hfassets.tokens.packing import best_fit
from hfassets.tokens.ragged import Ragged, concatenated
from hfassets.tokens.rules import ChunkRule

_FEW_IDS = 8
"""So many ids are looked for one by one; more of them by a table."""


@dataclass(frozen=True)
class Specials:
    """Token ids that a tokenizer puts around a sequence, its end token, and all ids that are special to it."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    eos: int | None = None
    ids: frozenset[int] = frozenset()

    @property
    def count(self) -> int:
        """How many stand around one sequence."""
        return len(self.before) + len(self.after)


@dataclass(frozen=True)
class Rows:
    """Rows made of pieces of documents; every array is int64.

    Of shape (pieces,): `documents`, the document of each piece; `offsets`, where in it the piece begins; `lengths`, its
    tokens, an added end token included. `firsts` of shape (rows + 1,): the pieces of row r are firsts[r]:firsts[r + 1].
    `tokens`: the documents with added end tokens.
    """

    tokens: Ragged
    documents: Any
    offsets: Any
    lengths: Any
    firsts: Any
    account: TokenAccount

    def __len__(self) -> int:
        return len(self.firsts) - 1

    @cached_property
    def sizes(self) -> Any:
        """Content tokens of each row."""
        ends = np.concatenate([[0], np.cumsum(self.lengths)])
        return ends[self.firsts[1:]] - ends[self.firsts[:-1]]

    def content(self, row: int) -> Any:
        """The content tokens of a row."""
        begins = self.tokens.offsets[self.documents] + self.offsets
        pieces = [
            self.tokens.values[begins[piece] : begins[piece] + self.lengths[piece]]
            for piece in range(self.firsts[row], self.firsts[row + 1])
        ]
        return np.concatenate(pieces)


def check_rule(rule: ChunkRule, specials: Specials) -> int:
    """The content tokens of a row; raises UsageError for a rule that cannot be followed with these special tokens."""
    if rule.needs_eos and specials.eos is None:
        raise UsageError(f"{rule.name} puts an end token behind documents, and the tokenizer has none")
    return rule.capacity(specials.count)


def chunked(documents: Ragged | Sequence[Ragged], rule: ChunkRule, specials: Specials) -> Rows:
    """The rows of a part's documents, given as one or as several, one after the other.

    Raises UsageError when an end token is needed and there is none.
    """
    capacity, needs_eos = check_rule(rule, specials), rule.needs_eos
    blocks = [documents] if isinstance(documents, Ragged) else list(documents)
    tokens = concatenated(blocks, specials.eos if needs_eos else None)
    given = sum(len(block.values) for block in blocks)
    base = {
        "documents_in": len(tokens),
        "documents_empty": int((tokens.lengths == 0).sum()),
        "tokens_in": given,
        "eos_added": len(tokens.values) - given,
        "special_ids_in_text": sum(_count_of(block.values, specials.ids) for block in blocks),
    }
    make = {"per_document": _per_document, "concat": _concat, "best_fit": _best_fit}[rule.mode]
    rows, counts = make(tokens, rule, capacity)
    number = len(rows[3]) - 1
    written = int(rows[2].sum())
    kept = len(np.unique(rows[0]))
    account = TokenAccount(
        **base,
        **counts,
        content_written=written,
        documents_written=kept,
        documents_skipped=base["documents_in"] - base["documents_empty"] - kept,
        rows=number,
        specials_added=number * specials.count,
    )
    return Rows(tokens, *rows, account.close())


_Made = tuple[tuple[Any, Any, Any, Any], dict[str, int]]
"""documents, offsets, lengths and firsts of Rows, and counts."""


def _count_of(values: Any, ids: frozenset[int]) -> int:
    if not len(values):
        return 0
    there = [one for one in ids if one <= np.iinfo(values.dtype).max]
    if len(there) <= _FEW_IDS:
        return sum(int(np.count_nonzero(values == values.dtype.type(one))) for one in there)
    special = np.zeros(int(values.max()) + 1, dtype=bool)
    special[[one for one in there if one < len(special)]] = True
    return int(np.count_nonzero(special[values]))


def _per_document(tokens: Ragged, rule: ChunkRule, capacity: int) -> _Made:
    lengths = tokens.lengths
    pieces = -(-lengths // capacity)
    last = lengths - (pieces - 1) * capacity
    several = pieces > 1
    dropped = several & (last < rule.skip)
    if rule.enforce_zeroth:
        dropped |= (pieces == 1) & (last < rule.skip)
    short = several & ~dropped & (last < rule.minimum)
    if not rule.backfill:
        dropped |= short
        short = np.zeros_like(short)
    counts = {"skipped": int(last[dropped].sum())}
    kept = np.where(lengths > 0, pieces - dropped, 0)
    firsts = np.concatenate([[0], np.cumsum(kept)])
    documents = np.repeat(np.arange(len(lengths)), kept)
    starts = (np.arange(firsts[-1]) - firsts[:-1][documents]) * capacity
    ends = np.minimum(starts + capacity, lengths[documents])
    tails = (firsts[1:] - 1)[short]
    if rule.duplicates:
        again = capacity - last[short]
        starts[tails] -= again
        counts["duplicated"] = int(again.sum())
    else:
        wanted = rule.minimum - last[short]
        possible = capacity - wanted >= rule.minimum
        moved = np.where(possible, wanted, (capacity - last[short]) // 2)
        starts[tails] -= moved
        ends[tails - 1] -= moved
        counts |= {"moved": int(moved.sum()), "below_min": int((~possible).sum())}
    return (documents, starts, ends - starts, np.arange(firsts[-1] + 1)), counts


def _concat(tokens: Ragged, rule: ChunkRule, capacity: int) -> _Made:
    total = len(tokens.values)
    cuts = np.arange(0, total, capacity)
    borders = np.unique(np.concatenate([cuts, tokens.offsets]))
    begins = borders[:-1]
    documents = np.searchsorted(tokens.offsets, begins, side="right") - 1
    firsts = np.searchsorted(begins, cuts)
    made = (
        documents,
        begins - tokens.offsets[documents],
        np.diff(borders),
        np.append(firsts, len(begins)).astype(np.int64),
    )
    return made, {"part_tail": int(total % capacity > 0)}


def _best_fit(tokens: Ragged, rule: ChunkRule, capacity: int) -> _Made:
    lengths = tokens.lengths
    pieces = -(-lengths // capacity)
    documents = np.repeat(np.arange(len(lengths)), pieces)
    before = np.cumsum(pieces) - pieces
    offsets = (np.arange(len(documents)) - before[documents]) * capacity
    sizes = np.minimum(lengths[documents] - offsets, capacity)
    rows, placed = best_fit(sizes, capacity)
    # Within a row, pieces stand in the order in which they were placed.
    order = placed[np.argsort(rows[placed], kind="stable")]
    count = int(rows.max()) + 1 if len(rows) else 0
    firsts = np.searchsorted(rows[order], np.arange(count + 1))
    return (documents[order], offsets[order], sizes[order], firsts), {}
