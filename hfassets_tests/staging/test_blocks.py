"""Blocks of a split: what `group_texts` of the older pipeline gives, and what carrying remainders over gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfassets.errors import DataError
from hfassets.staging.blocks import BATCH_ROWS, Blocks, carried, dropped
from hfassets.staging.splits import plan_splits

pytestmark = pytest.mark.unit


def grouped(lengths: list[int], size: int) -> list[list[int]]:
    """The older pipeline, in its own words: batches of documents, joined, cut, the rest dropped."""
    numbers, rows, start = [], [], 0
    for length in lengths:
        numbers.append(list(range(start, start + length)))
        start += length
    for begin in range(0, len(numbers), BATCH_ROWS):
        joined = [number for document in numbers[begin : begin + BATCH_ROWS] for number in document]
        total = len(joined)
        if total >= size:
            total = total // size * size
        rows += [joined[place : place + size] for place in range(0, total, size)]
    return rows


def rows_of(blocks: Blocks) -> list[list[int]]:
    """The numbers of the tokens of each row."""
    found = []
    for run in blocks.runs:
        numbers = list(range(run.start, run.start + run.tokens))
        found += [numbers[place : place + blocks.size] for place in range(0, len(numbers), blocks.size)]
    return found


documents = st.lists(st.integers(0, 9), max_size=3 * BATCH_ROWS)


@given(documents, st.integers(1, 40), st.integers(1, 700))
def test_the_older_rule_gives_the_older_rows(lengths: list[int], size: int, cut: int) -> None:
    """However the documents lie in files; what is dropped is counted."""
    parts: list[Any] = [np.array(lengths[place : place + cut]) for place in range(0, len(lengths), cut)]
    found = dropped(parts, size)
    assert rows_of(found) == grouped(lengths, size)
    assert found.tokens + found.dropped == sum(lengths)
    assert found.rows == len(rows_of(found))


@given(st.integers(0, 5000), st.integers(1, 600))
def test_carried_over_only_the_tail_of_a_split_is_dropped(total: int, size: int) -> None:
    """Less than one block; a split that does not fill one is one short row."""
    found = carried(total, size)
    assert [number for row in rows_of(found) for number in row] == list(range(found.tokens))
    assert found.tokens + found.dropped == total
    assert found.dropped < size
    assert (total == 0) is (found.rows == 0)


@given(documents, st.integers(1, 40), st.integers(1, 50))
def test_shards_are_the_same_rows_in_order(lengths: list[int], size: int, each: int) -> None:
    """So many in each but the last."""
    found = dropped([np.array(lengths)], size)
    shards = [Blocks(size, runs, 0) for runs in found.shards(each)]
    assert [row for shard in shards for row in rows_of(shard)] == rows_of(found)
    assert all(shard.rows == each for shard in shards[:-1])
    assert all(0 < shard.rows <= each for shard in shards)


def test_missing_splits_are_drawn_by_content_and_seed() -> None:
    """Equal texts on one side, about the share that was asked for; splits that are there are not drawn."""
    plan = plan_splits(["train", "test"], {}, {"validation": 0.1, "test": 0.2}, 7, "x")
    assert plan.names == ("train", "validation", "test")
    assert plan.outputs("train") == ("train", "validation")
    both = plan_splits(["train"], {}, {"validation": 0.1, "test": 0.2}, 7, "x")
    texts = [b"%d" % number for number in range(20_000)]
    sides = both.sides([*texts, *texts])
    assert np.array_equal(sides[:20_000], sides[20_000:])
    assert np.allclose(np.bincount(sides[:20_000]) / 20_000, [0.7, 0.1, 0.2], atol=0.01)
    # What one share draws does not depend on the other.
    assert np.array_equal(plan.sides(texts) == 1, both.sides(texts) == 1)
    other = plan_splits(["train"], {}, {"validation": 0.1}, 8, "x")
    assert not np.array_equal(other.sides(texts), plan.sides(texts))


def test_a_split_that_is_not_there_is_told() -> None:
    """By its name, with those that there are."""
    with pytest.raises(DataError, match="no split 'tran'; it has training, test"):
        plan_splits(["training", "test"], {"train": "tran"}, {}, 0, "rows")
    with pytest.raises(DataError, match="no split train; it has training, test: name one of them in splits"):
        plan_splits(["training", "test"], {}, {}, 0, "rows")
    assert plan_splits(["training"], {"train": "training"}, {}, 0, "rows").sources == {"train": "training"}
