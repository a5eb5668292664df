"""Any key becomes one safe path component, and no two keys the same one."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfassets.storage import StateDir
from hfassets.storage.state import LONGEST_NAME, file_name

pytestmark = pytest.mark.unit

KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=400) | st.text("./%~ a", max_size=300)


@given(KEYS)
def test_a_name_is_one_safe_component(key: str) -> None:
    """No separator, no step, not hidden, short enough for suffixes and temporary names."""
    name = file_name(key)
    assert name
    assert not set(name) & set("/\\\0 ")
    assert not name.startswith(".")
    assert len(name.encode()) <= LONGEST_NAME
    root = Path("/state")
    assert (root / f"{name}.json").parent == root
    assert StateDir(root).manifest("hub", key).parent == root / "manifests" / "hub"


@given(KEYS)
def test_short_keys_can_be_read_back(key: str) -> None:
    """A person, or a program, sees the key in the name."""
    name = file_name(key)
    if "%~" not in name:
        assert unquote(name) == key or (key, name) == ("", "%")


@given(KEYS, KEYS)
def test_different_keys_have_different_names(one: str, other: str) -> None:
    """Also when they are long and differ only at their end."""
    assert (file_name(one) == file_name(other)) == (one == other)


def test_long_keys_that_differ_at_the_end() -> None:
    """The hash of the whole key tells them apart, and such a file can really be made."""
    names = {file_name("org/" + "näme" * 100 + str(number)) for number in range(10)}
    assert len(names) == 10


def test_long_names_fit_the_file_system(tmp_path: Path) -> None:
    """A key of 5,000 bytes can be recorded."""
    path = StateDir(tmp_path).manifest("hub", "k" * 5000)
    path.parent.mkdir(parents=True)
    path.with_name(f".{path.name}.0123abcd.tmp").touch()
    path.touch()
