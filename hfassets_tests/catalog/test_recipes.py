"""The sections `mds`, `mixtures` and `extensions`: what they mean, and every mistake with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hfassets.catalog.known import Record, read_record, write_record
from hfassets.catalog.load import load_catalog
from hfassets.catalog.lock import Lock, MixturePartition, RecipePartition, RepoLock, partitions, unsynced
from hfassets.errors import CatalogError
from hfassets.mds.from_catalog import Recipes, declared

pytestmark = pytest.mark.unit

GOOD = """\
validation: {seed: 3, fraction: 0.01}
c4:
  - name: web-2k
    num_samples: 2000
mds:
  - name: web
    source: {c4: web-2k}
    tokenizer: org/tok
    chunks: {size: 1024, minimum: 800, skip: 500, backfill: true, duplicates: false}
  - name: math
    source: {repo: openai/gsm8k, config: main}
    columns: {text: question}
    tokenizer: {repo: org/tok, revision: v2}
    chunks: {size: 1024, mode: best_fit, add_eos: true}
    validation: 0.005
  - name: web-long
    source: {c4: web-2k}
    tokenizer: org/tok
    chunks: {size: 4096}
mixtures:
  - name: phase-1
    members: {web: 0.7, math: 0.3}
    tokens: 1000000
extensions:
  - name: long
    domains: {web: 1.0}
    tokens: 1000
    chunks: {size: 8192}
    buckets: {8192: 0.5, 16384: 0.5}
"""


def pinned(repo: str, mark: str, **more: Any) -> RepoLock:
    """What the lock says of a repo."""
    base: dict[str, Any] = {"revision": "main", "configs": (), "default_config": None, "synced_at": ""}
    return RepoLock(**{**base, "repo": repo, "commit": mark * 40, **more})


LOCK = Lock(
    (
        pinned("allenai/c4", "a", configs=("en",), default_config="en"),
        pinned("openai/gsm8k", "b"),
        pinned("org/tok", "c", repo_type="model"),
        pinned("org/tok", "d", revision="v2", repo_type="model"),
    )
)


def catalog_of(text: str, folder: Path) -> Path:
    """A file."""
    path = folder / "catalog.yaml"
    path.write_text(text)
    return path


def test_recipes_mixtures_and_extensions_are_partitions(tmp_path: Path) -> None:
    """With the commits of their sources and tokenizers; those of what is not synchronised are not there yet."""
    catalog = load_catalog(catalog_of(GOOD, tmp_path))
    found = {one.key: one for one in partitions(catalog, LOCK)}
    assert list(found) == ["web-2k", "web", "math", "web-long", "phase-1", "long"]
    math, phase = found["math"], found["phase-1"]
    assert isinstance(math, RecipePartition) and (math.commit, math.tokenizer_commit) == ("b" * 40, "d" * 40)
    assert isinstance(phase, MixturePartition) and list(phase.members) == ["web", "math"]
    without = Lock(tuple(one for one in LOCK.repos if one.repo != "openai/gsm8k"))
    assert [one.key for one in partitions(catalog, without)] == ["web-2k", "web", "web-long", "long"]
    assert [one.repo for one in unsynced(catalog, without)] == ["openai/gsm8k"]


def test_recipes_with_the_same_beginning_share_folders(tmp_path: Path) -> None:
    """Text by source, tokens by tokenizer, chunks by rule; another fraction for validation is another text."""
    catalog = load_catalog(catalog_of(GOOD, tmp_path))
    recipes = Recipes(catalog)
    web, math, long = catalog.mds
    assert recipes.text_root(web) == recipes.text_root(long) != recipes.text_root(math)
    assert recipes.tokens_root(web) == recipes.tokens_root(long)
    assert recipes.chunks_root(web) != recipes.chunks_root(long)
    assert recipes.text_root(web).parent == tmp_path / "data/mds/text"
    assert recipes.tokens_root(web).parent.name == "tokenized_tok"
    assert recipes.chunks_root(web).parent.name == "chunked-tok-1024-800-500-backfill-nodups"
    other = load_catalog(catalog_of(GOOD.replace("fraction: 0.01", "fraction: 0.02"), tmp_path))
    assert Recipes(other).text_root(other.mds[0]) != recipes.text_root(web)
    of = {one.key: one for one in partitions(catalog, LOCK)}
    versions = {
        key: declared("chunked_mds", one, catalog) for key, one in of.items() if isinstance(one, RecipePartition)
    }
    assert len(set(versions.values())) == 3


def test_retired_recipes_are_remembered_whole(tmp_path: Path) -> None:
    """With their members, so that a backfill that targets them goes on."""
    catalog = load_catalog(catalog_of(GOOD, tmp_path))
    current = partitions(catalog, LOCK)
    write_record(tmp_path / "record.json", Record().accept("x", current))
    record = read_record(tmp_path / "record.json")
    assert record is not None
    retired = {one.key: one for one in record.retired(current[:1])}
    for one in current[1:]:
        again = retired[one.key]
        assert again.retired
        assert isinstance(again, RecipePartition | MixturePartition) and isinstance(
            one, RecipePartition | MixturePartition
        )
        assert declared("s", again, catalog) == declared("s", one, catalog)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("{c4: web-2k}", "{c4: web-3k}", "7 mds[0].source.c4: no shard set 'web-3k' in the section c4; did you mean"),
        ("{c4: web-2k}", "{}", "7 mds[0].source: must have one of repo, files, urls, mds, c4, distillation, not none"),
        (
            "{c4: web-2k}",
            "{c4: web-2k, files: x}",
            "must have one of repo, files, urls, mds, c4, distillation, not files and",
        ),
        ("tokenizer: {repo: org/tok, revision: v2}", "tokenizer: {}", "must name a repo of the Hub or a file"),
        (
            "skip: 500",
            "skip: 900",
            "9 mds[0].chunks: cannot be followed: chunk size 1024, minimum 800",
        ),
        ("validation: 0.005", "validation: 0.05", "15 mds[1].validation: is more than the catalog's fraction 0.01"),
        ("math: 0.3", "math: 0.2", "must be shares above 0 that add up to 1, not 0.9"),
        ("web: 0.7, math", "web: 0.7, maths", "no recipe 'maths' in the section mds; did you mean 'math'?"),
        ("name: web-long", "name: web", "the name 'web' is taken by the entry on line 6"),
        ("name: long", "name: phase-1", "the name 'phase-1' is taken by another entry; choose another"),
        ("name: phase-1", "name: web", "the name 'web' is taken by a recipe; choose another"),
        ("name: phase-1", "name: a/b", "must be letters, digits, dots, dashes and underscores only"),
        ("    tokens: 1000\n    chunks", "    chunks", "it says how many tokens of documents are drawn"),
        ("  - name: math\n    source", "  - source", "mds[1].name"),
    ],
)
def test_each_mistake_has_its_line(tmp_path: Path, old: str, new: str, line: str) -> None:
    """In the user's words."""
    assert old in GOOD
    with pytest.raises(CatalogError) as failure:
        load_catalog(catalog_of(GOOD.replace(old, new), tmp_path))
    assert line in str(failure.value)
