"""Mappers: one small function each from a row of a source to turns and metadata.

Invariant: a mapper is pure, and a row that it cannot use leaves with a name for why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

Row = Mapping[str, Any]
Turn = tuple[str, str]
"""Role and content; the role "" is text as it stands, a file of code for example."""
VERBATIM = ""
ROLES = ("system", "user", "assistant", "tool")
Span = tuple[int, int]


class Mapped(NamedTuple):
    """What becomes of a row. `rationale`: where in the last turn's content the reasoning stands (characters, end
    excluded), for masks; it is moved along to a span of the whole text. `metadata` must be fit for JSON.
    """

    turns: Sequence[Turn]
    metadata: Mapping[str, Any] = MappingProxyType({})
    rationale: Span | None = None


Mapper = Callable[[Row], Mapped]


class RowRefusedError(Exception):
    """A row is not used; `reason` is the name of its count, the text is for people."""

    def __init__(self, reason: str, text: str = "") -> None:
        super().__init__(text)
        self.reason = reason


def malformed(text: str) -> RowRefusedError:
    """A row that is not as the source's rows are."""
    return RowRefusedError("malformed", text)


def text_of(row: Row, name: str) -> str:
    """The text of a column; a row without it is malformed."""
    value = row.get(name)
    if not isinstance(value, str):
        raise malformed(f"{name} is {_kind(value)}, not text")
    return value


def optional_text(row: Row, name: str) -> str | None:
    """The text of a column that may be null, missing or blank; None then."""
    value = row.get(name)
    return value if isinstance(value, str) and value.strip() else None


def list_of(row: Row, name: str) -> list[Any]:
    """The list of a column; a row without one is malformed."""
    value = row.get(name)
    if not isinstance(value, list):
        raise malformed(f"{name} is {_kind(value)}, not a list")
    return value


def struct_of(row: Row, name: str) -> Row:
    """The object of a column; a row without one is malformed."""
    value = row.get(name)
    if not isinstance(value, dict):
        raise malformed(f"{name} is {_kind(value)}, not an object")
    return value


def extra(row: Row, *names: str) -> dict[str, Any]:
    """Those of the columns that have a value, for the metadata."""
    return {name: row[name] for name in names if row.get(name) not in (None, "", [])}


def dialogue(question: str, answer: str, system: str | None = None) -> tuple[Turn, ...]:
    """One question and its answer."""
    first: tuple[Turn, ...] = (("system", system),) if system is not None else ()
    return (*first, ("user", question), ("assistant", answer))


def _kind(value: object) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"
