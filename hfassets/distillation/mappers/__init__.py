"""The built-in mappers."""
