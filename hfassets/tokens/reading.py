"""Packed rows as a training loop reads them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hfassets.errors import DataError

if TYPE_CHECKING:
    import datasets

SHARDS = "shard_*.parquet"


def read_packed(folder: str | Path) -> datasets.Dataset:
    """The rows of a packed folder, mapped from Arrow: memory is bounded by a row group.

    Numpy arrays: `input_ids`, `attention_mask`, `labels` and, if it was asked for, `loss_mask`, int32 of shape
    (tokens,); `spans`. Raises DataError when there is no shard in it.
    """
    return _read(folder)


def read_logits(folder: str | Path) -> datasets.Dataset:
    """What a teacher expects, row by row in the order of the packed ones, mapped from Arrow.

    Numpy arrays: `positions`, int32 of shape (n,); `top_ids`, int32, and `top_logprobs` of shape (n, k), the likeliest
    first; `rest_mass`, float32 of shape (n,); and `row`, the number of the row. Raises DataError when there is no shard
    in it.
    """
    return _read(folder)


def _read(folder: str | Path) -> datasets.Dataset:
    import datasets

    paths = sorted(str(path) for path in Path(folder).glob(SHARDS))
    if not paths:
        raise DataError(f"{folder}: no {SHARDS} in it")
    found: datasets.Dataset = datasets.load_dataset("parquet", data_files=paths, split="train")
    return found.with_format("numpy")
