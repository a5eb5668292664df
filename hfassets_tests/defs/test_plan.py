"""Decisions over ledger entries: never twice for the same reason, never over budget, at most three repairs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfassets.defs.integrity.plan import MAX_REPAIRS, DailyBudget, Incident, due_for_verification, plan_repairs
from hfassets.storage import LedgerEntry

pytestmark = pytest.mark.unit

KEYS = st.sampled_from([f"repo:{letter}" for letter in "abcdefgh"])
INTACT = st.builds(LedgerEntry, verified_at=st.floats(0, 1000), version=st.just("v"), size=st.integers(0, 10**12))
DAMAGED = st.builds(
    LedgerEntry,
    verified_at=st.floats(0, 1000),
    version=st.just("v"),
    size=st.integers(0, 10**12),
    damage=st.lists(st.sampled_from(["x 0", "y 1", "z 2"]), min_size=1, unique=True).map(lambda d: tuple(sorted(d))),
    damage_size=st.integers(0, 10**12),
    damaged_since=st.floats(1, 1000),
)
LEDGER = st.dictionaries(KEYS, st.none() | INTACT | DAMAGED)


@given(LEDGER, st.floats(0, 2000), st.integers(1, 10))
def test_due_are_the_oldest_intact_ones(ledger: dict[str, LedgerEntry | None], now: float, most: int) -> None:
    """Whoever is chosen is old and intact, and nobody older was passed over."""
    chosen = due_for_verification(ledger.items(), now=now, every=500.0, most=most)
    old = {
        key: entry.verified_at
        for key, entry in ledger.items()
        if entry is not None and not entry.damage and now - entry.verified_at >= 500.0
    }
    assert len(chosen) == min(most, len(old))
    assert set(chosen) <= set(old)
    assert all(old[key] >= max((old[one] for one in chosen), default=0) for key in old if key not in chosen)


@given(LEDGER, st.integers(1, 10**13))
def test_repairs_of_a_day_stay_within_the_budget(ledger: dict[str, LedgerEntry | None], limit: int) -> None:
    """The sizes requested fit, save that the first of a day always goes; intact partitions are never repaired."""
    plan = plan_repairs(ledger.items(), {}, frozenset(), DailyBudget(limit, "day"))
    sizes = [entry.damage_size for key, entry in ledger.items() if entry is not None and key in plan.requests]
    assert all(ledger[key] is not None and ledger[key].damage for key in plan.requests)  # type: ignore[union-attr]
    positive = [size for size in sizes if size]
    assert len(positive) <= 1 or sum(positive) <= limit
    assert plan.budget.spent == sum(sizes)


@given(DAMAGED, st.lists(st.booleans(), min_size=8, max_size=20))
def test_an_incident_is_repaired_three_times_at_most(entry: LedgerEntry, unfinished: list[bool]) -> None:
    """However ticks and runs interleave, attempts count 1, 2, 3, the stop is said once, and then nothing."""
    known: dict[str, Incident] = {}
    attempts, said = [], 0
    for running in [*unfinished, *[False] * 5]:
        busy = frozenset({"k"}) if running and attempts else frozenset()
        plan = plan_repairs([("k", entry)], known, busy, DailyBudget(None))
        known = dict(plan.incidents)
        attempts += [incident.attempts for incident in plan.requests.values()]
        said += len(plan.messages)
    assert attempts == list(range(1, MAX_REPAIRS + 1))
    assert said == 1


def test_new_damage_is_a_new_incident() -> None:
    """Other files damaged after a stop get attempts of their own; what is intact again is forgotten."""
    old, new = LedgerEntry(1.0, "v", 9, ("x 0",), 1, 5.0), LedgerEntry(2.0, "v", 9, ("x 0", "y 1"), 2, 5.0)
    stopped = {"k": Incident(old.damage_hash, MAX_REPAIRS, stopped=True)}
    assert not plan_repairs([("k", old)], stopped, frozenset(), DailyBudget(None)).requests
    assert plan_repairs([("k", new)], stopped, frozenset(), DailyBudget(None)).requests["k"].attempts == 1
    assert not plan_repairs([("k", LedgerEntry(3.0, "v", 9))], stopped, frozenset(), DailyBudget(None)).incidents
