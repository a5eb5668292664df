"""Tables: one value, shown by the terminal and by the web UI.

Invariant: cells are plain text; nothing in a cell is taken for markup by either.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table as RichTable

NUMBER = "right"
TEXT = "left"


@dataclass(frozen=True, slots=True)
class Column:
    """A column's heading and which side its cells keep to (`TEXT` or `NUMBER`)."""

    name: str
    side: str = TEXT


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells that are text already (see `units`); raises ValueError for a row of another width."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row has {len(row)} cells, the table {len(self.columns)} columns")

    def rich(self) -> RichTable:
        """For a terminal: no frame, so that columns can be cut out of the text as well."""
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(
            title=self.title or None, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0)
        )
        for column in self.columns:
            table.add_column(Text(column.name), justify="right" if column.side == NUMBER else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table

    def markdown(self) -> str:
        """For Dagster's metadata: a Markdown table, the title as a bold line above."""
        heading = f"**{_escape(self.title)}**\n\n" if self.title else ""
        names = " | ".join(_escape(column.name) for column in self.columns)
        sides = " | ".join("---:" if column.side == NUMBER else "---" for column in self.columns)
        rows = "".join(f"| {' | '.join(_escape(cell) for cell in row)} |\n" for row in self.rows)
        return f"{heading}| {names} |\n| {sides} |\n{rows}"


def build_table(columns: Sequence[str | Column], rows: Iterable[Sequence[object]], *, title: str = "") -> Table:
    """A table from headings and values; a heading that ends in `>` is a column of numbers, kept to the right."""
    made = tuple(_column(column) for column in columns)
    return Table(made, tuple(tuple(_cell(value) for value in row) for row in rows), title)


def _column(column: str | Column) -> Column:
    if isinstance(column, Column):
        return column
    return Column(column.removesuffix(">"), NUMBER if column.endswith(">") else TEXT)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _escape(text: str) -> str:
    return " ".join(_escape_word(word) for word in text.split())


def _escape_word(word: str) -> str:
    # An address is shown as it stands, backslashes included.
    characters = "|" if word.startswith(("http://", "https://")) else "\\`*_[]<>|"
    for character in characters:
        word = word.replace(character, f"\\{character}")
    return word
