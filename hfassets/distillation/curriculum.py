"""Prompt lengths in tokens, as far as anybody has to know them.

Invariant: `short` is what counting all tokens of each prompt would say; no special tokens are counted.
"""

from __future__ import annotations

from collections.abc import Sequence

from hfassets.distillation.request import Curriculum
from hfassets.errors import DataError


class PromptGauge:
    """Tells prompts of fewer than `limit` tokens from longer ones."""

    def __init__(self, curriculum: Curriculum, limit: int) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(curriculum.tokenizer))
        except Exception as error:
            # The library raises plain Exception for whatever is wrong with the file.
            raise DataError(f"{curriculum.identity}: not a tokenizer.json that can be read: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._limit = limit
        self._bytes_tell = self._tokenizer.normalizer is None

    def short(self, prompts: Sequence[str]) -> list[bool]:
        """Which prompts are short."""
        # A token is a byte at least, unless a normaliser makes more of the text first.
        found = [self._bytes_tell and len(prompt.encode()) < self._limit for prompt in prompts]
        unsure = [place for place, sure in enumerate(found) if not sure]
        encoded = self._tokenizer.encode_batch_fast([prompts[place] for place in unsure], add_special_tokens=False)
        for place, one in zip(unsure, encoded, strict=True):
            found[place] = len(one) < self._limit
        return found
