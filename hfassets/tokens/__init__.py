"""Text to tokens, tokens to rows, and rows as a training loop reads them."""

from hfassets.tokens.reading import read_logits, read_packed

__all__ = ["read_logits", "read_packed"]
