"""MDS datasets: written, read, tokenized, chunked, sampled and merged."""
