"""How many rows each source of a mix gives. Pure.

Invariant: quotas are whole, never negative, and add up to what was asked for; equal requests give equal quotas.
Rules: largest remainder, over categories and then over the sources within each, ties by order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Share:
    """A source of a mix: its category and its part of that (`allocation` of the declared ones, not yet rescaled)."""

    source: str
    category: str
    allocation: Fraction
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Quotas:
    """Rows by source, and what had to be adjusted, for people."""

    rows: Mapping[str, int]
    notices: tuple[str, ...]


def apportion(total: int, weights: Sequence[Fraction]) -> list[int]:
    """`total` in whole parts as near to the weights as can be: largest remainder first, ties by order.

    All are 0 when no weight is above 0.
    """
    whole = sum(weights)
    if whole <= 0:
        return [0 for _ in weights]
    exact = [total * weight / whole for weight in weights]
    parts = [int(one) for one in exact]
    order = sorted(range(len(exact)), key=lambda place: (parts[place] - exact[place], place))
    for place in order[: total - sum(parts)]:
        parts[place] += 1
    return parts


def quotas(total: int, ratios: Mapping[str, Fraction], shares: Sequence[Share]) -> Quotas:
    """Rows of each enabled source, in the order of `shares`."""
    notices = list(_off(ratios, shares))
    sums = {category: _sum(shares, category) for category in ratios}
    open_ones = {category: ratio if sums[category] > 0 else Fraction(0) for category, ratio in ratios.items()}
    lost = [category for category, ratio in ratios.items() if ratio > 0 and not open_ones[category]]
    if lost and any(open_ones.values()):
        named = ", ".join(lost)
        notices.append(f"{named}: no source is enabled; the share goes to the other categories in proportion")
    by_category = dict(zip(open_ones, apportion(total, list(open_ones.values())), strict=True))
    rows: dict[str, int] = {}
    for category, count in by_category.items():
        within = [share for share in shares if share.category == category and share.enabled]
        off = [share.source for share in shares if share.category == category and not share.enabled]
        if within and off:
            notices.append(f"{category}: without {', '.join(off)} the others take its share in proportion")
        parts = apportion(count, [share.allocation for share in within])
        rows |= {share.source: part for share, part in zip(within, parts, strict=True)}
    return Quotas({share.source: rows[share.source] for share in shares if share.source in rows}, tuple(notices))


def _sum(shares: Sequence[Share], category: str) -> Fraction:
    return sum((share.allocation for share in shares if share.category == category and share.enabled), Fraction(0))


def _off(ratios: Mapping[str, Fraction], shares: Sequence[Share]) -> list[str]:
    """Sums that should be 1 and are not, over all declared sources."""
    found = []
    if (whole := sum(ratios.values())) != 1:
        found.append(f"category_ratios add up to {_shown(whole)}, not 1; they are taken in proportion")
    for category in ratios:
        declared = [share for share in shares if share.category == category]
        whole = sum((share.allocation for share in declared), Fraction(0))
        if declared and whole != 1:
            named = " + ".join(f"{share.source} {_shown(share.allocation)}" for share in declared)
            found.append(f"{category}: the allocations {named} add up to {_shown(whole)}, not 1; taken in proportion")
    return found


def _shown(value: Fraction | int) -> str:
    return f"{float(value):.6g}"


def redistribute(
    wanted: Mapping[str, int], got: Mapping[str, int], exhausted: Mapping[str, bool], shares: Sequence[Share]
) -> dict[str, int]:
    """New quotas when some sources ran short: within each category the deficit goes by allocation to those that have
    more. One round; those who then run short too are found by asking again. Unchanged when nobody can give more.
    """
    new = dict(wanted)
    for category in dict.fromkeys(share.category for share in shares):
        within = [share for share in shares if share.category == category and share.source in wanted]
        short = sum(wanted[one.source] - got[one.source] for one in within if exhausted[one.source])
        able = [one for one in within if not exhausted[one.source] and one.allocation > 0]
        if short <= 0 or not able:
            continue
        for one in within:
            if exhausted[one.source]:
                new[one.source] = got[one.source]
        for one, more in zip(able, apportion(short, [one.allocation for one in able]), strict=True):
            new[one.source] += more
    return new
