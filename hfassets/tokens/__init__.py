"""Tokenizers, and arrays of tokens cut and packed."""
