"""Lines of a block that are taken at once are those that are taken one by one."""

from __future__ import annotations

import pickle

import numpy as np
import orjson
from hypothesis import given
from hypothesis import strategies as st

from hfassets.distillation.account import Account
from hfassets.distillation.candidates import Candidate, Outcome, Refused
from hfassets.distillation.digests import DigestSet, digest_of
from hfassets.distillation.looked import Lines, digests_of, numbered, pack

LINES = Lines("süß", "math")


def _candidate(text: str, number: int) -> Candidate:
    written = orjson.dumps(text)
    return Candidate(
        written, orjson.dumps({"n": number}), digest_of("xxh3_128")(written), len(text), "", number % 2 > 0
    )


texts = st.text(max_size=30).filter(lambda text: text.isprintable() or text.isascii())
outcomes = st.lists(
    st.one_of(
        st.builds(_candidate, texts, st.integers(0, 999)),
        st.builds(Refused, st.sampled_from(["empty", "malformed"]), texts),
        st.none(),
    ),
    max_size=12,
)


@given(outcomes, st.integers(0, 5), st.data(), st.sampled_from([0, 7, 99_999_995, 10**8 - 1, 10**8]))
def test_numbered_lines_are_the_records_in_their_order(
    found: list[Outcome], cut: int, data: st.DataObject, first: int
) -> None:
    """Also those whose number has more digits than most."""
    looked = pickle.loads(pickle.dumps(pack([found[:cut], found[cut:]], LINES)))
    candidates = [(place, one) for place, one in enumerate(found) if isinstance(one, Candidate)]
    kept = data.draw(st.lists(st.booleans(), min_size=len(candidates), max_size=len(candidates)))
    wanted = [one for (_, one), keep in zip(candidates, kept, strict=True) if keep]
    written = bytes(numbered(looked, np.array(kept, dtype=bool), first))
    assert [orjson.loads(line) for line in written.splitlines()] == [
        {
            "text": orjson.loads(one.text),
            "id": f"süß_{first + number:08d}",
            "source": "süß",
            "category": "math",
            "metadata": orjson.loads(one.metadata),
        }
        for number, one in enumerate(wanted)
    ]
    assert looked.places.tolist() == [place for place, _ in candidates]
    assert digests_of(looked) == [one.digest for _, one in candidates]
    assert list(looked.refused) == [(place, one) for place, one in enumerate(found) if isinstance(one, Refused)]


@given(st.lists(st.lists(st.integers(0, 1 << 20), max_size=9), max_size=4))
def test_rows_are_counted_at_once_as_one_by_one(blocks: list[list[int]]) -> None:
    """With the same bins of lengths."""
    one_by_one, at_once = Account(), Account()
    for lengths in blocks:
        for length in lengths:
            one_by_one.write(length, folded=length % 3 == 0)
        at_once.write_all(np.array(lengths, np.int64), np.array(lengths, np.int64) % 3 == 0)
    assert one_by_one == at_once


def test_bins_begin_where_they_begin_one_by_one() -> None:
    """At every power of two and just below it."""
    for length in [0, *(power - below for power in (1 << np.arange(40)).tolist() for below in (0, 1))]:
        one_by_one, at_once = Account(), Account()
        one_by_one.write(length, folded=False)
        at_once.write_all(np.array([length]), np.array([False]))
        assert one_by_one == at_once, length


@given(st.lists(st.lists(st.integers(0, 12), max_size=9), max_size=5), st.integers(1, 6), st.integers(1, 9))
def test_digests_are_added_at_once_as_one_by_one(blocks: list[list[int]], limit: int, most: int) -> None:
    """Whatever lies in files already."""
    with DigestSet(limit=limit) as one_by_one, DigestSet(limit=limit) as at_once:
        for block in blocks:
            digests = [number.to_bytes(16, "big") for number in block]
            one_by_one.look_up(digests)
            at_once.look_up(digests)
            expected: list[bool] = []
            for digest in digests:
                expected.append(one_by_one.add(digest))
                if sum(expected) == most:
                    break
            assert at_once.add_some(digests, most) == expected
            assert len(one_by_one) == len(at_once)
