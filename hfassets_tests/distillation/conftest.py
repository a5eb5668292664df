"""Small sources of every format, files of a mix made of them, and the plain way to the same rows."""

from __future__ import annotations

import gzip
import io
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hfassets.demo.hub_server import SampleHub
from hfassets.distillation.candidates import Filters
from hfassets.distillation.make import make_source_file
from hfassets.distillation.output import SourceFile
from hfassets.distillation.request import Curriculum, SourceRequest
from hfassets.hub.layout import RepoCache
from hfassets.hub.options import hub_options
from hfassets.hub.session import HubClient
from hfassets.progress import ProgressCallback, silent
from hfassets.storage.state import StateDir

REPO = "team/qa"
WORDS = ["data", "of", "the", "web", "café", "—", "\U0001f409", "a\n\n\n\n\n\n\nb", '"x"']


def row(number: int) -> Any:
    """Questions and answers; every 7th is a copy, every 11th is not as it should be, some are short or empty."""
    if number % 11 == 10:
        return {"question": None, "answer": number}
    if number % 13 == 12:
        return {"question": f"What is {number}?", "answer": "  "}
    choose = random.Random(number - number % 7 if number % 7 == 6 else number)
    return {
        "question": " ".join(choose.choices(WORDS, k=choose.randint(1, 60))),
        "answer": " ".join(choose.choices(WORDS, k=choose.randint(1, 30))) + f"\n#### {choose.randint(1, 9)}",
    }


def rows(count: int) -> list[Any]:
    """The first rows of the source."""
    return [row(number) for number in range(count)]


def files_of(kind: str, content: Sequence[Any], files: int = 3) -> dict[str, bytes]:
    """The rows as files of a repo, spread over several."""
    each = -(-len(content) // files)
    spread = [content[start : start + each] for start in range(0, len(content), each)]
    return {f"data/train-{index}.{kind}": _encoded(kind, part) for index, part in enumerate(spread)}


def _encoded(kind: str, content: Sequence[Any]) -> bytes:
    if kind == "parquet":
        sink = io.BytesIO()
        clean = [{**one, "answer": one["answer"] if isinstance(one["answer"], str) else None} for one in content]
        pq.write_table(pa.Table.from_pylist(clean), sink, row_group_size=37)
        return sink.getvalue()
    if kind == "json":
        return orjson.dumps(content)
    lines = b"".join(orjson.dumps(one) + b"\n" for one in content)
    return gzip.compress(lines, mtime=0) if kind.endswith("gz") else lines


@dataclass
class Work:
    """A Hub with sources, and a folder for what is made of them."""

    hub: SampleHub
    root: Path
    notes: list[Any] = field(default_factory=list)

    def add(self, content: Sequence[Any], kind: str = "jsonl.gz", repo: str = REPO, files: int = 3) -> None:
        """A source of these rows."""
        self.hub.add_repo(repo, files_of(kind, content, files))

    def request(self, quota: int, **given: Any) -> SourceRequest:
        """One file of a mix."""
        repo = given.pop("repo_id", REPO)
        folder = given.pop("folder", "out")
        base: dict[str, Any] = {
            "mix": "m",
            "source": "qa",
            "category": "math",
            "repo": RepoCache(self.root / "cache", repo),
            "commit": self.hub.commit(repo),
            "output": self.root / folder,
            "state": StateDir(self.root / folder / ".state"),
            "mapper": "gsm8k",
            "filters": Filters(min_length=20, max_length=600, min_words=5, newlines=5),
        }
        return SourceRequest(**{**base, **given, "quota": quota})

    def make(self, quota: int, progress: ProgressCallback = silent, **given: Any) -> SourceFile:
        """The file, made."""
        options = hub_options(endpoint=self.hub.url, backoff_factor=0.01)
        with HubClient(options, progress) as client:
            return make_source_file(client, self.request(quota, **given), progress)


@pytest.fixture
def work(sample_hub: SampleHub, tmp_path: Path) -> Work:
    """A clean place and a Hub that is well."""
    return Work(sample_hub, tmp_path)


def plainly(
    content: Sequence[Any],
    quota: int,
    is_short: Callable[[str], bool] = lambda prompt: True,
    phase: int = 0,
) -> tuple[list[str], Counter[str]]:
    """The texts of a file of `quota` rows and what became of the rows read, one row after the other, all in memory."""
    texts: list[str] = []
    counts: Counter[str] = Counter()
    waiting: list[str] = []
    seen: set[str] = set()

    def add(text: str) -> None:
        if text in seen:
            counts["duplicate"] += 1
        else:
            seen.add(text)
            texts.append(text)

    for one in content:
        if len(texts) == quota:
            break
        counts["read"] += 1
        if not isinstance(one["question"], str) or not isinstance(one["answer"], str):
            counts["malformed"] += 1
            continue
        prompt = f"user: {one['question']}"
        text = f"{prompt}\nassistant: {one['answer']}"
        while "\n" * 6 in text:
            text = text.replace("\n" * 6, "\n" * 5)
        if not one["answer"].strip():
            counts["empty"] += 1
        elif len(text) < 20:
            counts["too_short"] += 1
        elif len(text) > 600:
            counts["too_long"] += 1
        elif len(text.split()) < 5:
            counts["few_words"] += 1
        elif len(texts) < phase and not is_short(prompt):
            waiting.append(text)
        else:
            add(text)
    while waiting and len(texts) < quota:
        add(waiting.pop(0))
    counts["passed_over"] = len(waiting)
    return texts, counts


def written(made: SourceFile) -> list[dict[str, Any]]:
    """The records of a file."""
    return [orjson.loads(line) for line in made.path.read_bytes().splitlines()]


def tree(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of an output, but for what records times, hosts and places."""
    for path in sorted(folder.rglob("*.jsonl")):
        yield path.relative_to(folder).as_posix(), path.read_bytes()


@pytest.fixture
def curriculum(sample_hub: SampleHub, tmp_path: Path) -> Curriculum:
    """Prompts of fewer than 40 tokens first."""
    options = hub_options(endpoint=sample_hub.url)
    with HubClient(options) as client:
        commit = client.resolve_commit("EleutherAI/pythia-70m", repo_type="model")
        data = client.read_file("EleutherAI/pythia-70m", commit, "tokenizer.json", repo_type="model")
    path = tmp_path / "tokenizer.json"
    path.write_bytes(data)
    return Curriculum(40, path, f"EleutherAI/pythia-70m@{commit}")
