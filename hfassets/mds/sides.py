"""Training or validation: decided by a document's text alone, so that the sides share no text whatever the recipe.

Invariant: equal texts are on the same side in every recipe of a catalog. Source of the rule: validation iff the first
8 bytes (big-endian) of SHA-256(seed in decimal, a zero byte, the text in UTF-8) are below fraction times 2^64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hfassets.errors import UsageError

TRAIN, VALIDATION, HELD_OUT = 0, 1, 2


@dataclass(frozen=True, slots=True)
class ValidationRule:
    """`fraction`: of the catalog; `share`: of this recipe, at most as much; what lies between is on neither side."""

    seed: int = 0
    fraction: float = 0.0
    share: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1:
            raise UsageError(f"a validation fraction of {self.fraction}: it has to be from 0 to below 1")
        if self.share is not None and not 0 <= self.share <= self.fraction:
            raise UsageError(
                f"a recipe's validation share of {self.share}: it can be less than the catalog's fraction "
                f"{self.fraction}, never more"
            )

    def sides(self, texts: Sequence[bytes]) -> list[int]:
        """TRAIN, VALIDATION or HELD_OUT for each text."""
        if not self.fraction:
            return [TRAIN] * len(texts)
        whole = int(self.fraction * (1 << 64))
        ours = whole if self.share is None else int(self.share * (1 << 64))
        head = b"%d\0" % self.seed
        sha256, number = hashlib.sha256, int.from_bytes
        found = [number(sha256(head + text).digest()[:8], "big") for text in texts]
        return [TRAIN if one >= whole else VALIDATION if one < ours else HELD_OUT for one in found]

    def identity(self) -> dict[str, Any]:
        """What of it decides about bytes."""
        share = self.fraction if self.share is None else self.share
        return {"seed": self.seed, "fraction": self.fraction, "share": share} if self.fraction else {"fraction": 0.0}
