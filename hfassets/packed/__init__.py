"""Text to packed Parquet, and what a teacher says of it."""
