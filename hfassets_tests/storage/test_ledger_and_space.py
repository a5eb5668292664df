"""The ledger believes only whole entries; space is asked for before it is used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hfassets.errors import SpaceError
from hfassets.storage import read_entries, read_entry, record_damage, record_intact, require_space
from hfassets.storage.state import file_name

pytestmark = pytest.mark.unit


def test_entries_come_back_in_the_order_asked(tmp_path: Path) -> None:
    """A partition never verified is None; long keys are found too."""
    long = "org/name:" + "x" * 500
    one = record_intact(tmp_path, "org/name:default", "v1", 10)
    other = record_damage(tmp_path, long, "v1", 20, ["b.txt 11", "a.txt 00"], 5, purged=True)
    assert other.damage == ("a.txt 00", "b.txt 11")
    versions = {long: "v1", "never": "v1", "org/name:default": "v1"}
    assert list(read_entries(tmp_path, versions)) == [(long, other), ("never", None), ("org/name:default", one)]
    assert list(read_entries(tmp_path / "nowhere", {"a": "v1"})) == [("a", None)]


def test_a_proof_of_another_version_is_none(tmp_path: Path) -> None:
    """When the catalog moves to a newer commit, neither proof nor damage of the older one counts."""
    record_intact(tmp_path, "a", "v1", 10)
    record_damage(tmp_path, "b", "v1", 10, ["x 0"], 1, purged=False)
    assert list(read_entries(tmp_path, {"a": "v2", "b": "v2"})) == [("a", None), ("b", None)]


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"verified_at": 1, "size": 2, "damage": [], "new_key": 1}'])
def test_a_damaged_entry_means_verify_again(tmp_path: Path, data: bytes) -> None:
    """It is read as never verified, not as intact."""
    (tmp_path / f"{file_name('a')}.json").write_bytes(data)
    assert read_entry(tmp_path, "a") is None


def test_an_incident_keeps_its_hash_until_it_is_over(tmp_path: Path) -> None:
    """Damage found again is the same incident; other files, or the same ones after a repair, are a new one."""
    first = record_damage(tmp_path, "a", "v1", 9, ["x 0"], 1, purged=False)
    again = record_damage(tmp_path, "a", "v1", 9, ["x 0"], 1, purged=False)
    more = record_damage(tmp_path, "a", "v1", 9, ["x 0", "y 1"], 2, purged=False)
    record_intact(tmp_path, "a", "v1", 9)
    later = record_damage(tmp_path, "a", "v1", 9, ["x 0"], 1, purged=False)
    assert first.damage_hash == again.damage_hash
    assert len({first.damage_hash, more.damage_hash, later.damage_hash}) == 3


def test_too_little_space_names_the_place_and_what_is_missing(tmp_path: Path) -> None:
    """Bytes and inodes are both asked for, also of a folder that does not exist yet."""
    require_space(tmp_path / "not" / "yet", 1, 1)
    with pytest.raises(SpaceError, match=r"not/yet: needs 1\.0 PB, .* free: .* missing"):
        require_space(tmp_path / "not" / "yet", 10**15, 1)


def test_too_few_inodes_are_an_error_where_there_is_a_limit(tmp_path: Path) -> None:
    """A file system that counts no inodes never refuses for want of them."""
    if os.statvfs(tmp_path).f_files == 0:
        require_space(tmp_path, 1, 10**15)
    else:
        with pytest.raises(SpaceError, match="inodes"):
            require_space(tmp_path, 1, 10**15)
