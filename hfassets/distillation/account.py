"""What became of the rows that were read, and what the written ones look like.

Invariant: `read = written + passed_over + the sum of refused`; `close` refuses an account where that does not hold.
Everything is of constant size whatever the number of rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from hfassets.distillation.candidates import Refused
from hfassets.errors import IntegrityError

DUPLICATE = "duplicate"
DUPLICATE_IN_MIX = "duplicate_in_mix"
OTHER_BATCH = "other_batch"
LONG_PROMPT = "long_prompt"
MOST_EXAMPLES = 3
STEPS_PER_DOUBLING = 4
_MOST_DOUBLINGS = 40


@cache
def _edges() -> Any:
    """The fewest characters of each bin but the first, as `write` puts them."""
    return np.array(
        [math.ceil(2 ** (step / STEPS_PER_DOUBLING)) for step in range(1, _MOST_DOUBLINGS * STEPS_PER_DOUBLING)]
    )


@dataclass
class Account:
    """Counts of rows; `passed_over`: rows with too long a prompt for their phase, which may still be written.

    Lengths are characters of text. `examples`: the first refusals of each reason, as (row, why). `histogram`: bin
    (four a doubling) -> rows. `folded`: written rows in which runs of newlines were made shorter.
    """

    read: int = 0
    written: int = 0
    passed_over: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    total_chars: int = 0
    min_length: int | None = None
    max_length: int | None = None
    histogram: Counter[int] = field(default_factory=Counter)
    folded: int = 0

    def refuse(self, refused: Refused, where: str) -> None:
        """Count a row that is not used."""
        self.refused[refused.reason] += 1
        examples = self.examples.setdefault(refused.reason, [])
        if len(examples) < MOST_EXAMPLES:
            examples.append((where, refused.text[:200]))

    def write(self, characters: int, *, folded: bool) -> None:
        """Count a row that is written."""
        self.written += 1
        self.folded += folded
        self.total_chars += characters
        self.min_length = characters if self.min_length is None else min(self.min_length, characters)
        self.max_length = characters if self.max_length is None else max(self.max_length, characters)
        self.histogram[int(math.log2(characters) * STEPS_PER_DOUBLING) if characters else 0] += 1

    def write_all(self, characters: Any, folded: Any) -> None:
        """Count rows that are written, by arrays of what `write` wants."""
        if not len(characters):
            return
        self.written += len(characters)
        self.folded += int(folded.sum())
        self.total_chars += int(characters.sum())
        least, most = int(characters.min()), int(characters.max())
        self.min_length = least if self.min_length is None else min(self.min_length, least)
        self.max_length = most if self.max_length is None else max(self.max_length, most)
        bins, counts = np.unique(np.searchsorted(_edges(), characters, side="right"), return_counts=True)
        self.histogram.update(dict(zip(bins.tolist(), counts.tolist(), strict=True)))

    @property
    def counts(self) -> dict[str, int]:
        """As a manifest's account."""
        refused = {f"refused_{name}": count for name, count in sorted(self.refused.items())}
        return {"read": self.read, "written": self.written, "passed_over": self.passed_over, **refused}

    def close(self) -> Account:
        """Itself; raises IntegrityError when a row is in no count or in two."""
        if self.read != self.written + self.passed_over + sum(self.refused.values()):
            raise IntegrityError(f"the account does not close: {self.counts}; this is a defect of hfassets")
        return self

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "read": self.read,
            "written": self.written,
            "passed_over": self.passed_over,
            "refused": dict(sorted(self.refused.items())),
            "examples": {name: [list(one) for one in found] for name, found in sorted(self.examples.items())},
            "total_chars": self.total_chars,
            "min_length": self.min_length,
            "max_length": self.max_length,
            "folded": self.folded,
            "histogram": {str(place): count for place, count in sorted(self.histogram.items())},
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Account:
        """What `to_dict` gave."""
        return cls(
            **{
                **document,
                "refused": Counter(document["refused"]),
                "examples": {name: [(a, b) for a, b in found] for name, found in document["examples"].items()},
                "histogram": Counter({int(place): count for place, count in document["histogram"].items()}),
            }
        )
