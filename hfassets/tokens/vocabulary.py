"""Which tokens a tokenizer has, and under which ids: what two models must share for one to learn from the other."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`size`: the largest id + 1; `tokens`: how many there are; `sha256`: of all tokens with their ids."""

    size: int
    tokens: int
    sha256: str

    @classmethod
    def of(cls, ids: Mapping[str, int]) -> Vocabulary:
        """From the id of each token, added ones included."""
        data = orjson.dumps(dict(ids), option=orjson.OPT_SORT_KEYS)
        return cls(max(ids.values(), default=-1) + 1, len(ids), hashlib.sha256(data).hexdigest())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)
