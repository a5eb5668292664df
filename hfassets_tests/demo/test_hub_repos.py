"""Ad-hoc repos: commits that follow from content, moving branches, hostile listings, reset, xet headers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from hfassets.demo.hub_body import parse_range
from hfassets.demo.hub_content import build_content
from hfassets.demo.hub_routes import parse_route
from hfassets.demo.hub_store import HubStore


@pytest.mark.unit
def test_commits_follow_from_content(tmp_path):
    """Equal files give equal commits in any order; other content, another parent or another id gives another."""
    store, other = HubStore(tmp_path / "a"), HubStore(tmp_path / "b")
    first = store.commit("o/r", {"a": b"1", "b": "2"})
    assert other.commit("o/r", {"b": b"2", "a": b"1"}) == first
    assert other.commit("o/s", {"a": b"1", "b": b"2"}) != first
    second = store.commit("o/r", {"a": b"1", "b": b"3"}, tag="v2")
    repo = store.get("dataset", "o/r")
    assert repo.branches == {"main": second}
    assert repo.resolve("main").sha == repo.resolve("v2").sha == repo.resolve(second[:10]).sha == second
    assert repo.resolve(first).files["b"].size == 1
    assert repo.resolve("nothing") is None


@pytest.mark.unit
def test_hashes_are_those_of_git_and_lfs(tmp_path):
    """git-sha1 as `git hash-object` prints it, SHA-256 and a pointer id for LFS."""
    store = HubStore(tmp_path)
    path = tmp_path / "given.parquet"
    path.write_bytes(b"hello\n")
    sha = store.commit("o/r", {"a.txt": b"hello\n", "b.parquet": path})
    files = store.get("dataset", "o/r").resolve(sha).files
    assert files["a.txt"].etag == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert files["b.parquet"].etag == hashlib.sha256(b"hello\n").hexdigest()
    assert files["b.parquet"].source == path
    assert files["b.parquet"].entry()["lfs"]["pointerSize"] == 126


@pytest.mark.unit
@given(size=st.integers(0, 50), first=st.integers(0, 60), length=st.integers(0, 60))
def test_ranges_stay_within_the_file(size, first, length):
    """Whatever the range, start and stop lie in the file and 206 always carries a byte."""
    for header in (f"bytes={first}-{first + length}", f"bytes={first}-", f"bytes=-{length}"):
        status, start, stop = parse_range(header, size)
        assert 0 <= start <= stop <= size
        assert status == 416 or start < stop or size == 0


@pytest.mark.unit
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/datasets/a/b", ("info", "dataset", "a/b", "main", "")),
        ("/api/datasets/squad", ("info", "dataset", "squad", "main", "")),
        ("/api/models/gpt2/revision/v1", ("info", "model", "gpt2", "v1", "")),
        (
            "/api/datasets/a/b/tree/refs%2Fconvert%2Fparquet/x/y",
            ("tree", "dataset", "a/b", "refs/convert/parquet", "x/y"),
        ),
        ("/datasets/a/b/resolve/refs%2Fpr%2F1/x%20y/z.txt", ("resolve", "dataset", "a/b", "refs/pr/1", "x y/z.txt")),
        ("/a/b/resolve/main/c.json", ("resolve", "model", "a/b", "main", "c.json")),
        ("/datasets/squad/resolve/main/resolve/main", ("resolve", "dataset", "squad", "main", "resolve/main")),
    ],
)
def test_routes(path, expected):
    """Ids of one step and two, encoded revisions, paths with spaces."""
    route = parse_route(path)
    assert (route.kind, route.repo_type, route.repo_id, route.revision, route.path) == expected


@pytest.mark.hub
def test_content_is_built_once(sample_hub_server):
    """A second start finds the content and changes nothing."""
    folder = build_content(sample_hub_server.root)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert build_content(sample_hub_server.root) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert sum(path.stat().st_size for path in before if path.is_file()) < 40_000_000


@pytest.mark.hub
def test_hostile_listing_is_passed_on_raw(sample_hub):
    """A listing may name anything, until it is taken back or the repo gets a new commit."""
    sample_hub.add_repo("some/evil", {"a.txt": b"a"})
    entries = [{"type": "file", "path": "../../etc/passwd", "size": 1, "oid": "0" * 40}]
    sample_hub.override_tree("some/evil", entries)
    url = f"{sample_hub.url}/api/datasets/some/evil/tree/main"
    assert requests.get(url, params={"recursive": True}, timeout=5).json() == entries
    sample_hub.override_tree("some/evil", None)
    assert [entry["path"] for entry in requests.get(url, timeout=5).json()] == ["a.txt"]


@pytest.mark.hub
def test_reset_forgets_what_a_test_added(sample_hub):
    """After a reset only the sample repos are there, with their own commits, and the handed-in bytes are gone."""
    before = sample_hub.commit("openai/gsm8k")
    sample_hub.add_repo("some/new", {"a.txt": b"not seen before"})
    assert sample_hub.add_repo("openai/gsm8k", {"README.md": b"moved"}) == sample_hub.commit("openai/gsm8k") != before
    sample_hub.remove_repo("ibm-research/duorc")
    sample_hub.reset()
    assert sample_hub.commit("openai/gsm8k") == before
    assert sample_hub.commit("ibm-research/duorc")
    with pytest.raises(KeyError):
        sample_hub.commit("some/new")
    assert sample_hub.requests == []


@pytest.mark.hub
def test_xet_headers_beside_plain_http(sample_hub):
    """A xet file names its xet hash in headers and tree, and still comes over plain HTTP, redirected or not."""
    import hf_xet

    content = bytes(range(256)) * 1000
    for redirect in (True, False):
        sample_hub.add_repo("some/xet", {"a.bin": content, "b.txt": b"b"}, xet=True, redirect=redirect)
        url = f"{sample_hub.url}/datasets/some/xet/resolve/main/a.bin"
        head = requests.head(url, timeout=5)
        assert head.status_code == (302 if redirect else 200)
        assert 'rel="xet-auth"' in head.headers["Link"]
        source = sample_hub.store.get("dataset", "some/xet").resolve("main").files["a.bin"].source
        assert head.headers["X-Xet-Hash"] == hf_xet.hash_files([str(source)])[0].hash
        assert head.headers["X-Linked-Size"] == str(len(content))
        assert requests.get(url, timeout=5).content == content
    tree = requests.get(f"{sample_hub.url}/api/datasets/some/xet/tree/main", timeout=5).json()
    assert ["xetHash" in entry for entry in tree] == [True, False]


@pytest.mark.hub
def test_unmodified_client_downloads_over_xet(hub_env, sample_hub):
    """With xet on, the client takes a xet file in segments from the xet paths, and the bytes are the same."""
    content = bytes(range(256)) * 80_000 + b"an odd end"
    sample_hub.add_repo("some/xet", {"a.bin": content}, xet=True)
    done = hub_env.python(
        """
        from huggingface_hub import snapshot_download
        print(snapshot_download("some/xet", repo_type="dataset"))
        """
    )
    assert (Path(done.stdout.strip()) / "a.bin").read_bytes() == content
    xorbs = [request for request in sample_hub.requests if request.path.startswith("/xet/xorbs/")]
    assert len(xorbs) == 3
    assert sample_hub.bytes_sent("/cdn/*") == 0
