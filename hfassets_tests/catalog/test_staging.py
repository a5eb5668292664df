"""The section `staging`: what it means, and every mistake with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from hfassets.catalog.known import Record, read_record, write_record
from hfassets.catalog.load import load_catalog
from hfassets.catalog.lock import Lock, RepoLock, StagingPartition, config_errors, partitions, unsynced
from hfassets.errors import CatalogError
from hfassets.staging.from_catalog import declared

pytestmark = pytest.mark.unit

GOOD = """\
datasets:
  - {name: gsm, repo: openai/gsm8k}
staging:
  - name: gsm-512
    source: {dataset: gsm, config: main}
    tokenizer: org/tok
    block_size: 512
    missing: {validation: 0.01, test: 0.01}
  - name: pile
    source: {mirror: network/pile}
    tokenizer: {file: tok}
    remainders: drop
mds:
  - name: web
    source: {files: web}
    tokenizer: {file: tok}
"""


def pinned(repo: str, kind: str = "dataset", configs: tuple[str, ...] = (), default: str | None = None) -> RepoLock:
    """A repo as sync writes it."""
    return RepoLock(
        repo=repo,
        revision="main",
        commit="0" * 40,
        configs=configs,
        default_config=default,
        synced_at="2026-01-01T00:00:00Z",
        repo_type=kind,
    )


LOCK = Lock((pinned("openai/gsm8k", configs=("main", "socratic")), pinned("org/tok", "model")))


def catalog_of(text: str, folder: Path) -> Path:
    """A catalog on disk."""
    path = folder / "catalog.yaml"
    path.write_text(text)
    return path


def test_recipes_are_partitions_once_all_they_need_is_pinned(tmp_path: Path) -> None:
    """A mirror and a tokenizer of files need nothing; the dataset's partition comes along, also when retired."""
    catalog = load_catalog(catalog_of(GOOD, tmp_path))
    found = [one for one in partitions(catalog, LOCK) if isinstance(one, StagingPartition)]
    assert [one.key for one in found] == ["gsm-512", "pile"]
    assert found[0].dataset is not None and found[0].dataset.key == "gsm:main"
    assert found[1].dataset is None and found[1].recipe.source.mirror == tmp_path / "network/pile"
    assert [one.key for one in partitions(catalog, Lock()) if isinstance(one, StagingPartition)] == ["pile"]
    assert {one.repo for one in unsynced(catalog, Lock())} == {"openai/gsm8k", "org/tok"}
    write_record(tmp_path / "record.json", Record().accept("x", partitions(catalog, LOCK)))
    record = read_record(tmp_path / "record.json")
    assert record is not None
    again = {one.key: one for one in record.retired(()) if isinstance(one, StagingPartition)}
    assert {key: declared(one) for key, one in again.items()} == {one.key: declared(one) for one in found}
    assert all(one.retired for one in again.values())


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "dataset: gsm,",
            "dataset: gms,",
            "5 staging[0].source.dataset: no dataset 'gms' in the section datasets;",
        ),
        ("{mirror: network/pile}", "{}", "10 staging[1].source: must have a dataset of this catalog or a mirror, a"),
        ("{mirror: network/pile}", "{mirror: x, dataset: gsm}", "a folder of files; not both"),
        ("validation: 0.01, test: 0.01", "validation: 0.5, test: 0.5", "must be shares of validation and test that le"),
        ("validation: 0.01", "train: 0.01", "must be shares of validation and test that leave rows to train on"),
        ("remainders: drop", "remainders: keep", "must be carry or drop"),
        ("block_size: 512", "block_size: 0", "staging[0].block_size: must be at least 1"),
        ("name: pile", "name: gsm-512", "the name 'gsm-512' is taken by the entry on line 4"),
        ("name: pile", "name: web", "the name 'web' is taken in the section mds; choose another"),
        ("    block_size", "    blocksize", "unknown key; did you mean block_size?"),
    ],
)
def test_each_mistake_has_its_line(tmp_path: Path, old: str, new: str, line: str) -> None:
    """In the user's words."""
    assert old in GOOD
    with pytest.raises(CatalogError) as failure:
        load_catalog(catalog_of(GOOD.replace(old, new), tmp_path))
    assert line in str(failure.value)


def test_a_config_is_the_named_one_else_the_only_one_else_the_default(tmp_path: Path) -> None:
    """Otherwise it has to be named, and one that there is not is told."""
    text = GOOD.replace("dataset: gsm, config: main", "dataset: gsm")
    catalog = load_catalog(catalog_of(text, tmp_path))
    ((keys, said),) = config_errors(catalog, LOCK)
    assert keys == ("staging", 0, "source") and "gsm has several configs; it has main, socratic: name one" in said
    by_default = Lock((pinned("openai/gsm8k", configs=("main", "socratic"), default="socratic"), *LOCK.repos[1:]))
    assert not list(config_errors(catalog, by_default))
    found = [one for one in partitions(catalog, by_default) if isinstance(one, StagingPartition)]
    assert found[0].dataset is not None and found[0].dataset.config == "socratic"
    wrong = load_catalog(catalog_of(GOOD.replace("config: main", "config: man"), tmp_path))
    ((_, said),) = config_errors(wrong, LOCK)
    assert "gsm has no config 'man' in this catalog; did you mean 'main'?" in said
