"""The inventory agrees with the library, and sees what the library does not."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import scan_cache_dir

from hfassets.hub.inventory import RepoInventory, inventory
from hfassets.hub.verify import verify_cache

pytestmark = pytest.mark.unit


def by_id(rows: tuple[RepoInventory, ...]) -> dict[str, RepoInventory]:
    """Rows by repo id."""
    return {row.repo_id: row for row in rows}


def fill(cache: Any) -> None:
    """Repos of all types, a content that two paths and two commits share, and one without links."""
    cache.add("a.bin", cache.content(1000))
    cache.add("copy/of/a.bin", cache.content(1000), commit=cache.other, ref="v1")
    cache.add("b.bin", cache.content(500, 2), commit=cache.other, ref="v1")
    cache.add("m.bin", cache.content(3000, 3), repo_id="tiny", repo_type="model")
    file = cache.repo("org/real").snapshot(cache.commit) / "data" / "r.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"real")


def test_sizes_are_those_of_the_library(cache: Any) -> None:
    """Bytes, files, revisions, refs and times of every repo are what scan_cache_dir reports."""
    fill(cache)
    rows = by_id(inventory(cache.hub, cache.state))
    scanned = scan_cache_dir(cache.hub)
    assert not scanned.warnings
    assert {repo.repo_id for repo in scanned.repos} == set(rows)
    for repo in scanned.repos:
        row = rows[repo.repo_id]
        assert (row.repo_type, row.bytes, row.files) == (repo.repo_type, repo.size_on_disk, repo.nb_files)
        assert (row.modified, row.accessed) == (repo.last_modified, repo.last_accessed)
        theirs = {(r.commit_hash, tuple(sorted(r.refs)), r.nb_files, r.size_on_disk) for r in repo.revisions}
        assert {(r.commit, r.refs, r.files, r.bytes) for r in row.revisions} == theirs
    assert sum(row.bytes for row in rows.values()) == scanned.size_on_disk


def test_orphans_leftovers_and_the_store_are_counted(cache: Any) -> None:
    """Blobs that no snapshot links, broken-off downloads, and the shared store, which 0.36 does not know."""
    fill(cache)
    (cache.repo().snapshot(cache.other) / "b.bin").unlink()
    cache.repo().blob("f" * 64).with_suffix(".incomplete").write_bytes(b"part")
    cache.add_stored("s.bin", cache.content(700, 9), repo_id="org/shared")
    rows = by_id(inventory(cache.hub, cache.state))
    row = rows["org/name"]
    assert (row.orphans, row.orphan_bytes, row.leftovers, row.leftover_bytes) == (1, 500, 1, 4)
    assert (row.bytes, row.blobs) == (1000, 2)
    assert (rows["shared store"].repo_type, rows["shared store"].bytes) == ("store", 700)
    assert rows["org/shared"].bytes == 700


def test_repos_that_the_library_gives_up_on_are_listed(cache: Any) -> None:
    """A dangling link makes scan_cache_dir leave the repo out; here it has a row."""
    cache.add("a.bin", cache.content(1000)).unlink()
    cache.add("b.bin", b"b")
    assert scan_cache_dir(cache.hub).warnings
    (row,) = inventory(cache.hub, cache.state)
    assert (row.bytes, row.files) == (1, 1)


def test_proofs_are_those_of_the_memory(cache: Any) -> None:
    """`last_verified` is the oldest proof, and there is none while any blob has none."""
    fill(cache)
    assert by_id(inventory(cache.hub, cache.state))["org/name"].last_verified is None
    verify_cache(cache.hub, state=cache.state)
    rows = by_id(inventory(cache.hub, cache.state))
    assert rows["org/name"].proven == rows["org/name"].blobs == 2
    assert rows["org/name"].last_verified
    assert rows["org/real"].proven == 0
    cache.add("new.bin", b"new")
    row = by_id(inventory(cache.hub, cache.state))["org/name"]
    assert (row.proven, row.blobs, row.last_verified) == (2, 3, None)


def test_rows_are_json(cache: Any) -> None:
    """For metadata and for `--json`."""
    import orjson

    fill(cache)
    document = orjson.loads(orjson.dumps([row.to_dict() for row in inventory(cache.hub, cache.state)]))
    assert {row["repo_id"] for row in document} == {"org/name", "tiny", "org/real"}
