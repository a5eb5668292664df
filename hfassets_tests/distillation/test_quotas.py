"""Quotas: whole, exact, reproducible."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfassets.distillation.quotas import Share, apportion, quotas, redistribute

pytestmark = pytest.mark.unit

weights = st.lists(st.fractions(0, 5), min_size=1, max_size=8)
RATIOS = {"chat": Fraction("0.35"), "code": Fraction("0.30"), "math": Fraction("0.25"), "qa": Fraction("0.10")}


def shares(**of: str) -> list[Share]:
    """`a="chat 0.4"`, `b="chat 0.6 off"`."""
    parsed = ((name, *words.split()) for name, words in of.items())
    return [Share(name, category, Fraction(part), not off) for name, category, part, *off in parsed]


@given(st.integers(0, 10**12), weights)
def test_parts_add_up_and_are_within_one_of_the_exact_share(total: int, of: list[Fraction]) -> None:
    """The largest remainders first; nothing for nothing."""
    parts = apportion(total, of)
    if not any(of):
        assert parts == [0] * len(of)
        return
    assert sum(parts) == total
    exact = [total * weight / sum(of) for weight in of]
    assert all(abs(part - one) < 1 for part, one in zip(parts, exact, strict=True))
    rounded_up = {place for place, part in enumerate(parts) if part > exact[place]}
    rest = [exact[place] - int(exact[place]) for place in range(len(parts))]
    assert all(rest[up] >= rest[down] for up in rounded_up for down in range(len(parts)) if parts[down] < exact[down])


def test_ties_go_by_order() -> None:
    """Two equal remainders: the one that stands first."""
    assert apportion(3, [Fraction(1, 2), Fraction(1, 2)]) == [2, 1]


def test_the_documents_mix_is_exact() -> None:
    """100,000 samples as the old document shares them out."""
    found = quotas(
        100_000,
        RATIOS,
        shares(a="chat 0.40", b="chat 0.40", c="chat 0.20", d="code 1", e="math 1", f="qa 0.5", g="qa 0.5"),
    )
    assert found.rows == {"a": 14_000, "b": 14_000, "c": 7_000, "d": 30_000, "e": 25_000, "f": 5_000, "g": 5_000}
    assert found.notices == ()


def test_what_is_switched_off_goes_to_the_others_and_is_said() -> None:
    """Within a category by allocation, between categories in proportion."""
    found = quotas(1000, RATIOS, shares(a="chat 0.4 off", b="chat 0.4", c="chat 0.2", d="code 1"))
    assert found.rows == {"b": 359, "c": 179, "d": 462}
    assert any("without a the others" in line for line in found.notices)
    assert any("math, qa: no source is enabled" in line for line in found.notices)


def test_sums_that_are_off_are_shown_over_all_declared_sources() -> None:
    """Those switched off count as declared."""
    found = quotas(10, {"chat": Fraction("0.5")}, shares(a="chat 0.4", b="chat 0.5 off"))
    assert "category_ratios add up to 0.5, not 1; they are taken in proportion" in found.notices
    assert "chat: the allocations a 0.4 + b 0.5 add up to 0.9, not 1; taken in proportion" in found.notices
    assert found.rows == {"a": 10}


def test_a_deficit_goes_by_allocation_to_those_who_have_more() -> None:
    """Round by round, within the category only, until it is filled or nobody has more."""
    of = shares(a="chat 0.4", b="chat 0.4", c="chat 0.2", d="code 1")
    wanted = {"a": 40, "b": 40, "c": 20, "d": 100}
    first = redistribute(
        wanted, {"a": 10, "b": 40, "c": 20, "d": 100}, {"a": True, "b": False, "c": False, "d": False}, of
    )
    assert first == {"a": 10, "b": 60, "c": 30, "d": 100}
    second = redistribute(
        first, {"a": 10, "b": 45, "c": 30, "d": 100}, {"a": True, "b": True, "c": False, "d": False}, of
    )
    assert second == {"a": 10, "b": 45, "c": 45, "d": 100}
    over = {"a": True, "b": True, "c": True, "d": False}
    assert redistribute(second, {"a": 10, "b": 45, "c": 33, "d": 100}, over, of) == second


@given(
    st.lists(st.tuples(st.fractions(0, 1), st.integers(0, 60)), min_size=1, max_size=6), st.integers(0, 200)
)  # fmt: skip
def test_sharing_out_ends_with_all_that_can_be_had(sources: list[tuple[Fraction, int]], total: int) -> None:
    """Round after round as a mix does it: it ends, and nothing is left out that a source with a share could give."""
    of = [Share(f"s{place}", "chat", part) for place, (part, _) in enumerate(sources)]
    has = {f"s{place}": rows for place, (_, rows) in enumerate(sources)}
    wanted = dict(quotas(total, {"chat": Fraction(1)}, of).rows)
    over: set[str] = set()
    for _ in range(len(of) + 1):
        got = {name: min(has[name], count) for name, count in wanted.items()}
        over |= {name for name in wanted if got[name] < wanted[name]}
        new = redistribute(wanted, got, {name: name in over for name in wanted}, of)
        if not any(new[name] > wanted[name] for name in wanted):
            break
        wanted = new
    else:
        raise AssertionError("more rounds than sources")
    given_out = sum(min(has[name], count) for name, count in wanted.items())
    open_ones = sum(has[one.source] for one in of if one.allocation > 0)
    assert given_out == (min(total, open_ones) if any(one.allocation for one in of) else 0)
