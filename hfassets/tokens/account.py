"""Where every token and every document went.

Invariant, held by `close`: tokens_in + eos_added + duplicated + padding = content_written + skipped + held_out, and
documents_in = documents_written + documents_empty + documents_skipped + documents_held_out. Tokens are counted where
they are put in, never by their id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields

from hfassets.errors import IntegrityError


@dataclass(frozen=True, slots=True)
class TokenAccount:
    """Counts of tokens, documents and rows.

    `special_ids_in_text`: tokens of documents that look like special ones. `below_min`: pairs of rows that could not
    both have the minimum. `part_tail`: rows that are short because a part ended. `moved`: tokens that went from one row
    to the next one of the same document.
    """

    documents_in: int = 0
    documents_written: int = 0
    documents_empty: int = 0
    documents_skipped: int = 0
    documents_held_out: int = 0
    tokens_in: int = 0
    eos_added: int = 0
    duplicated: int = 0
    padding: int = 0
    content_written: int = 0
    skipped: int = 0
    held_out: int = 0
    specials_added: int = 0
    special_ids_in_text: int = 0
    rows: int = 0
    moved: int = 0
    below_min: int = 0
    part_tail: int = 0

    def close(self) -> TokenAccount:
        """Itself; raises IntegrityError when a token or a document is in no count or in two."""
        put_in = self.tokens_in + self.eos_added + self.duplicated + self.padding
        came_out = self.content_written + self.skipped + self.held_out
        gone = self.documents_written + self.documents_empty + self.documents_skipped + self.documents_held_out
        if put_in != came_out or self.documents_in != gone:
            raise IntegrityError(f"the account does not close: {self.to_dict()}; this is a defect of hfassets")
        return self

    def to_dict(self) -> dict[str, int]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, counts: Mapping[str, int]) -> TokenAccount:
        """What `to_dict` gave; other counts are left out."""
        known = {one.name for one in fields(cls)}
        return cls(**{name: count for name, count in counts.items() if name in known})


def total(accounts: Iterable[TokenAccount]) -> TokenAccount:
    """The sum."""
    sums = dict.fromkeys((one.name for one in fields(TokenAccount)), 0)
    for account in accounts:
        for name, count in account.to_dict().items():
            sums[name] += count
    return TokenAccount(**sums)
