"""Rows of source files as objects: all formats, from any row on, against plain readers."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from hfassets.demo.hub_faults import Fault
from hfassets.demo.hub_server import SampleHub
from hfassets.errors import DataError
from hfassets.hub.layout import RepoCache
from hfassets.hub.listing import RepoFile
from hfassets.hub.options import hub_options
from hfassets.hub.session import HubClient
from hfassets.sources import records as module
from hfassets.sources.files import LocalSource, RemoteSource
from hfassets.sources.packed import BadRow, rows_of
from hfassets.sources.records import records

pytestmark = pytest.mark.unit

texts = st.text(max_size=40)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(texts, values, max_size=4)


def local(path: Path, name: str | None = None) -> LocalSource:
    """A file as a source of the Hub cache."""
    return LocalSource(RepoFile(name or path.name, path.stat().st_size, "0" * 64), path)


def rows(source: Any, skip: int = 0, columns: list[str] | None = None) -> list[Any]:
    """All rows from `skip` on; the numbers of the blocks are checked on the way."""
    found: list[Any] = []
    for block in records(source, skip, columns):
        assert block.first == skip + len(found)
        found += block.rows
    packed: list[Any] = []
    for block in records(source, skip, columns, packed=True):
        assert block.first == skip + len(packed)
        packed += rows_of(block.rows)
    assert packed == found
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(objects | values, max_size=30),
    st.integers(0, 35),
    st.sampled_from(["jsonl", "json.gz", "jsonl.zst", "array", "array.gz"]),
    st.integers(1, 50),
)
def test_json_rows_are_those_of_the_standard_parser(
    tmp_path_factory: pytest.TempPathFactory, content: list[Any], skip: int, kind: str, window: int
) -> None:
    """Lines and arrays, plain and compressed, from any row on, however small the windows are."""
    path = tmp_path_factory.mktemp("r") / f"x.{'json' if kind == 'array' else kind.replace('array', 'json')}"
    if kind == "json.gz":
        # Only a name like x.jsonl promises that a bracket begins a line and not an array.
        content = [{}, *content]
    indent = 1 if window % 2 else None
    array = json.dumps(content, indent=indent, ensure_ascii=False)
    data = (array if "array" in kind else "".join(f"{json.dumps(one)}\n" for one in content)).encode()
    data = gzip.compress(data) if kind.endswith("gz") else zstandard.compress(data) if kind.endswith("zst") else data
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_WINDOW", window)
        patch.setattr(module, "_LINES", max(1, window // 5))
        found = rows(local(path), skip)
    expected = [one if isinstance(one, dict) else BadRow for one in content[skip:]]
    assert [BadRow if isinstance(one, BadRow) else one for one in found] == expected


def test_what_is_no_row_is_told_in_its_place(tmp_path: Path) -> None:
    """Blank lines, torn lines and values that are no objects keep their numbers."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a":1}\n\n{"a":\n[1]\n{"a":2}')
    first, blank, torn, array, last = rows(local(path))
    assert (first, blank, last) == ({"a": 1}, None, {"a": 2})
    assert "at byte" in torn.reason
    assert array == BadRow("a list, not an object")


@pytest.mark.parametrize("harm", ['[{"a":1},{"a":"x', '[{"a":1} {"a":2}]', '[{"a":1},{"a" 2}]', '[{"a":1}'])
def test_a_damaged_array_is_an_error_that_names_it(tmp_path: Path, harm: str) -> None:
    """Cut or torn: never a shorter list of rows."""
    path = tmp_path / "x.json"
    path.write_text(harm)
    with pytest.raises(DataError, match=r"x\.json.*(damaged|array)"):
        rows(local(path))


def nested(count: int) -> pa.Table:
    """Rows with structs, lists, nulls and a wide column."""
    return pa.Table.from_pylist(
        [
            {
                "question": {"text": f"q{n}", "tokens": ["a", None]},
                "answers": [{"text": [f"a{n}"], "start": [n]}] if n % 3 else [],
                "n": None if n % 5 == 0 else n,
                "wide": f"{n} " * 2000,
            }
            for n in range(count)
        ]
    )


def parquet(table: pa.Table, group: int) -> bytes:
    """The table in row groups of so many rows."""
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=group, compression="none", use_dictionary=False)
    return sink.getvalue()


@pytest.mark.parametrize("skip", [0, 1, 7, 10, 39, 40, 99])
def test_parquet_rows_from_any_row_on_are_the_tables(tmp_path: Path, skip: int) -> None:
    """Whatever the row groups are, with all columns or some, named within structs."""
    table = nested(40)
    path = tmp_path / "x.parquet"
    path.write_bytes(parquet(table, 7))
    assert rows(local(path), skip) == table.to_pylist()[skip:]
    some = [{"question": {"text": row["question"]["text"]}, "n": row["n"]} for row in table.to_pylist()[skip:]]
    assert rows(local(path), skip, ["question.text", "n", "not_there"]) == some


def test_a_large_parquet_file_costs_only_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First rows of two columns: the server sends a small part of the file, and resuming skips row groups."""
    monkeypatch.setattr(module, "WHOLE_BELOW", 1)
    table = nested(3000)
    with SampleHub(tmp_path / "hub", content=False) as hub:
        hub.add_repo("team/wide", {"x.parquet": parquet(table, 500)})
        with HubClient(hub_options(endpoint=hub.url, backoff_factor=0.01)) as client:
            commit = client.resolve_commit("team/wide")
            (file,) = (one for one in client.list_files("team/wide", commit).files if one.path == "x.parquet")
            source = RemoteSource(client, RepoCache(tmp_path / "c", "team/wide"), commit, file, tmp_path / "spool")
            hub.reset_log()
            found = []
            for block in records(source, 1200, ["question.text", "n"]):
                found += block.rows
                if len(found) >= 300:
                    break
            assert found[:300] == [
                {"question": {"text": row["question"]["text"]}, "n": row["n"]} for row in table.to_pylist()[1200:1500]
            ]
            assert file.size > 15_000_000
            assert hub.bytes_sent("*x.parquet") < file.size / 20
            hub.set_faults(Fault("cut", path="*x.parquet", every=2, after=1000))
            assert rows(source) == table.to_pylist()


def test_empty_files_have_no_rows(tmp_path: Path) -> None:
    """Nothing, an empty array, a table without rows."""
    for name, data in (("a.jsonl", b""), ("b.json", b" [ ] "), ("c.parquet", parquet(nested(2).slice(0, 0), 1))):
        (tmp_path / name).write_bytes(data)
        assert rows(local(tmp_path / name)) == []


def test_a_long_row_crosses_many_windows(tmp_path: Path) -> None:
    """One object of 20 MB among small ones, in an array and as a line."""
    content = [{"a": "x"}, {"a": "é" * 10_000_000}, {"a": "y"}]
    (tmp_path / "x.json").write_bytes(orjson.dumps(content))
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(map(orjson.dumps, content)))
    assert rows(local(tmp_path / "x.json")) == content
    assert rows(local(tmp_path / "x.jsonl")) == content
