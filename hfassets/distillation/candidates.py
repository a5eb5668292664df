"""A row becomes a candidate for the mix, or leaves with a name for why. Pure.

Invariant: what is refused here is refused whatever came before; duplicates, quotas and phases are others' business.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from hfassets.distillation.digests import Digest
from hfassets.distillation.mapping import VERBATIM, Mapped, Mapper, RowRefusedError, Span, Turn
from hfassets.sources.packed import BadRow

EMPTY = "empty"
MALFORMED = "malformed"
LICENSE = "license"
TOO_SHORT = "too_short"
TOO_LONG = "too_long"
FEW_WORDS = "few_words"
# What a mapper may stumble over in a row that is not as it should be.
_STUMBLES = (KeyError, IndexError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True, slots=True)
class Filters:
    """Which rows may pass. Lengths in characters of the whole text; None = no limit.

    `licenses`: lower-case SPDX ids, None = any; every licence that a row names in `license_column` must be among them,
    and a row that names none does not pass. `newlines`: longer runs of them are folded to so many.
    """

    min_length: int = 0
    max_length: int | None = None
    min_words: int = 0
    newlines: int | None = None
    licenses: frozenset[str] | None = None
    license_column: str | None = None

    def identity(self) -> dict[str, Any]:
        """What of it decides about bytes, fit for JSON."""
        return {
            "min_length": self.min_length,
            "max_length": self.max_length,
            "min_words": self.min_words,
            "newlines": self.newlines,
            "licenses": None if self.licenses is None else sorted(self.licenses),
            "license_column": self.license_column,
        }


class Candidate(NamedTuple):
    """A row that may be written: its text and metadata as JSON, the digest of that text, and its characters.

    `prompt`: everything before the last assistant turn; "" for text that is no dialogue. `folded`: runs of newlines
    were made shorter.
    """

    text: bytes
    metadata: bytes
    digest: bytes
    characters: int
    prompt: str
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that is not used: the name of its count, and why in words."""

    reason: str
    text: str = ""


Outcome = Candidate | Refused | None
"""None: a blank line, which is no row."""

Hook = Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Selection:
    """How rows of one source become candidates. `notes`: a hook that fills the metadata's field `notes`.

    `prompts`: whether anybody asks for the prompt of a candidate; else it stays empty.
    """

    mapper: Mapper
    filters: Filters
    digest: Digest
    notes: Hook | None = None
    prompts: bool = True
    _fold: re.Pattern[str] | None = field(init=False, repr=False, compare=False)
    _written_run: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        most = self.filters.newlines
        object.__setattr__(self, "_fold", None if most is None else re.compile("\n" * most + "(\n+)"))
        object.__setattr__(self, "_written_run", rb"\n" * ((most or 0) + 1))

    def licensed(self, row: object) -> Refused | None:
        """Refused when the row's licences do not allow it; cheap, so it comes before anything is fetched for a row."""
        allowed, column = self.filters.licenses, self.filters.license_column
        if allowed is None or column is None or not isinstance(row, dict):
            return None
        named = licenses_of(row.get(column))
        if named and all(one in allowed for one in named):
            return None
        bad = ", ".join(sorted(set(named) - allowed)) or "no licence named"
        return Refused(LICENSE, bad)

    def look_at(self, row: Any) -> Outcome:
        """The candidate of a row."""
        if row is None:
            return None
        if isinstance(row, BadRow):
            return Refused(MALFORMED, row.reason)
        try:
            mapped = self.mapper(row)
            turns = kept_turns(mapped)
            text, span = joined(turns, mapped)
        except RowRefusedError as refused:
            return Refused(refused.reason, str(refused))
        except _STUMBLES as error:
            return Refused(MALFORMED, f"{type(error).__name__}: {error}")
        try:
            # Made before anything is known to be of use, for a search in it is faster than one in the text.
            written = orjson.dumps(text)
            length = len(text)
            if self._fold is not None and self._written_run in written and turns[-1][0] != VERBATIM:
                text, span = self._folded(text, span)
                written = orjson.dumps(text)
            folded = len(text) < length
        except orjson.JSONEncodeError as error:
            return Refused(MALFORMED, f"not fit for JSON: {error}")
        limits = self.filters
        if len(text) < limits.min_length:
            return Refused(TOO_SHORT, f"{len(text):,} characters")
        if limits.max_length is not None and len(text) > limits.max_length:
            return Refused(TOO_LONG, f"{len(text):,} characters")
        if limits.min_words and not _has_words(text, limits.min_words):
            return Refused(FEW_WORDS, f"{len(text.split()):,} words")
        prompt = self._folded(_prompt(turns), None)[0] if self.prompts else ""
        metadata = mapped.metadata
        if span is not None or self.notes is not None or type(metadata) is not dict:
            metadata = dict(metadata)
        if span is not None:
            metadata["rationale_span"] = span
        if self.notes is not None:
            metadata["notes"] = self.notes({"text": text, "metadata": metadata})
        try:
            # Equal texts have equal JSON, so its digest will do, and a line that was written has it at hand.
            return Candidate(written, orjson.dumps(metadata), self.digest(written), len(text), prompt, folded)
        except orjson.JSONEncodeError as error:
            return Refused(MALFORMED, f"not fit for JSON: {error}")

    def _folded(self, text: str, span: Span | None) -> tuple[str, Span | None]:
        """Long runs of newlines made shorter, and the span moved along."""
        if self._fold is None:
            return text, span
        cuts = [match.span(1) for match in self._fold.finditer(text)]
        kept = self._fold.sub(lambda match: match[0][: match.end() - match.start() - len(match[1])], text)
        return kept, None if span is None else (_moved(span[0], cuts), _moved(span[1], cuts))


def _moved(place: int, cuts: Sequence[Span]) -> int:
    """Where a place is when the cuts are gone."""
    before = cuts[: bisect_right(cuts, place, key=lambda cut: cut[0])]
    return place - sum(min(end, place) - start for start, end in before)


def licenses_of(value: object) -> list[str]:
    """The licences that a row names, lower-case: from a text or a list of texts."""
    named = value if isinstance(value, list) else [value]
    return [one.strip().lower() for one in named if isinstance(one, str) and one.strip()]


def kept_turns(mapped: Mapped) -> Sequence[Turn]:
    """Text as it stands, or a dialogue up to its last answer; raises RowRefusedError for one that is of no use."""
    turns = mapped.turns
    return turns if len(turns) == 1 and turns[0][0] == VERBATIM else _dialogue(turns)


def _dialogue(turns: Sequence[Turn]) -> Sequence[Turn]:
    """The turns up to the last answer."""
    last = len(turns) - 1
    while last >= 0 and turns[last][0] != "assistant":
        last -= 1
    if last < 0:
        raise RowRefusedError(MALFORMED, "no turn of the assistant")
    if not turns[last][1].strip():
        raise RowRefusedError(EMPTY, "an empty answer")
    for role, content in turns[:last]:
        if role != "system" and content.strip():
            return turns[: last + 1]
    raise RowRefusedError(EMPTY, "nothing is asked")


def _has_words(text: str, count: int) -> bool:
    """Whether a text has so many words; mostly its beginning tells, and the rest need not be copied."""
    return len(text[: 32 * count].split(None, count)) >= count or len(text.split(None, count)) >= count


def _prompt(turns: Sequence[Turn]) -> str:
    """Everything before the last answer."""
    return "\n".join([f"{who}: {said}" for who, said in turns[:-1]])


def joined(turns: Sequence[Turn], mapped: Mapped) -> tuple[str, Span | None]:
    """The text, and the rationale's span in it; raises RowRefusedError for text that says nothing."""
    role, content = turns[-1]
    if role == VERBATIM:
        if not content.strip():
            raise RowRefusedError(EMPTY, "an empty text")
        return content, mapped.rationale
    # One copy of what was said, not one a turn and another of all.
    text = "".join([piece for who, said in turns for piece in ("\n", who, ": ", said)][1:])
    span = mapped.rationale
    if span is None or len(turns) < len(mapped.turns):
        # A span belongs to the mapper's last turn; when that was cut off, there is none.
        return text, None
    head = len(text) - len(content)
    return text, (span[0] + head, span[1] + head)
