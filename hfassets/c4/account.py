"""What became of the source lines that were read, and what the rows look like.

Invariant: `lines = rows + blank + malformed + not_drawn`; `close` refuses an account where that does not hold.
Everything is of constant size whatever the number of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import orjson

from hfassets.c4.rows import TEXT, Batch
from hfassets.errors import IntegrityError

STEPS_PER_DOUBLING = 4
BINS = 33 * STEPS_PER_DOUBLING
MOST_LISTED = 1000
FIRST_CHARACTERS = 200
FIRST_ROWS = 5


def bin_edge(place: int) -> float:
    """Lower edge of histogram bin `place`, in characters: four bins a doubling."""
    return float(2.0 ** (place / STEPS_PER_DOUBLING))


@dataclass(frozen=True, slots=True)
class Account:
    """Counts of lines, of characters of text, and a histogram of text lengths (bin -> rows; lengths of 0 apart).

    `not_drawn`: rows that a sample left out. `listed`: the first malformed lines as (source path, line from 0, reason,
    how it begins). `first`: the first rows.
    """

    lines: int = 0
    rows: int = 0
    blank: int = 0
    malformed: int = 0
    not_drawn: int = 0
    without_text: int = 0
    empty: int = 0
    characters: int = 0
    histogram: Mapping[int, int] = field(default_factory=dict)
    listed: Sequence[tuple[str, int, str, str]] = ()
    first: Sequence[str] = ()

    @property
    def mean_length(self) -> float:
        """Mean length of the texts in characters, 0 when there is none."""
        texts = self.rows - self.without_text
        return self.characters / texts if texts else 0.0

    @property
    def counts(self) -> dict[str, int]:
        """The counts alone, as a manifest's account."""
        return {
            "lines_read": self.lines,
            "rows": self.rows,
            "blank": self.blank,
            "malformed": self.malformed,
            "not_drawn": self.not_drawn,
        }

    @property
    def first_text(self) -> str:
        """The beginning of the first row's text, else of the row itself."""
        if not self.first:
            return ""
        row = orjson.loads(self.first[0])
        text = row.get(TEXT)
        return (text if isinstance(text, str) else self.first[0])[:FIRST_CHARACTERS]

    def add(self, batch: Batch, path: str) -> Account:
        """The account after the lines of a batch of the source at `path`."""
        lengths = np.fromiter(batch.lengths, np.int64, batch.rows)
        texts = lengths[lengths >= 0]
        places = np.floor(np.log2(texts[texts > 0]) * STEPS_PER_DOUBLING).astype(np.int64)
        counted = np.bincount(places)
        histogram = dict(self.histogram)
        for place in np.flatnonzero(counted):
            histogram[int(place)] = histogram.get(int(place), 0) + int(counted[place])
        room = MOST_LISTED - len(self.listed)
        listed = [(path, one.line, one.reason, one.begins) for one in batch.malformed[: max(0, room)]]
        wanted = FIRST_ROWS - len(self.first)
        first = [line.decode() for line in batch.data.split(b"\n", wanted)[:wanted] if line] if wanted > 0 else []
        return replace(
            self,
            lines=self.lines + batch.end - batch.first,
            rows=self.rows + batch.rows,
            blank=self.blank + batch.blank,
            malformed=self.malformed + len(batch.malformed),
            without_text=self.without_text + batch.rows - len(texts),
            empty=self.empty + int((texts == 0).sum()),
            characters=self.characters + int(texts.sum()),
            histogram=histogram,
            listed=(*self.listed, *listed) if listed else self.listed,
            first=(*self.first, *first) if first else self.first,
        )

    def merge(self, other: Account) -> Account:
        """The account of these lines and then the other's."""
        bins = {*self.histogram, *other.histogram}
        return Account(
            lines=self.lines + other.lines,
            rows=self.rows + other.rows,
            blank=self.blank + other.blank,
            malformed=self.malformed + other.malformed,
            not_drawn=self.not_drawn + other.not_drawn,
            without_text=self.without_text + other.without_text,
            empty=self.empty + other.empty,
            characters=self.characters + other.characters,
            histogram={one: self.histogram.get(one, 0) + other.histogram.get(one, 0) for one in sorted(bins)},
            listed=(*self.listed, *other.listed)[:MOST_LISTED],
            first=(*self.first, *other.first)[:FIRST_ROWS],
        )

    def close(self) -> Account:
        """Itself; raises IntegrityError when a line is in no count or in two."""
        if self.lines != self.rows + self.blank + self.malformed + self.not_drawn:
            raise IntegrityError(
                f"the account does not close: {self.lines:,} lines read, {self.rows:,} rows, {self.blank:,} blank, "
                f"{self.malformed:,} malformed, {self.not_drawn:,} not drawn; this is a defect of hfassets"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"histogram": {str(one): count for one, count in sorted(self.histogram.items())}}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Account:
        """What `to_dict` gave."""
        histogram = {int(one): count for one, count in document["histogram"].items()}
        listed = tuple((path, line, reason, begins) for path, line, reason, begins in document["listed"])
        return cls(**{**document, "histogram": histogram, "listed": listed, "first": tuple(document["first"])})
