"""Rows where they lie: files of the Hub at a pinned commit, streamed or from the cache, decoded and parsed."""
