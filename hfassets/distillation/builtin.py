"""The built-in mix: the twelve sources of the old document, where they live today.

Source of ids, splits and columns: the dataset cards, as of 2026; shares and filters: the old document.
"""

from __future__ import annotations

from typing import Any

CATEGORY_RATIOS = {"instruction_chat": "0.35", "code": "0.30", "math_reasoning": "0.25", "factual_qa": "0.10"}

_PERMISSIVE = ["mit", "apache-2.0", "bsd-3-clause", "bsd-2-clause"]
_CODE = {"min_length": 100, "max_length": 100_000}
_STACK: dict[str, Any] = {
    "category": "code",
    "hf_path": "bigcode/the-stack-v2",
    "license": "various-permissive",
    "license_column": "detected_licenses",
    "mapper": "the_stack_v2",
    "contents": "software_heritage",
    "columns": ["blob_id", "src_encoding", "language", "path", "repo_name", "detected_licenses"],
}

DATASETS: dict[str, dict[str, Any]] = {
    "openhermes": {
        "category": "instruction_chat",
        "allocation": "0.40",
        "hf_path": "teknium/OpenHermes-2.5",
        "license": "not stated",
        "mapper": "openhermes",
    },
    "ultrachat": {
        "category": "instruction_chat",
        "allocation": "0.40",
        "hf_path": "HuggingFaceH4/ultrachat_200k",
        "split": "train_sft",
        "license": "mit",
        "mapper": "ultrachat",
        "columns": ["messages", "prompt_id"],
    },
    "open_orca": {
        "category": "instruction_chat",
        "allocation": "0.20",
        "hf_path": "Open-Orca/OpenOrca",
        "license": "mit",
        "mapper": "open_orca",
        "columns": ["id", "system_prompt", "question", "response"],
    },
    "the_stack_python": {
        **_STACK,
        "allocation": "0.50",
        "subset": "Python",
        "filters": {**_CODE, "allowed_licenses": [*_PERMISSIVE, "mpl-2.0"]},
    },
    "the_stack_javascript": {
        **_STACK,
        "allocation": "0.15",
        "subset": "JavaScript",
        "filters": {**_CODE, "allowed_licenses": _PERMISSIVE},
    },
    "starcoder": {
        "category": "code",
        "allocation": "0.20",
        "hf_path": "bigcode/starcoderdata",
        "subset": "python",
        "subset_is": "folder",
        "license": "other",
        "mapper": "starcoder",
        "columns": ["max_stars_repo_path", "max_stars_repo_name", "max_stars_count", "content"],
        "filters": _CODE,
    },
    "code_contests": {
        "category": "code",
        "allocation": "0.15",
        "hf_path": "deepmind/code_contests",
        "license": "cc-by-4.0",
        "streaming": "false",
        "mapper": "code_contests",
        "verbatim": "true",
        "columns": [
            "name", "description", "public_tests", "private_tests", "source", "difficulty", "solutions", "cf_tags",
            "cf_rating",
        ],
    },
    "gsm8k": {
        "category": "math_reasoning",
        "allocation": "0.30",
        "hf_path": "openai/gsm8k",
        "subset": "main",
        "license": "mit",
        "streaming": "false",
        "mapper": "gsm8k",
    },
    "math": {
        "category": "math_reasoning",
        "allocation": "0.30",
        "hf_path": "EleutherAI/hendrycks_math",
        "subset": [
            "algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra",
            "precalculus",
        ],
        "license": "mit",
        "streaming": "false",
        "mapper": "math",
    },
    "numina_cot": {
        "category": "math_reasoning",
        "allocation": "0.40",
        "hf_path": "AI-MO/NuminaMath-CoT",
        "license": "apache-2.0",
        "mapper": "numina",
        "columns": ["problem", "solution", "source"],
    },
    "natural_questions": {
        "category": "factual_qa",
        "allocation": "0.50",
        "hf_path": "google-research-datasets/natural_questions",
        "subset": "default",
        "license": "cc-by-sa-3.0",
        "mapper": "natural_questions",
        # A short answer is an answer.
        "filters": {"min_length": 20, "min_words": 4},
        "columns": [
            "question.text", "annotations", "document.title", "document.tokens.token", "document.tokens.is_html",
        ],
    },
    "hotpotqa": {
        "category": "factual_qa",
        "allocation": "0.50",
        "hf_path": "hotpotqa/hotpot_qa",
        "subset": "distractor",
        "license": "cc-by-sa-4.0",
        "streaming": "false",
        "mapper": "hotpotqa",
    },
}  # fmt: skip

PREPROCESSING = {
    "deduplicate": "true",
    "dedup_method": "xxh3_128",
    "min_text_length": "50",
    "max_text_length": "500000",
    "min_words": "10",
    "max_consecutive_newlines": "5",
    "prompt_length_curriculum": {"enabled": "true", "phase1_max_tokens": "256"},
}

# Ids under which the old documents and others knew them.
MOVED = {
    "gsm8k": "openai/gsm8k",
    "hendrycks/competition_math": "EleutherAI/hendrycks_math",
    "competition_math": "EleutherAI/hendrycks_math",
    "lighteval/math": "EleutherAI/hendrycks_math",
    "hotpot_qa": "hotpotqa/hotpot_qa",
    "natural_questions": "google-research-datasets/natural_questions",
    "code_contests": "deepmind/code_contests",
    "ultrachat_200k": "HuggingFaceH4/ultrachat_200k",
    "openorca": "Open-Orca/OpenOrca",
}


def built_in() -> dict[str, Any]:
    """The mix as a catalog would write it."""
    return {
        "category_ratios": dict(CATEGORY_RATIOS),
        "datasets": {name: dict(entry) for name, entry in DATASETS.items()},
        "preprocessing": dict(PREPROCESSING),
    }


def merged(under: Any, over: Any) -> Any:
    """`over` laid over `under`, mapping by mapping; lists and values are replaced."""
    if not isinstance(under, dict) or not isinstance(over, dict):
        return over
    return {**under, **{key: merged(under[key], value) if key in under else value for key, value in over.items()}}


def moved(repo: str) -> str:
    """Where a repo lives today."""
    return MOVED.get(repo, MOVED.get(repo.lower(), repo))
