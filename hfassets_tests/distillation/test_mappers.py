"""Each mapper on rows of the real schema, and on odd ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfassets.distillation.mappers.math import last_boxed
from hfassets.distillation.mapping import Mapped, RowRefusedError
from hfassets.distillation.registry import MAPPERS, load_mapper, mapper_identity
from hfassets.errors import UsageError

pytestmark = pytest.mark.unit

ANNOTATIONS = {
    "id": ["1"],
    "long_answer": [{"start_token": 0, "end_token": 4, "start_byte": 0, "end_byte": 9, "candidate_index": 0}],
    "short_answers": [{"start_token": [1], "end_token": [2], "start_byte": [0], "end_byte": [1], "text": ["14 March"]}],
    "yes_no_answer": [-1],
}
NOBODY = {
    "id": ["1"],
    "long_answer": [{"start_token": -1, "end_token": -1, "start_byte": -1, "end_byte": -1, "candidate_index": -1}],
    "short_answers": [{"start_token": [], "end_token": [], "start_byte": [], "end_byte": [], "text": []}],
    "yes_no_answer": [-1],
}
ROWS: dict[str, dict[str, Any]] = {
    "openhermes": {
        "conversations": [
            {"from": "system", "value": "Be brief.", "weight": None},
            {"from": "human", "value": "Hi\n\tthere ✓"},
            {"from": "gpt", "value": "Hello."},
        ],
        "source": "glaive",
        "category": None,
        "system_prompt": None,
    },
    "ultrachat": {
        "prompt": "Hi",
        "prompt_id": "abc",
        "messages": [{"content": "Hi", "role": "user"}, {"content": "Hello.", "role": "assistant"}],
    },
    "open_orca": {"id": "niv.1", "system_prompt": "Be brief.", "question": "Hi", "response": "Hello."},
    "the_stack_v2": {
        "blob_id": "0" * 40,
        "content": "def f():\n\n\n\n\n\n\n\treturn 1\n",
        "language": "Python",
        "path": "/a.py",
        "repo_name": "a/b",
        "detected_licenses": ["MIT", "Apache-2.0"],
    },
    "starcoder": {
        "max_stars_repo_path": "a.py",
        "max_stars_repo_name": "a/b",
        "max_stars_count": 3,
        "id": "1",
        "content": "<filename>a.py\nx = 1\n",
        "data_dir": "python",
    },
    "code_contests": {
        "name": "1_A. Sum",
        "description": "Add.",
        "public_tests": {"input": ["1 2"], "output": ["3"]},
        "private_tests": {"input": [], "output": []},
        "difficulty": 7,
        "cf_rating": 800,
        "solutions": {"language": [2, 1, 3, 3], "solution": ["cpp", "py2", "print(1)\n", "other"]},
    },
    "gsm8k": {"question": "How many?", "answer": "He has <<2+2=4>>4.\n#### 4"},
    "math": {
        "problem": "Find $x$.",
        "level": "Level 5",
        "type": "Algebra",
        "solution": "So $\\boxed{1}$? No: $x = \\boxed{\\frac{1}{\\sqrt{2}}}$.",
    },
    "numina": {
        "source": "olympiads",
        "problem": "Find it.",
        "solution": "We think. $\\boxed{\\text{(A)}}$",
        "messages": [],
    },
    "natural_questions": {
        "question": {"text": "when is pi day", "tokens": ["when"]},
        "document": {
            "title": "Pi Day",
            "tokens": {"token": ["<P>", "14", "March", "</P>"], "is_html": [True, False, False, True]},
        },
        "annotations": ANNOTATIONS,
    },
    "hotpotqa": {
        "question": "Who?",
        "answer": "Ada",
        "type": "bridge",
        "level": "hard",
        "supporting_facts": {"title": ["A", "B"], "sent_id": [1, 9]},
        "context": {"title": ["A", "B"], "sentences": [["One.", " Two."], [" Three."]]},
    },
}


def text(mapped: Mapped) -> str:
    """As a file has it."""
    return "\n".join(f"{role}: {content}" if role else content for role, content in mapped.turns)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openhermes", "system: Be brief.\nuser: Hi\n\tthere ✓\nassistant: Hello."),
        ("ultrachat", "user: Hi\nassistant: Hello."),
        ("open_orca", "system: Be brief.\nuser: Hi\nassistant: Hello."),
        ("the_stack_v2", "def f():\n\n\n\n\n\n\n\treturn 1\n"),
        ("starcoder", "<filename>a.py\nx = 1\n"),
        ("code_contests", "user: Add.\nassistant: print(1)\n"),
        ("gsm8k", "user: How many?\nassistant: He has <<2+2=4>>4.\n#### 4"),
        ("natural_questions", "user: When is pi day?\nassistant: 14 March"),
        ("hotpotqa", "user: A: One. Two.\nB: Three.\n\nQuestion: Who?\nassistant: Ada"),
    ],
)
def test_the_text_has_one_line_a_turn_and_code_as_it_stands(name: str, expected: str) -> None:
    """Roles as user and assistant, system prompts kept, nothing else added."""
    assert text(MAPPERS[name](ROWS[name])) == expected


def test_the_metadata_is_what_the_document_promises() -> None:
    """Rationale and final answer, level and type, tests and difficulty, licence and path, answers and facts."""
    of = {name: MAPPERS[name](row) for name, row in ROWS.items()}

    def rationale(name: str) -> str:
        span = of[name].rationale
        assert span is not None
        return of[name].turns[-1][1][span[0] : span[1]]

    assert (rationale("gsm8k"), of["gsm8k"].metadata["final_answer"]) == ("He has <<2+2=4>>4.", "4")
    assert of["math"].metadata == {"level": "Level 5", "type": "Algebra", "final_answer": "\\frac{1}{\\sqrt{2}}"}
    assert rationale("math") == "So $\\boxed{1}$? No: $x ="
    assert (rationale("numina"), of["numina"].metadata["final_answer"]) == ("We think. $", "\\text{(A)}")
    assert of["the_stack_v2"].metadata["license"] == ["MIT", "Apache-2.0"]
    assert of["the_stack_v2"].metadata["path"] == "/a.py"
    assert of["starcoder"].metadata == {
        "type": "code", "language": "python", "path": "a.py", "repo_name": "a/b", "stars": 3,
    }  # fmt: skip
    contest = of["code_contests"].metadata
    assert (contest["language"], contest["difficulty"], contest["tests_in_all"]) == ("python3", "A", 1)
    assert contest["tests"] == [{"input": "1 2", "output": "3"}]
    question = of["natural_questions"].metadata
    assert (question["short_answers"], question["long_answer"], question["title"]) == (
        ["14 March"],
        "14 March",
        "Pi Day",
    )
    assert of["hotpotqa"].metadata["supporting_facts"] == [
        {"title": "A", "sentence": 1, "text": "Two."},
        {"title": "B", "sentence": 9},
    ]
    assert of["hotpotqa"].metadata["type"] == "bridge"


def changed(name: str, **values: Any) -> dict[str, Any]:
    """The row with other values in it."""
    return {**ROWS[name], **values}


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("openhermes", changed("openhermes", conversations=None), "malformed"),
        ("openhermes", changed("openhermes", conversations=[{"from": "alien", "value": "x"}]), "malformed"),
        ("openhermes", changed("openhermes", conversations=["x"]), "malformed"),
        ("openhermes", changed("openhermes", conversations=[{"from": "gpt", "value": None}]), "malformed"),
        ("ultrachat", {}, "malformed"),
        ("open_orca", changed("open_orca", response=None), "malformed"),
        ("code_contests", changed("code_contests", solutions={"language": [], "solution": []}), "unsolved"),
        ("code_contests", changed("code_contests", solutions={"language": [0], "solution": ["x"]}), "unsolved"),
        ("code_contests", changed("code_contests", solutions={"language": [3], "solution": []}), "malformed"),
        ("gsm8k", changed("gsm8k", answer=4), "malformed"),
        ("math", changed("math", solution=None), "malformed"),
        ("natural_questions", changed("natural_questions", annotations=NOBODY), "unanswerable"),
        ("natural_questions", changed("natural_questions", question="?"), "malformed"),
        ("natural_questions", changed("natural_questions", annotations=None), "malformed"),
        ("hotpotqa", changed("hotpotqa", context={"title": ["A"], "sentences": []}), "malformed"),
        ("hotpotqa", changed("hotpotqa", context=[]), "malformed"),
    ],
)
def test_rows_that_cannot_be_used_leave_with_a_reason(name: str, row: dict[str, Any], reason: str) -> None:
    """Null, empty, nested otherwise than promised: one name each."""
    with pytest.raises(RowRefusedError) as refused:
        MAPPERS[name](row)
    assert refused.value.reason == reason


def test_other_forms_of_an_answer_are_used_in_their_order() -> None:
    """Short before yes or no before long; the next language where there is no Python 3; both ways of nesting."""
    yes = {**NOBODY, "yes_no_answer": [1]}
    assert text(MAPPERS["natural_questions"](changed("natural_questions", annotations=yes))).endswith("assistant: yes")
    long = {**ANNOTATIONS, "short_answers": NOBODY["short_answers"]}
    mapped = MAPPERS["natural_questions"](changed("natural_questions", annotations=long))
    assert (mapped.metadata["answer_type"], mapped.turns[-1][1]) == ("long", "14 March")
    listed = [{"short_answers": [{"text": ["a"]}, {"text": ["b"]}], "yes_no_answer": -1}]
    assert MAPPERS["natural_questions"](changed("natural_questions", annotations=listed)).turns[-1][1] == "a, b"
    solved = {"language": [1, 4, 2], "solution": ["py2", "java", "cpp"]}
    contest = MAPPERS["code_contests"](changed("code_contests", solutions=solved))
    assert (contest.turns[-1][1], contest.metadata["language"]) == ("cpp", "cpp")
    bare = MAPPERS["gsm8k"](changed("gsm8k", answer="Four."))
    assert "final_answer" not in bare.metadata and bare.rationale == (0, 5)


@pytest.mark.parametrize(
    ("solution", "held"),
    [
        ("\\boxed{1}", "1"),
        ("\\boxed{a_{b_{c}}} end", "a_{b_{c}}"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("\\boxed 5$", "5"),
        ("\\fbox{x}", "x"),
        ("\\boxed{1} and \\boxed{never ends", "1"),
        ("none", None),
        ("\\boxed", None),
    ],
)
def test_the_last_box_that_ends_counts(solution: str, held: str | None) -> None:
    """Braces are matched, escaped ones are not counted."""
    found = last_boxed(solution)
    assert (found[1] if found else None) == held


@given(st.sampled_from(sorted(ROWS)), st.data())
def test_no_row_of_any_shape_is_anything_but_used_or_refused(name: str, data: st.DataObject) -> None:
    """Any column may hold anything of JSON: mappers map, refuse, or stumble in the ways that count as malformed."""
    anything = st.recursive(
        st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["text", "title"]), inner, max_size=2)
        ),
        max_leaves=4,
    )
    row = dict(ROWS[name])
    for column in data.draw(st.lists(st.sampled_from(sorted(row)), max_size=3)):
        row[column] = data.draw(anything)
    try:
        mapped = MAPPERS[name](row)
    except (RowRefusedError, KeyError, IndexError, TypeError, ValueError, AttributeError):
        return
    assert all(isinstance(content, str) for _, content in mapped.turns)


def own(row: Any) -> Mapped:
    """A mapper of somebody else's."""
    return Mapped((("user", row["a"]), ("assistant", row["b"])))


def test_a_mapper_of_ones_own_is_found_and_named_by_its_source() -> None:
    """`module:function`; another source is another identity."""
    name = f"{__name__}:own"
    assert load_mapper(name) is own
    assert mapper_identity(name).startswith(f"{name}@")
    assert mapper_identity("gsm8k") == "gsm8k"


@pytest.mark.parametrize(
    ("name", "said"),
    [("gsm9k", "there are code_contests, gsm8k"), ("nowhere:f", "No module named"), ("json:absent", "has no function")],
)
def test_a_mapper_that_is_not_there_is_told(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_mapper(name)
