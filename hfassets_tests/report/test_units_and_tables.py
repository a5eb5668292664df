"""Numbers and tables as people read them."""

from __future__ import annotations

import pytest
from rich.console import Console

from hfassets.report.tables import Column, build_table
from hfassets.report.units import format_bytes, format_count, format_seconds

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_951, "1.0 MB"), (3.2e15, "3.2 PB")],
)
def test_bytes_are_decimal_and_never_reach_1000(size: float, text: str) -> None:
    """As the Hub and df -H write them."""
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (59.96, "1 min 0 s"), (3599.7, "1 h 0 min"), (3700, "1 h 1 min")],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    """Rounding carries into the next unit."""
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (9999, "9,999"), (10_000, "10k"), (12_345, "12.3k"), (999_600, "1M"), (0.5, "0.5")]
)
def test_counts_stay_short(count: float, text: str) -> None:
    """At most four characters and a scale, small whole numbers exact."""
    assert format_count(count) == text


def test_one_table_for_terminal_and_markdown() -> None:
    """Numbers to the right, markup in cells shown as it is, nothing cut on a wide console."""
    table = build_table(["name", "rows>"], [("a|b [bold]x[/]", 1234567), ("c*d\ne", None)], title="Splits")
    console = Console(width=10_000, no_color=True, highlight=False)
    with console.capture() as captured:
        console.print(table.rich())
    lines = captured.get().splitlines()
    assert lines[0].strip() == "Splits"
    assert lines[2].split("  ")[0] == "a|b [bold]x[/]"
    assert lines[2].rstrip().endswith("1,234,567")
    assert table.markdown() == (
        "**Splits**\n\n| name | rows |\n| --- | ---: |\n| a\\|b \\[bold\\]x\\[/\\] | 1,234,567 |\n| c\\*d e |  |\n"
    )


def test_an_address_is_shown_as_it_stands() -> None:
    """Backslashes in it would be part of what is shown and clicked."""
    cell = build_table(["url"], [("see http://example.com/_a_*b|c_d and _e_",)]).markdown().splitlines()[2]
    assert cell == "| see http://example.com/_a_*b\\|c_d and \\_e\\_ |"


def test_a_row_of_another_width_is_a_defect() -> None:
    """It would shift every cell after it."""
    with pytest.raises(ValueError, match="2 cells"):
        build_table([Column("a")], [("1", "2")])
