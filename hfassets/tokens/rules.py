"""How documents become rows of at most so many tokens. Pure.

Invariant: a rule that is accepted can be followed for every document.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hfassets.errors import UsageError

Mode = Literal["per_document", "concat", "best_fit"]
LONGEST_ROW = 1 << 17
"""Tokens of a packed row, at most: twice what models read, and small enough for a table of rows by the room left."""


@dataclass(frozen=True, slots=True)
class ChunkRule:
    """`size`: tokens of a row, special ones included. `minimum`, `skip`: content tokens of a document's last piece.

    per_document: a last piece below `skip` is dropped; one below `minimum` is filled up from the piece before it, if
    `backfill`, by tokens that move over or, with `duplicates`, are there twice; else it is dropped. A first piece is
    kept, unless `enforce_zeroth` and it is below `skip`. concat: all documents one after the other, cut every row.
    best_fit: documents cut every row, the pieces packed. `add_eos`: an end token behind each document that has none.
    """

    size: int
    mode: Mode = "per_document"
    minimum: int = 0
    skip: int = 0
    backfill: bool = False
    duplicates: bool = True
    add_eos: bool = False
    enforce_zeroth: bool = False

    def capacity(self, specials: int) -> int:
        """Content tokens of a row, with so many special ones around it; raises UsageError for sizes that cannot be."""
        capacity = self.size - specials
        if capacity < 1:
            raise UsageError(
                f"chunk size {self.size}: the tokenizer puts {specials} special tokens around a sequence, so it has to "
                f"be at least {specials + 1}"
            )
        if self.mode == "per_document" and not 0 <= self.skip <= self.minimum <= capacity:
            raise UsageError(
                f"chunk size {self.size}, minimum {self.minimum}, always-skip {self.skip}: they count content tokens, "
                f"and have to be 0 ≤ always-skip ≤ minimum ≤ {capacity} (the chunk size less {specials} special tokens)"
            )
        return capacity

    @property
    def needs_eos(self) -> bool:
        """Whether an end token is put behind documents."""
        return self.add_eos or self.mode == "concat"

    @property
    def name(self) -> str:
        """As folders are named: `1024-800-500-backfill-nodups`, `1024-concat`, `1024-best_fit`."""
        if self.mode != "per_document":
            return f"{self.size}-{self.mode}"
        fill = "backfill" if self.backfill else "no-backfill"
        return f"{self.size}-{self.minimum}-{self.skip}-{fill}-{'dups' if self.duplicates else 'nodups'}"

    def identity(self) -> dict[str, Any]:
        """What of it decides about bytes, fit for JSON."""
        of_mode = {}
        if self.mode == "per_document":
            of_mode = {
                "minimum": self.minimum,
                "skip": self.skip,
                "backfill": self.backfill,
                "duplicates": self.duplicates if self.backfill else None,
                "enforce_zeroth": self.enforce_zeroth,
            }
        return {"size": self.size, "mode": self.mode, "add_eos": self.needs_eos, **of_mode}
