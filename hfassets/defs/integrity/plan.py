"""Which partitions to re-verify and which to repair: pure decisions over ledger entries, a clock and a budget.

Invariants: no partition is asked for twice for the same reason; no more bytes a day are asked for than the budget
allows (the first of a day always goes through, or one larger than the budget would never be done); an incident of
damage gets at most `MAX_REPAIRS` repair runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from hfassets.storage.ledger import LedgerEntry

MAX_REPAIRS = 3

Entries = Iterable[tuple[str, LedgerEntry | None]]


@dataclass(frozen=True, slots=True)
class DailyBudget:
    """Bytes spent on a day (`YYYY-MM-DD`, UTC) against `limit` bytes; None = no limit."""

    limit: int | None
    day: str = ""
    spent: int = 0

    def on(self, day: str) -> DailyBudget:
        """The same budget on a day: spending starts at nothing on each new one."""
        return self if day == self.day else replace(self, day=day, spent=0)

    def allows(self, size: int) -> bool:
        """Whether `size` more bytes may be spent today."""
        return self.limit is None or self.spent == 0 or self.spent + size <= self.limit

    def spend(self, size: int) -> DailyBudget:
        """The budget after `size` more bytes."""
        return replace(self, spent=self.spent + size)


def due_for_verification(entries: Entries, *, now: float, every: float, most: int) -> list[str]:
    """At most `most` partitions last verified more than `every` seconds ago, oldest first.

    What was never verified was never made, and what is damaged waits for its repair: neither is due.
    """
    old = [(entry.verified_at, key) for key, entry in entries if entry is not None and _is_due(entry, now - every)]
    return [key for _, key in sorted(old)[:most]]


def _is_due(entry: LedgerEntry, before: float) -> bool:
    return not entry.damage and entry.verified_at <= before


@dataclass(frozen=True, slots=True)
class Incident:
    """What was done about one partition's damage: `attempts` runs so far, whether the stop was said."""

    damage_hash: str
    attempts: int = 0
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """The repairs to request now (partition → attempt number), what to say, and the incidents to remember."""

    requests: Mapping[str, Incident]
    messages: tuple[str, ...]
    incidents: Mapping[str, Incident]
    budget: DailyBudget


@dataclass(slots=True)
class _Draft:
    requests: dict[str, Incident] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    incidents: dict[str, Incident] = field(default_factory=dict)


def plan_repairs(
    entries: Entries, known: Mapping[str, Incident], running: frozenset[str], budget: DailyBudget
) -> RepairPlan:
    """Decide on every damaged partition; `running` are the partitions whose last repair run has not ended."""
    draft = _Draft()
    for key, entry in entries:
        if entry is None or not entry.damage:
            continue
        incident = known.get(key, Incident(entry.damage_hash))
        if incident.damage_hash != entry.damage_hash:
            incident = Incident(entry.damage_hash)
        if key in running:
            draft.incidents[key] = incident
        elif incident.attempts >= MAX_REPAIRS:
            if not incident.stopped:
                draft.messages.append(
                    f"{key}: still damaged after {MAX_REPAIRS} repairs ({entry.damage[0].rpartition(' ')[0]}"
                    f"{' and more' if len(entry.damage) > 1 else ''}); no further attempt is made: the source itself"
                    " may be wrong. Look at the last repair run, then materialise the partition by hand"
                )
            draft.incidents[key] = replace(incident, stopped=True)
        elif not budget.allows(entry.damage_size):
            draft.messages.append(f"{key}: its repair waits for tomorrow's byte budget")
            draft.incidents[key] = incident
        else:
            budget = budget.spend(entry.damage_size)
            draft.requests[key] = draft.incidents[key] = replace(incident, attempts=incident.attempts + 1)
    return RepairPlan(draft.requests, tuple(draft.messages), draft.incidents, budget)
