"""Hashes are the Hub's, and the page cache is left as it was."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfassets.hub import pagecache
from hfassets.hub.hashing import READ_SIZE, hash_file, new_hash, xet_hash

pytestmark = pytest.mark.unit

MB = 1_000_000


def resident_pages(path: Path) -> int:
    """Pages of a file in the page cache, by mincore(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    size = path.stat().st_size
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as view:
        vector = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        address = ctypes.c_char.from_buffer(view)
        assert libc.mincore(ctypes.byref(address), ctypes.c_size_t(size), vector) == 0
        del address
        return sum(page & 1 for page in vector)


def evict(path: Path) -> None:
    """Write a file out and drop its pages."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=300) | st.integers(READ_SIZE - 2, 2 * READ_SIZE + 2).map(lambda size: b"x" * size))
def test_hash_is_sha256_and_git_blob_id(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Files of any size hash to what hashlib and git say, and every byte is counted once."""
    file = tmp_path_factory.getbasetemp() / "file"
    file.write_bytes(data)
    counts: list[int] = []
    assert hash_file(file, "sha256", counts.append) == hashlib.sha256(data).hexdigest()
    assert sum(counts) == len(data)
    assert hash_file(file, "git-sha1") == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def test_git_agrees(tmp_path: Path) -> None:
    """git itself gives the same blob id."""
    file = tmp_path / "file"
    file.write_bytes(b"some text\n")
    told = subprocess.run(["git", "hash-object", file], capture_output=True, text=True, check=True)
    assert hash_file(file, "git-sha1") == told.stdout.strip()


def test_unknown_algorithm_is_refused() -> None:
    """An algorithm that no blob is named by is an error that names those that are."""
    with pytest.raises(ValueError, match="sha256, git-sha1"):
        new_hash("md5", 1)


@pytest.fixture(params=["new kernel", "older kernel"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the calls of Linux 6.5 and 6.14, and as if the kernel had none of them."""
    if request.param == "older kernel":
        monkeypatch.setattr(pagecache, "_RWF_DONTCACHE", 1 << 30)
        monkeypatch.setattr(pagecache, "_SYS_CACHESTAT", 1 << 20)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("size", [100_000, 70 * MB])
def test_pages_only_we_brought_in_are_dropped(tmp_path: Path, size: int) -> None:
    """A file nobody had in memory is not in memory after it was hashed; neither by the store's hash."""
    file = tmp_path / "file"
    file.write_bytes(b"\xab" * size)
    evict(file)
    if resident_pages(file):
        pytest.skip("this file system does not drop pages when asked")
    assert hash_file(file, "sha256")
    assert resident_pages(file) <= 0.02 * size / mmap.PAGESIZE
    evict(file)
    assert xet_hash(file)
    assert resident_pages(file) <= 0.02 * size / mmap.PAGESIZE


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("size", [100_000, 70 * MB])
def test_pages_of_others_stay(tmp_path: Path, size: int) -> None:
    """A file that a job keeps in memory is still there, all of it, after it was hashed."""
    file = tmp_path / "file"
    file.write_bytes(b"\xab" * size)
    before = resident_pages(file)
    assert before == -(-size // mmap.PAGESIZE)
    hash_file(file, "sha256")
    xet_hash(file)
    # The kernel itself may take a page back at any time.
    assert resident_pages(file) > 0.9 * before


def test_a_part_that_others_have_in_memory_stays(tmp_path: Path) -> None:
    """Of a file of which a job uses a part, that part stays and the rest goes again."""
    file = tmp_path / "file"
    file.write_bytes(b"\xab" * (130 * MB))
    evict(file)
    if resident_pages(file):
        pytest.skip("this file system does not drop pages when asked")
    with file.open("rb", buffering=0) as used:
        os.posix_fadvise(used.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(used.fileno(), 8 * MB, 40 * MB)
    used_pages = resident_pages(file)
    hash_file(file, "sha256")
    assert 0.9 * used_pages <= resident_pages(file) <= used_pages + 0.02 * 130 * MB / mmap.PAGESIZE


def test_files_of_others_are_probed(tmp_path: Path) -> None:
    """Where the kernel hides what is in memory (files of other users), reading without waiting tells."""
    file = tmp_path / "file"
    file.write_bytes(b"\xab" * (40 * MB))
    with file.open("rb") as opened:
        assert pagecache._any_at_hand(opened.fileno(), 0, 40 * MB)
        evict(file)
        if resident_pages(file):
            pytest.skip("this file system does not drop pages when asked")
        assert pagecache.absent_ranges(opened.fileno(), 0, 4096 * 100) == [(0, 4096 * 100)]
        os.pread(opened.fileno(), 10, 4096 * 50)
        ranges = pagecache.absent_ranges(opened.fileno(), 0, 4096 * 50 + 1)
        assert ranges[0][0] == 0
        assert sum(length for _, length in ranges) <= 4096 * 50
