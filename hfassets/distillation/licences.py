"""Whose data may be used for what: the licence of the data, where that is said, and what it asks for.

The old document's table gave the licences of models and of repositories; this one is about the rows. It is no legal
advice, and says on what it rests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Commercial = Literal["yes", "no", "not stated", "see terms", "by file"]


@dataclass(frozen=True, slots=True)
class Licence:
    """`data`: SPDX id or words; `attribution`: what has to be said; `evidence`: where the licence is stated."""

    data: str
    commercial: Commercial
    attribution: str
    evidence: str


_NONE = "required by no licence"
TABLE: dict[str, Licence] = {
    "openhermes": Licence(
        "not stated",
        "not stated",
        "unknown",
        "the card names no licence for the data; much of it is output of GPT-4, whose terms apply to whoever made it",
    ),
    "ultrachat": Licence("mit", "yes", "licence text", "card metadata, license: mit"),
    "open_orca": Licence("mit", "yes", "licence text", "card metadata, license: mit"),
    "the_stack_python": Licence(
        "by file", "by file", "each file's own", "column detected_licenses; access is gated by terms of use"
    ),
    "the_stack_javascript": Licence(
        "by file", "by file", "each file's own", "column detected_licenses; access is gated by terms of use"
    ),
    "starcoder": Licence(
        "other",
        "see terms",
        "each file's own",
        "permissively licensed files of The Stack 1.2, but no licence column; access is gated by terms of use",
    ),
    "code_contests": Licence("cc-by-4.0", "yes", "credit the authors", "card: CC BY 4.0"),
    "gsm8k": Licence("mit", "yes", "licence text", "card metadata, license: mit"),
    "math": Licence(
        "mit",
        "yes",
        "licence text",
        "card metadata, license: mit; the original upload was taken down after a copyright claim on the problems",
    ),
    "numina_cot": Licence("apache-2.0", "yes", "licence text", "card metadata, license: apache-2.0"),
    "natural_questions": Licence(
        "cc-by-sa-3.0", "yes", "credit Google and Wikipedia, share alike", "card: CC BY-SA 3.0 (not Apache 2.0)"
    ),
    "hotpotqa": Licence("cc-by-sa-4.0", "yes", "credit the authors, share alike", "card metadata: cc-by-sa-4.0"),
}

# SPDX ids (https://spdx.org/licenses/) that allow commercial use, with or without conditions.
_COMMERCIAL = frozenset({
    "mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "isc", "mpl-2.0", "unlicense", "cc0-1.0", "0bsd", "zlib",
    "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "odc-by", "odbl-1.0", "pddl-1.0", "cdla-permissive-2.0",
})  # fmt: skip
_UNATTRIBUTED = frozenset({"cc0-1.0", "unlicense", "0bsd", "pddl-1.0"})


def licence_of(source: str, declared: str | None) -> Licence:
    """The licence of a built-in source from the table; of another one what its entry declares."""
    if source in TABLE:
        return TABLE[source]
    said = (declared or "").strip().lower()
    if not said:
        return Licence("not stated", "not stated", "unknown", "the catalog's entry names none")
    parts = said.split("-")
    commercial: Commercial = "yes" if said in _COMMERCIAL else "no" if "nc" in parts else "see terms"
    return Licence(said, commercial, _NONE if said in _UNATTRIBUTED else "licence text", "the catalog's entry")
