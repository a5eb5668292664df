"""Rows of tokens: the rules read slowly, one document at a time, and accounts that close."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfassets.errors import UsageError
from hfassets.tokens import ragged
from hfassets.tokens.chunking import Rows, Specials, chunked
from hfassets.tokens.packing import best_fit
from hfassets.tokens.ragged import Ragged, concatenated
from hfassets.tokens.rules import ChunkRule

pytestmark = pytest.mark.unit
EOS = 1


def plainly(document: list[int], rule: ChunkRule, specials: int, counts: Counter[str]) -> list[list[int]]:
    """RULES.md on chunking per document, read aloud."""
    cap = rule.size - specials
    counts["documents_in"] += 1
    counts["tokens_in"] += len(document)
    if not document:
        counts["documents_empty"] += 1
        return []
    if rule.add_eos and document[-1] != EOS:
        document = [*document, EOS]
        counts["eos_added"] += 1
    pieces = [document[start : start + cap] for start in range(0, len(document), cap)]
    last, length, index = pieces[-1], len(pieces[-1]), len(pieces) - 1
    if index == 0:
        if rule.enforce_zeroth and length < rule.skip:
            counts["skipped"] += length
            pieces = []
    elif length < rule.skip or (length < rule.minimum and not rule.backfill):
        counts["skipped"] += length
        pieces = pieces[:-1]
    elif length < rule.minimum and rule.duplicates:
        again = cap - length
        pieces[-1] = pieces[-2][len(pieces[-2]) - again :] + last
        counts["duplicated"] += again
    elif length < rule.minimum:
        moved = rule.minimum - length
        if cap - moved < rule.minimum:
            moved = (cap - length) // 2
            counts["below_min"] += 1
        pieces[-1] = pieces[-2][cap - moved :] + last
        pieces[-2] = pieces[-2][: cap - moved]
        counts["moved"] += moved
    counts["documents_written" if pieces else "documents_skipped"] += 1
    counts["rows"] += len(pieces)
    counts["content_written"] += sum(map(len, pieces))
    counts["specials_added"] += len(pieces) * specials
    return pieces


def contents(rows: Rows) -> list[list[int]]:
    """The content of every row."""
    return [rows.content(row).tolist() for row in range(len(rows))]


def corpus(lengths: list[int], seed: int = 0) -> list[list[int]]:
    """Documents of these lengths; some end in the end token, some have it within."""
    choose = random.Random(seed)
    return [[choose.choice([EOS, *range(2, 60)]) for _ in range(length)] for length in lengths]


rules = st.builds(
    lambda capacity, minimum, skip, backfill, duplicates, eos, zeroth: ChunkRule(
        capacity + 2,
        minimum=min(minimum, capacity),
        skip=min(skip, minimum, capacity),
        backfill=backfill,
        duplicates=duplicates,
        add_eos=eos,
        enforce_zeroth=zeroth,
    ),
    st.integers(1, 20),
    st.integers(0, 20),
    st.integers(0, 20),
    *[st.booleans()] * 4,
)


def _check(documents: list[list[int]], rule: ChunkRule) -> None:
    specials = Specials((0,), (EOS,), EOS, frozenset({0, EOS}))
    rows = chunked(Ragged.of(documents), rule, specials)
    counts: Counter[str] = Counter()
    expected = [piece for document in documents for piece in plainly(document, rule, 2, counts)]
    assert contents(rows) == expected
    counts["special_ids_in_text"] = sum(one in (0, EOS) for document in documents for one in document)
    assert {name: count for name, count in rows.account.to_dict().items() if count} == {
        name: count for name, count in counts.items() if count
    }
    for row, document, offset, length in zip(
        range(len(rows)), rows.documents.tolist(), rows.offsets.tolist(), rows.lengths.tolist(), strict=True
    ):
        whole = [*documents[document], EOS]
        assert rows.content(row).tolist() == whole[offset : offset + length]
        assert 0 < length <= rule.size - 2


@settings(max_examples=300)
@given(st.lists(st.integers(0, 70), max_size=12), rules, st.integers(0, 99))
def test_documents_are_cut_as_the_rules_say(lengths: list[int], rule: ChunkRule, seed: int) -> None:
    """Any rule, any lengths: rows, places in the document and every count are those of the slow reading."""
    _check(corpus(lengths, seed), rule)


@pytest.mark.parametrize("backfill", [False, True])
@pytest.mark.parametrize("duplicates", [False, True])
def test_ten_thousand_documents_are_cut_as_the_rules_say(backfill: bool, duplicates: bool) -> None:
    """The old defaults at an eighth of their size, with and without backfill."""
    choose = random.Random(7)
    lengths = [int(choose.lognormvariate(4, 1.4)) for _ in range(10_000)]
    rule = ChunkRule(128, minimum=100, skip=62, backfill=backfill, duplicates=duplicates, add_eos=True)
    _check(corpus(lengths, 3), rule)


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 15), st.integers(0, 9))
def test_concat_loses_and_moves_nothing(lengths: list[int], capacity: int, seed: int) -> None:
    """All documents with an end token each, one after the other, cut every row; only the last row may be short."""
    documents = corpus(lengths, seed)
    rows = chunked(Ragged.of(documents), ChunkRule(capacity, "concat"), Specials(eos=EOS))
    whole = [one if not one or one[-1] == EOS else [*one, EOS] for one in documents]
    flat = [token for one in whole for token in one]
    assert contents(rows) == [flat[start : start + capacity] for start in range(0, len(flat), capacity)]
    assert rows.account.part_tail == (len(flat) % capacity > 0)
    _check_pieces(rows, whole)


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 15), st.integers(0, 9), st.booleans())
def test_best_fit_cuts_no_document_that_fits(lengths: list[int], capacity: int, seed: int, eos: bool) -> None:
    """Every token is in one row, a document that fits a row is whole in one, and no row has too many."""
    documents = corpus(lengths, seed)
    rule = ChunkRule(capacity, "best_fit", add_eos=eos)
    rows = chunked(Ragged.of(documents), rule, Specials(eos=EOS))
    whole = [one if not eos or not one or one[-1] == EOS else [*one, EOS] for one in documents]
    _check_pieces(rows, whole)
    pieces = Counter(rows.documents.tolist())
    assert all(pieces[number] == -(-len(one) // capacity) for number, one in enumerate(whole))
    assert all(0 < size <= capacity for size in rows.sizes.tolist())


def _check_pieces(rows: Rows, whole: list[list[int]]) -> None:
    """Sorted by document and place, the pieces are the documents."""
    found: dict[int, list[tuple[int, list[int]]]] = {}
    for row in range(len(rows)):
        content, place = rows.content(row).tolist(), 0
        for piece in range(rows.firsts[row], rows.firsts[row + 1]):
            length = int(rows.lengths[piece])
            at = (int(rows.offsets[piece]), content[place : place + length])
            found.setdefault(int(rows.documents[piece]), []).append(at)
            place += length
        assert place == len(content)
    for number, one in enumerate(whole):
        joined: list[int] = []
        for offset, tokens in sorted(found.get(number, [])):
            assert offset == len(joined)
            joined += tokens
        assert joined == one


@given(st.lists(st.integers(1, 30), max_size=60))
def test_best_fit_is_the_slow_one(lengths: list[int]) -> None:
    """Longest first, each into the fullest row that has room, among equal ones that which was filled last."""
    capacity = 30
    rows, _ = best_fit(np.array(lengths, dtype=np.int64), capacity)
    room: list[int] = []
    touched: list[int] = []
    expected = [0] * len(lengths)
    for step, piece in enumerate(sorted(range(len(lengths)), key=lambda one: (-lengths[one], one))):
        fitting = [row for row in range(len(room)) if room[row] >= lengths[piece]]
        if fitting:
            row = min(fitting, key=lambda one: (room[one], -touched[one]))
        else:
            row = len(room)
            room.append(capacity)
            touched.append(0)
        room[row] -= lengths[piece]
        touched[row] = step
        expected[piece] = row
    assert rows.tolist() == expected


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (ChunkRule(2), r"it has to be at least 3"),
        (ChunkRule(10, minimum=9), r"0 ≤ always-skip ≤ minimum ≤ 8"),
        (ChunkRule(10, minimum=3, skip=4), r"chunk size 10, minimum 3, always-skip 4"),
        (ChunkRule(10, "concat"), r"10-concat puts an end token behind documents, and the tokenizer has none"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_refused(rule: ChunkRule, message: str) -> None:
    """Sizes below the specials, out of order, or without the end token that they need."""
    with pytest.raises(UsageError, match=message):
        chunked(Ragged.of([[5, 6]]), rule, Specials((0,), (2,)))


def test_no_documents_give_no_rows() -> None:
    """In every mode, also when all are empty."""
    for mode in ("per_document", "concat", "best_fit"):
        for documents in ([], [[], []]):
            rows = chunked(Ragged.of(documents), ChunkRule(4, mode), Specials(eos=1))  # type: ignore[arg-type]
            assert len(rows) == 0 and rows.account.documents_empty == len(documents)


def test_folders_are_named_as_they_were() -> None:
    """Chunk size, minimum, always-skip, and how short pieces are filled."""
    assert (
        ChunkRule(1024, minimum=800, skip=500, backfill=True, duplicates=False).name == "1024-800-500-backfill-nodups"
    )
    assert ChunkRule(8192, minimum=512, skip=32).name == "8192-512-32-no-backfill-dups"


@given(st.lists(st.integers(0, 40), max_size=30), st.frozensets(st.integers(0, 70_000), max_size=20))
def test_special_ids_in_text_are_counted(tokens: list[int], ids: frozenset[int]) -> None:
    """However many special tokens there are, and whether their ids fit the dtype or not."""
    rows = chunked(Ragged.of([tokens], "uint16"), ChunkRule(4), Specials(ids=ids))
    assert rows.account.special_ids_in_text == sum(token in ids for token in tokens)


@given(st.lists(st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=4), max_size=4), st.booleans())
def test_parts_are_joined_with_an_end_each(parts: list[list[list[int]]], one_by_one: bool) -> None:
    """Whichever way is taken: behind each array that is not empty and does not end so already."""
    expected = [[*one, 7] if one and one[-1] != 7 else one for part in parts for one in part]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ragged, "_SHORT", 0 if one_by_one else 1 << 40)
        joined = concatenated([Ragged.of(part, "uint16") for part in parts], 7)
    assert [joined[place].tolist() for place in range(len(joined))] == expected


def test_parts_are_joined_in_order() -> None:
    """Arrays of arrays, one after the other."""
    parts: list[Any] = [Ragged.of([[1, 2], []]), Ragged.of([]), Ragged.of([[3]])]
    joined = concatenated(parts)
    assert [joined[place].tolist() for place in range(len(joined))] == [[1, 2], [], [3]]
