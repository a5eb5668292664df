"""Tests of `hfassets.hub.holders`."""

from __future__ import annotations

import os
from pathlib import Path

from hfassets.hub.holders import open_files


def test_an_open_file_is_found_behind_descriptors_that_are_closed_meanwhile(tmp_path: Path) -> None:
    """The listing's own takes the lowest free number, and is gone when it is asked after; the others are there."""
    file = tmp_path / "a.bin"
    file.touch()
    lower = [os.open(tmp_path, os.O_RDONLY) for _ in range(4)]
    with file.open():
        for descriptor in lower:
            os.close(descriptor)
        assert open_files([file]) == {file}
    assert open_files([file]) == set()
