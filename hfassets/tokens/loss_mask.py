"""Which tokens of a document a student is to learn: all but those of a span of its text.

Invariant: no token that has a character of the span is learnt, and every other one is. Where tokens stand in a text is
what the reference tokenizer says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hfassets.distillation.mapping import Span
from hfassets.tokens.engine import Engine
from hfassets.tokens.ragged import Ragged, concatenated


def encode_masked(
    engine: Engine, texts: Sequence[bytes], spans: Sequence[Span | None], dtype: str
) -> tuple[Ragged, Ragged]:
    """The tokens of texts in UTF-8, and of the same shape 1 for each that is learnt, else 0, uint8."""
    marked = [(place, span) for place, span in enumerate(spans) if span is not None]
    if not marked:
        tokens = engine.encode(texts, dtype)
        return tokens, Ragged(np.ones(len(tokens.values), dtype=np.uint8), tokens.offsets)
    exact, offsets = engine.encode_with_offsets([texts[place] for place, _ in marked], dtype)
    plain = [place for place, span in enumerate(spans) if span is None]
    others = engine.encode([texts[place] for place in plain], dtype)
    of: dict[int, tuple[Any, Any]] = {}
    for number, (place, span) in enumerate(marked):
        of[place] = exact[number], learnt(offsets[number], span)
    for number, place in enumerate(plain):
        of[place] = others[number], np.ones(len(others[number]), dtype=np.uint8)
    found = [of[place] for place in range(len(texts))]
    return Ragged.of([one for one, _ in found], dtype), Ragged.of([one for _, one in found], "uint8")


def learnt(offsets: Any, span: Span) -> Any:
    """0 for each token with a character of the span, else 1, uint8. `offsets`: of shape (tokens, 2), in characters."""
    begins, ends = offsets[:, 0], offsets[:, 1]
    # A token of no character, as some normalisers leave it, belongs to where it stands.
    ends = np.maximum(ends, begins + 1)
    return ((begins >= span[1]) | (ends <= span[0])).astype(np.uint8)


def spread(parts: Sequence[Ragged], tokens: Ragged) -> Any:
    """The same for documents that have got end tokens since, which are learnt; uint8 of shape (tokens,)."""
    given = concatenated(parts)
    found = np.ones(len(tokens.values), dtype=np.uint8)
    moved = np.repeat(tokens.offsets[:-1] - given.offsets[:-1], given.lengths)
    found[np.arange(len(given.values)) + moved] = given.values
    return found
