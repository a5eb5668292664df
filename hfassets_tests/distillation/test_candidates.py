"""Filters, folding, spans and licences, one row at a time."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfassets.distillation.candidates import Candidate, Filters, Refused, Selection, licenses_of
from hfassets.distillation.digests import digest_of
from hfassets.distillation.mapping import Mapped
from hfassets.distillation.registry import MAPPERS
from hfassets.sources.packed import BadRow

pytestmark = pytest.mark.unit


def look(row: Any, mapper: Any = MAPPERS["openhermes"], **filters: Any) -> Any:
    """What becomes of a row."""
    return Selection(mapper, Filters(**filters), digest_of("xxh3_128")).look_at(row)


def chat(*turns: tuple[str, str]) -> dict[str, Any]:
    """A conversation."""
    return {"conversations": [{"from": who, "value": said} for who, said in turns]}


@pytest.mark.parametrize(
    ("row", "filters", "reason"),
    [
        (BadRow("torn"), {}, "malformed"),
        (chat(("human", "Hi")), {}, "malformed"),
        (chat(("human", "Hi"), ("gpt", " \n")), {}, "empty"),
        (chat(("system", "x"), ("gpt", "Hello")), {}, "empty"),
        (chat(("human", "Hi"), ("gpt", "Hello")), {"min_length": 26}, "too_short"),
        (chat(("human", "Hi"), ("gpt", "Hello")), {"max_length": 24}, "too_long"),
        (chat(("human", "Hi"), ("gpt", "Hello")), {"min_words": 5}, "few_words"),
        (chat(("human", "\ud800"), ("gpt", "Hello")), {}, "malformed"),
    ],
)
def test_each_filter_has_a_name(row: Any, filters: dict[str, Any], reason: str) -> None:
    """At the limit a row passes, one beyond it leaves."""
    found = look(row, **filters)
    assert isinstance(found, Refused) and found.reason == reason


def test_at_the_limits_a_row_passes() -> None:
    """«user: Hi», «assistant: Hello» have 25 characters and 4 words."""
    row = chat(("human", "Hi"), ("gpt", "Hello"))
    assert isinstance(look(row, min_length=25, max_length=25, min_words=4), Candidate)
    assert look(None) is None


def test_what_follows_the_last_answer_is_cut() -> None:
    """User turns behind it are no part of the text, and the prompt is all before it."""
    found = look(chat(("human", "a"), ("gpt", "b"), ("human", "c"), ("gpt", "d"), ("human", "e")))
    assert orjson.loads(found.text) == "user: a\nassistant: b\nuser: c\nassistant: d"
    assert found.prompt == "user: a\nassistant: b\nuser: c"


@given(
    st.text(alphabet="ab\n", max_size=60), st.text(alphabet="ab\n", min_size=1, max_size=60), st.integers(1, 4),
    st.data(),
)  # fmt: skip
def test_folding_keeps_the_span_on_its_words(question: str, answer: str, most: int, data: st.DataObject) -> None:
    """Against a plain regular expression; the span holds the same text but for the newlines that were folded."""
    start = data.draw(st.integers(0, len(answer) - 1))
    end = data.draw(st.integers(start + 1, len(answer)))
    question, answer = f"q{question}", f"{answer}."
    mapped = Mapped((("user", question), ("assistant", answer)), {}, (start, end))
    found = look({}, lambda row: mapped, newlines=most)
    text = orjson.loads(found.text)
    whole = f"user: {question}\nassistant: {answer}"
    assert text == re.sub(f"\n{{{most + 1},}}", "\n" * most, whole)
    assert found.folded == (text != whole)
    first, last = orjson.loads(found.metadata)["rationale_span"]
    assert text[first:last].replace("\n", "") == answer[start:end].replace("\n", "")


def test_code_is_never_folded() -> None:
    """Verbatim to the last newline."""
    content = "a\n\n\n\n\n\n\n\nb\n"
    assert orjson.loads(look({"content": content}, MAPPERS["starcoder"], newlines=2).text) == content


@pytest.mark.parametrize(
    ("named", "passes"),
    [
        (["MIT"], True),
        (["mit", "Apache-2.0"], True),
        ("MIT", True),
        (["MIT", "GPL-3.0-only"], False),
        ([], False),
        (None, False),
        ([None, "MIT"], True),
        ([""], False),
    ],
)
def test_every_licence_of_a_row_must_be_allowed(named: Any, passes: bool) -> None:
    """In any case; a row that names none does not pass."""
    filters = Filters(licenses=frozenset({"mit", "apache-2.0"}), license_column="detected_licenses")
    selection = Selection(MAPPERS["the_stack_v2"], filters, digest_of("xxh3_128"))
    assert (selection.licensed({"detected_licenses": named}) is None) == passes


def test_licences_are_taken_from_a_text_or_a_list() -> None:
    assert licenses_of([" MIT ", 3, "Apache-2.0"]) == ["mit", "apache-2.0"]
    assert licenses_of("BSD-3-Clause") == ["bsd-3-clause"]


def test_a_hook_fills_the_notes() -> None:
    """It is given text and metadata."""
    row = {"question": "How many then?", "answer": "Four.\n#### 4"}
    selection = Selection(MAPPERS["gsm8k"], Filters(), digest_of("md5_hash"), lambda record: record["metadata"]["type"])
    found = selection.look_at(row)
    assert isinstance(found, Candidate)
    assert orjson.loads(found.metadata)["notes"] == "math_word_problem"
