"""Code: The Stack v2, StarCoder's data, programming contests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hfassets.distillation.mapping import (
    VERBATIM,
    Mapped,
    Row,
    RowRefusedError,
    dialogue,
    extra,
    list_of,
    malformed,
    optional_text,
    struct_of,
    text_of,
)

# deepmind/code_contests: `solutions.language` (its README) and `difficulty` (contest_problem.proto).
_LANGUAGES = {1: "python2", 2: "cpp", 3: "python3", 4: "java"}
_LANGUAGE_NAMES = {"PYTHON": 1, "PYTHON2": 1, "CPP": 2, "PYTHON3": 3, "JAVA": 4}
_PREFERRED = (3, 2, 4, 1)
_DIFFICULTIES = (
    "UNKNOWN", "EASY", "MEDIUM", "HARD", "HARDER", "HARDEST", "EXTERNAL",
    *(chr(ord("A") + place) for place in range(22)),
)  # fmt: skip
_MOST_TESTS = 5


def the_stack_v2(row: Row) -> Mapped:
    """bigcode/the-stack-v2: a file whose `content` was fetched by its `blob_id`."""
    licences = row.get("detected_licenses")
    metadata: dict[str, Any] = {
        "type": "code",
        **({"language": row["language"]} if optional_text(row, "language") else {}),
        **({"license": licences} if isinstance(licences, list) and licences else {}),
        **extra(row, "path", "repo_name", "blob_id"),
    }
    return Mapped(((VERBATIM, text_of(row, "content")),), metadata)


def starcoder(row: Row) -> Mapped:
    """bigcode/starcoderdata: `content`; the marks of repository, file and stars that begin it belong to it."""
    named = {"path": "max_stars_repo_path", "repo_name": "max_stars_repo_name", "stars": "max_stars_count"}
    metadata = {name: row[column] for name, column in named.items() if row.get(column) not in (None, "")}
    # A folder of the repo is a language.
    language = {"language": row["data_dir"]} if optional_text(row, "data_dir") else {}
    return Mapped(((VERBATIM, text_of(row, "content")),), {"type": "code", **language, **metadata})


def code_contests(row: Row) -> Mapped:
    """deepmind/code_contests: the description, and the first correct solution in Python 3, else in the next language.

    A problem that nobody solved is counted as `unsolved`.
    """
    language, solution = _solution(struct_of(row, "solutions"))
    difficulty = row.get("difficulty")
    if isinstance(difficulty, int) and 0 <= difficulty < len(_DIFFICULTIES):
        difficulty = _DIFFICULTIES[difficulty]
    metadata: dict[str, Any] = {
        "type": "programming_problem",
        "language": language,
        **({"difficulty": difficulty} if difficulty is not None else {}),
        **extra(row, "name", "cf_tags", "cf_rating", "source"),
    }
    tests = [case for name in ("public_tests", "private_tests") for case in _cases(row.get(name))]
    if tests:
        metadata |= {"tests": tests[:_MOST_TESTS], "tests_in_all": len(tests)}
    return Mapped(dialogue(text_of(row, "description"), solution), metadata)


def _solution(solutions: Row) -> tuple[str, str]:
    languages, texts = list_of(solutions, "language"), list_of(solutions, "solution")
    if len(languages) != len(texts):
        raise malformed("solutions: as many languages as solutions are needed")
    numbers = [_LANGUAGE_NAMES.get(one, 0) if isinstance(one, str) else one for one in languages]
    for wanted in _PREFERRED:
        for language, text in zip(numbers, texts, strict=True):
            if language == wanted and isinstance(text, str) and text.strip():
                return _LANGUAGES[wanted], text
    raise RowRefusedError("unsolved", "no correct solution in a language known")


def _cases(tests: object) -> list[dict[str, str]]:
    if not isinstance(tests, Mapping):
        return []
    inputs, outputs = tests.get("input"), tests.get("output")
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        return []
    return [{"input": one, "output": other} for one, other in zip(inputs, outputs, strict=False)]
