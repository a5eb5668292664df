"""A manifest that was edited or damaged is never believed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfassets.errors import IntegrityError
from hfassets.storage import Manifest, OutputFile, identity_fingerprint, provenance, read_manifest, write_manifest

pytestmark = pytest.mark.unit


def sample(**changes: object) -> Manifest:
    """A manifest with something in every field."""
    fields: dict[str, object] = {
        "stage": "hub_snapshot",
        "format": 1,
        "inputs": {"repo": "ibm-research/duorc", "commit": "a" * 40},
        "parameters": {"config": "SelfRC", "seed": 7, "fraction": 0.25},
        "root": "/data/out",
        "files": (OutputFile("a.txt", 3, "0" * 64), OutputFile("b/ü.txt", 5, "1" * 64)),
        "account": {"rows_in": 10, "rows_out": 10},
        "details": {"splits": {"train": 10}},
        "recorded": provenance(),
    }
    return Manifest(**{**fields, **changes})  # type: ignore[arg-type]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """Same value, same fingerprint, sizes summed."""
    write_manifest(tmp_path / "manifest.json", sample())
    manifest = read_manifest(tmp_path / "manifest.json")
    assert manifest == sample(recorded=manifest.recorded if manifest else {})
    assert manifest is not None
    assert manifest.fingerprint == sample().fingerprint
    assert manifest.total_bytes == 8


def test_tuples_in_the_identity_are_no_damage(tmp_path: Path) -> None:
    """JSON has lists only: a manifest made with tuples is still its own."""
    write_manifest(tmp_path / "m", sample(parameters={"include": ("*.parquet",)}))
    manifest = read_manifest(tmp_path / "m")
    assert manifest is not None
    assert manifest.parameters == {"include": ["*.parquet"]}
    assert manifest.fingerprint == sample(parameters={"include": ("*.parquet",)}).fingerprint


def test_the_fingerprint_is_the_identity_and_nothing_else() -> None:
    """Root, files, account and provenance do not enter it; stage, format, inputs and parameters each do."""
    same = sample(root="/elsewhere", files=(), account={}, details={}, recorded={})
    assert same.fingerprint == sample().fingerprint
    for change in ({"stage": "x"}, {"format": 2}, {"inputs": {}}, {"parameters": {}}):
        assert sample(**change).fingerprint != sample().fingerprint
    assert identity_fingerprint("s", 1, {"a": 1, "b": 2}, {}) == identity_fingerprint("s", 1, {"b": 2, "a": 1}, {})


def test_no_manifest_is_none(tmp_path: Path) -> None:
    """Nothing there: not done."""
    assert read_manifest(tmp_path / "manifest.json") is None


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'"x"', b"null", b"{}", b'{"manifest_version": 1}', b"\xff\xfe"])
def test_what_is_no_manifest_is_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    """Cut, empty or foreign files raise IntegrityError that names the file."""
    path = tmp_path / "manifest.json"
    path.write_bytes(data)
    with pytest.raises(IntegrityError) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", sorted({*orjson.loads(orjson.dumps(sample())), "manifest_version", "fingerprint"}))
def test_every_edited_field_is_noticed(tmp_path: Path, key: str) -> None:
    """Also those outside the identity: a shortened list of files would hide missing ones."""
    path = tmp_path / "manifest.json"
    write_manifest(path, sample())
    document = orjson.loads(path.read_bytes())
    value = document[key]
    document[key] = value[:-1] if isinstance(value, str | list) else 2 if isinstance(value, int) else {"other": 1}
    path.write_bytes(orjson.dumps(document))
    with pytest.raises(IntegrityError):
        read_manifest(path)


@settings(max_examples=200)
@given(st.data())
def test_no_flipped_bit_changes_what_is_read(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """One flipped bit anywhere: refused, or (in white space) the very same manifest."""
    path = tmp_path_factory.mktemp("flip") / "manifest.json"
    whole = sample(recorded={})
    write_manifest(path, whole)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with suppress(IntegrityError):
        assert read_manifest(path) == whole
