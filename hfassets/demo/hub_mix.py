"""The sample repos of the distillation mix: columns, odd rows and places of the real ones, texts of the library's.

Every source has some rows that a mix must not take: copies, empty answers, rows out of shape, licences of other kinds.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from hfassets.demo.hub_corpus import Documented, documented, modules
from hfassets.demo.hub_repos import write_readme

TOPICS = ("algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra",
          "precalculus")  # fmt: skip
_SYSTEM = "You explain the Python standard library to people who know how to program."
_LICENCES: tuple[list[str], ...] = (["MIT"], ["Apache-2.0"], ["PSF-2.0"], ["GPL-3.0-only"], ["MIT", "BSD-3-Clause"], [])


def _parquet(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(list(rows), schema=schema)
    pq.write_table(table, path, compression="snappy", row_group_size=200)


def _with_copies(rows: Iterable[dict[str, Any]], every: int = 17) -> Iterator[dict[str, Any]]:
    """The rows, each so many followed by a copy of an earlier one."""
    earlier: dict[str, Any] | None = None
    for number, row in enumerate(rows):
        yield row
        if number % every == 0:
            if earlier is not None:
                yield earlier
            earlier = row


def _question(item: Documented) -> str:
    return f"What does `{item.name}` of the module `{item.module.name}` do?"


def _card(folder: Path, title: str, configs: Mapping[str, Mapping[str, str]], rows: Mapping[tuple[str, str], int],
          **metadata: Any) -> None:  # fmt: skip
    """A card that names the files of each split, and tells how many rows those have that are in `rows`."""
    declared = [
        {"config_name": name, "data_files": [{"split": split, "path": path} for split, path in splits.items()]}
        for name, splits in configs.items()
    ]
    infos = [
        {"config_name": name, "splits": [{"name": split, "num_examples": rows[name, split]} for split in splits]}
        for name, splits in configs.items()
        if all((name, split) in rows for split in splits)
    ]
    write_readme(folder, {**metadata, **({"dataset_info": infos} if infos else {}), "configs": declared}, title)


def write_openhermes(folder: Path) -> None:
    """One JSON array; conversations of `from` and `value`, some with a system prompt, some that nobody answers."""
    rows: list[dict[str, Any]] = []
    for number, item in enumerate(documented()[:900]):
        turns = [{"from": "human", "value": _question(item)}, {"from": "gpt", "value": item.docstring}]
        if number % 5 == 0:
            turns.insert(0, {"from": "system", "value": _SYSTEM})
        if number % 7 == 0:
            first = item.docstring.partition("\n")[0]
            turns += [{"from": "human", "value": "And in one line?"}, {"from": "gpt", "value": first}]
        if number % 50 == 49:
            turns = turns[:-1]
        rows.append({
            "custom_instruction": None,
            "topic": item.module.name,
            "source": "airoboros2.2" if number % 2 else None,
            "category": "coding",
            "system_prompt": None,
            "conversations": None if number % 101 == 100 else turns,
        })  # fmt: skip
    folder.joinpath("openhermes2_5.json").write_bytes(
        orjson.dumps(list(_with_copies(rows)), option=orjson.OPT_INDENT_2)
    )
    write_readme(folder, {"language": ["en"], "pretty_name": "OpenHermes 2.5"}, "OpenHermes 2.5")


def write_ultrachat(folder: Path) -> None:
    """`messages` of role and content, four splits of which one is for training."""
    rows = []
    for number, item in enumerate(documented()[:800]):
        asked = _question(item) if number % 9 else f"{item.module.source[:3000]}\n\n{_question(item)}"
        said = [
            ("user", asked),
            ("assistant", item.docstring),
            ("user", "Thank you."),
            ("assistant", "You are welcome."),
        ]
        messages = [{"content": content, "role": role} for role, content in said[: 2 if number % 3 else 4]]
        rows.append({"prompt": asked, "prompt_id": hashlib.sha256(asked.encode()).hexdigest(), "messages": messages})
    copies = list(_with_copies(rows))
    _parquet(folder / "data" / "train_sft-00000-of-00002.parquet", copies[:500])
    _parquet(folder / "data" / "train_sft-00001-of-00002.parquet", copies[500:])
    _parquet(folder / "data" / "test_sft-00000-of-00001.parquet", rows[:20])
    configs = {"default": {"train_sft": "data/train_sft-*", "test_sft": "data/test_sft-*"}}
    counts = {("default", "train_sft"): len(copies), ("default", "test_sft"): 20}
    _card(folder, "UltraChat 200k", configs, counts, license="mit", language=["en"])


def write_open_orca(folder: Path) -> None:
    """`system_prompt`, `question`, `response`; some system prompts empty, some answers too."""
    rows = [
        {
            "id": f"flan.{number}",
            "system_prompt": _SYSTEM if number % 3 else "",
            "question": _question(item),
            "response": "" if number % 60 == 59 else item.docstring,
        }
        for number, item in enumerate(documented()[:700])
    ]
    _parquet(folder / "1M-GPT4-Augmented.parquet", list(_with_copies(rows)))
    write_readme(folder, {"license": "mit", "language": ["en"]}, "OpenOrca")


def git_hash(data: bytes) -> str:
    """The id of a blob, as git and Software Heritage give it."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _scripts() -> Iterator[str]:
    """Small programs in JavaScript, one a documented function."""
    for item in documented()[:300]:
        arguments = ", ".join(f"a{place}" for place in range(item.arguments))
        yield f"/**\n * {item.docstring}\n */\nexport function {item.name.replace('.', '_')}({arguments}) {{\n}}\n"


def _contents(language: str) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Rows of ids, and the content of each; every 40th content is not in its stated encoding."""
    if language == "Python":
        texts = [(module.path, module.source[:9000]) for module in modules()]
    else:
        texts = [(f"lib/{number}.js", text) for number, text in enumerate(_scripts())]
    for number, (path, text) in enumerate(texts):
        encoding = ("UTF-8", "latin1", "UTF-16")[number % 3] if text.isascii() else "UTF-8"
        data = text.encode(encoding)
        broken = number % 40 == 39
        if broken:
            encoding, data = "UTF-8", b"\xff" + data
        licences = _LICENCES[number % len(_LICENCES)] if number % 2 else ["MIT"]
        row = {
            "blob_id": git_hash(data),
            "directory_id": hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest(),
            "path": f"/{path}",
            "content_id": git_hash(data),
            "detected_licenses": licences,
            "license_type": "permissive" if licences else "no_license",
            "repo_name": "python/cpython",
            "src_encoding": encoding,
            "language": language,
            "is_vendor": False,
            "length_bytes": len(data),
            "extension": path.rpartition(".")[2],
        }
        yield row, data


def write_stack_v2(folder: Path) -> None:
    """Ids only, one config a language."""
    for language in ("Python", "JavaScript"):
        rows = list(_with_copies(row for row, _ in _contents(language)))
        _parquet(folder / "data" / language / "train-00000-of-00001.parquet", rows)
    configs = {language: {"train": f"data/{language}/*"} for language in ("Python", "JavaScript")}
    _card(folder, "The Stack v2", configs, {}, license="other", extra_gated_prompt="Terms of use")


def write_archive(folder: Path) -> None:
    """The contents that the Stack's rows name, as the archive's bucket holds them; one of them it has lost."""
    for language in ("Python", "JavaScript"):
        for number, (row, data) in enumerate(_contents(language)):
            if number == 4:
                continue
            path = folder / "content" / row["blob_id"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(data, mtime=0))


def write_code_contests(folder: Path) -> None:
    """Problems with solutions in several languages; some only in C++, some in none."""
    rows = []
    for number, item in enumerate(documented()[:500]):
        name = item.name.rpartition(".")[2]
        solutions = [(2, f"// C++\nauto {name}() {{}}\n"), (3, f"def {name}(*args):\n    return len(args)\n")]
        kept = [] if number % 29 == 28 else solutions[:1] if number % 11 == 10 else solutions
        rows.append({
            "name": f"{number}_{name}",
            "description": f"{_question(item)}\n\n{item.docstring}\n",
            "public_tests": {"input": ["1 2\n"], "output": [f"{item.arguments}\n"]},
            "private_tests": {"input": [], "output": []},
            "generated_tests": {"input": ["3\n"], "output": ["1\n"]},
            "source": 2,
            "difficulty": number % 6,
            "solutions": {"language": [one for one, _ in kept], "solution": [text for _, text in kept]},
            "incorrect_solutions": {"language": [3], "solution": ["pass"]},
            "cf_rating": 800 + number,
            "cf_tags": ["implementation"],
        })  # fmt: skip
    tests = pa.struct([("input", pa.list_(pa.string())), ("output", pa.list_(pa.string()))])
    solved = pa.struct([("language", pa.list_(pa.int64())), ("solution", pa.list_(pa.string()))])
    schema = pa.schema([
        ("name", pa.string()), ("description", pa.string()), ("public_tests", tests), ("private_tests", tests),
        ("generated_tests", tests), ("source", pa.int64()), ("difficulty", pa.int64()), ("solutions", solved),
        ("incorrect_solutions", solved), ("cf_rating", pa.int64()), ("cf_tags", pa.list_(pa.string())),
    ])  # fmt: skip
    copies = list(_with_copies(rows))
    _parquet(folder / "data" / "train-00000-of-00001.parquet", copies, schema)
    _parquet(folder / "data" / "valid-00000-of-00001.parquet", rows[:10], schema)
    configs = {"default": {"train": "data/train-*", "valid": "data/valid-*"}}
    counts = {("default", "train"): len(copies), ("default", "valid"): 10}
    _card(folder, "CodeContests", configs, counts, license=["cc-by-4.0"])


def write_math(folder: Path) -> None:
    """Seven subjects; the final answer in a box, once in a nested one."""
    for place, topic in enumerate(TOPICS):
        rows = []
        for number, item in enumerate(documented()[place * 90 : place * 90 + 80]):
            count = item.arguments
            boxed = f"\\boxed{{\\frac{{{count}}}{{2}}}}" if number % 4 == 0 else f"\\boxed{{{count}}}"
            lines = len(item.docstring.splitlines())
            solution = f"The docstring has ${lines}$ lines.\nIt names what is passed, so the answer is ${boxed}$."
            rows.append({
                "problem": f"{item.docstring}\n\nHow many arguments does `{item.name}` take?",
                "level": f"Level {number % 5 + 1}",
                "type": topic.replace("_", " ").title(),
                "solution": solution,
            })  # fmt: skip
        _parquet(folder / topic / "train-00000-of-00001.parquet", list(_with_copies(rows)))
        _parquet(folder / topic / "test-00000-of-00001.parquet", rows[:10])
    configs = {topic: {"train": f"{topic}/train-*", "test": f"{topic}/test-*"} for topic in TOPICS}
    _card(folder, "MATH", configs, {}, license="mit")


def write_numina(folder: Path) -> None:
    """Problems with a chain of thought; some without a box, one in 80 without a problem."""
    rows = []
    for number, item in enumerate(documented()[:800]):
        end = f"\\boxed{{{item.arguments}}}" if number % 6 else str(item.arguments)
        problem = None if number % 80 == 79 else f"{item.docstring}\nCount the arguments of {item.name}."
        solution = f"1. We read the signature.\n2. We count.\n\nThe answer is {end}."
        messages = [{"content": problem, "role": "user"}, {"content": solution, "role": "assistant"}]
        rows.append({"source": "synthetic_math", "problem": problem, "solution": solution, "messages": messages})
    copies = list(_with_copies(rows))
    _parquet(folder / "data" / "train-00000-of-00001.parquet", copies)
    configs = {"default": {"train": "data/train-*"}}
    _card(folder, "NuminaMath CoT", configs, {("default", "train"): len(copies)}, license="apache-2.0")


def write_natural_questions(folder: Path) -> None:
    """Nested as the real one: short answers, yes or no, a long answer as a range of tokens, or none at all."""
    rows = []
    for number, item in enumerate(documented()[:500]):
        words = ["<P>", *item.docstring.split()[:40], "</P>"]
        kind = number % 5
        short = {
            "start_token": [1],
            "end_token": [3],
            "start_byte": [0],
            "end_byte": [9],
            "text": [" ".join(words[1:3])],
        }
        none: dict[str, list[Any]] = {name: [] for name in short}
        long = {"start_token": 0, "end_token": len(words), "start_byte": 0, "end_byte": 99, "candidate_index": 0}
        nowhere = {"start_token": -1, "end_token": -1, "start_byte": -1, "end_byte": -1, "candidate_index": -1}
        rows.append({
            "id": str(number),
            "document": {
                "title": item.module.name,
                "url": f"https://docs.python.org/3/library/{item.module.name}.html",
                "html": f"<html>{item.module.source[:20000]}</html>",
                "tokens": {"token": words, "is_html": [word.startswith("<") for word in words]},
            },
            "question": {"text": f"what is {item.name} in {item.module.name} good for"},
            "annotations": {
                "id": [str(number)],
                "long_answer": [nowhere if kind == 4 else long],
                "short_answers": [short if kind < 2 else none],
                "yes_no_answer": [1 if kind == 2 else -1],
            },
        })  # fmt: skip
    _parquet(folder / "default" / "train-00000-of-00001.parquet", list(_with_copies(rows)))
    configs = {"default": {"train": "default/train-*"}}
    _card(folder, "Natural Questions", configs, {}, license="cc-by-sa-3.0")


def write_hotpot(folder: Path) -> None:
    """Paragraphs as lists of sentences, the facts that the answer rests on, and a type."""
    rows = []
    items = documented()[:600]
    for number, item in enumerate(items):
        near = [items[(number + step) % len(items)] for step in range(3)]
        sentences = [[f"{line} " for line in one.docstring.splitlines()[:4] if line.strip()] for one in near]
        rows.append({
            "id": hashlib.sha256(item.name.encode()).hexdigest()[:24],
            "question": f"Which module has {item.name}, and what is it for?",
            "answer": "yes" if number % 10 == 0 else item.module.name,
            "type": "comparison" if number % 10 == 0 else "bridge",
            "level": ("easy", "medium", "hard")[number % 3],
            "supporting_facts": {"title": [near[0].name, near[1].name], "sent_id": [0, 99 if number % 7 == 0 else 0]},
            "context": {"title": [one.name for one in near], "sentences": sentences},
        })  # fmt: skip
    _parquet(folder / "distractor" / "train-00000-of-00001.parquet", list(_with_copies(rows)))
    _parquet(folder / "distractor" / "validation-00000-of-00001.parquet", rows[:10])
    configs = {"distractor": {"train": "distractor/train-*", "validation": "distractor/validation-*"}}
    _card(folder, "HotpotQA", configs, {}, license="cc-by-sa-4.0")
