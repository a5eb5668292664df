"""The verifier's memory answers only for the very file it has seen, and only for a while."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfassets.hub.memory import VerifyMemory

pytestmark = pytest.mark.unit

DIGEST = "c" * 64


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    """A file to remember."""
    file = tmp_path / "repo" / "blobs" / "x"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"data")
    return file


def memory_of(tmp_path: Path, **settings_: float) -> VerifyMemory:
    """The memory of the test's folder, read anew."""
    return VerifyMemory(tmp_path / "state" / "verify" / "repo.json", tmp_path / "repo", **settings_)


def test_what_is_saved_is_known_again(tmp_path: Path, blob: Path) -> None:
    """A proof survives the process that made it."""
    memory = memory_of(tmp_path)
    memory.record(blob, blob.stat(), DIGEST)
    assert memory.save()
    assert memory_of(tmp_path).lookup(blob, blob.stat()) == DIGEST
    assert list(orjson.loads(memory.file.read_bytes())["files"]) == ["blobs/x"]


@pytest.mark.parametrize("change", ["size", "mtime", "inode"])
def test_a_changed_file_is_not_vouched_for(tmp_path: Path, blob: Path, change: str) -> None:
    """Another size, time or inode: the file must be read again."""
    memory = memory_of(tmp_path)
    status = blob.stat()
    memory.record(blob, status, DIGEST)
    if change == "size":
        blob.write_bytes(b"data2")
        os.utime(blob, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "mtime":
        os.utime(blob, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    else:
        blob.rename(blob.with_name("old"))
        blob.write_bytes(b"data")
        os.utime(blob, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert memory.lookup(blob, blob.stat()) is None


def test_proofs_expire(tmp_path: Path, blob: Path) -> None:
    """After `max_age_s` a proof counts no more and is not kept; one from the future never counts."""
    memory = memory_of(tmp_path)
    memory.record(blob, blob.stat(), DIGEST)
    memory.save()
    assert memory_of(tmp_path, max_age_s=0.0).lookup(blob, blob.stat()) is None
    document = orjson.loads(memory.file.read_bytes())
    document["files"]["blobs/x"][4] = time.time() + 86400
    memory.file.write_bytes(orjson.dumps(document))
    assert memory_of(tmp_path).lookup(blob, blob.stat()) is None


def test_two_writers_lose_nothing(tmp_path: Path, blob: Path) -> None:
    """Savers that know nothing of each other keep each other's proofs, and one's forgetting is not undone."""
    first, second = memory_of(tmp_path), memory_of(tmp_path)
    other = blob.with_name("y")
    other.write_bytes(b"other")
    first.record(blob, blob.stat(), DIGEST)
    second.record(other, other.stat(), DIGEST)
    assert first.save()
    assert second.save()
    merged = memory_of(tmp_path)
    assert merged.lookup(blob, blob.stat()) == merged.lookup(other, other.stat()) == DIGEST
    first.forget(blob)
    assert first.save()
    assert second.save()
    assert memory_of(tmp_path).lookup(blob, blob.stat()) is None


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"version": 1, "files": {"x": [1]}}', b'{"version": 99}'])
def test_a_damaged_memory_is_empty(tmp_path: Path, blob: Path, damage: bytes) -> None:
    """A file that cannot be understood costs a second reading, and the next save replaces it."""
    memory = memory_of(tmp_path)
    memory.file.parent.mkdir(parents=True)
    memory.file.write_bytes(damage)
    memory = memory_of(tmp_path)
    assert memory.lookup(blob, blob.stat()) is None
    memory.record(blob, blob.stat(), DIGEST)
    assert memory.save()
    assert memory_of(tmp_path).lookup(blob, blob.stat()) == DIGEST


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, blob: Path) -> None:
    """Saving where that is impossible returns False and says why; what was proven stays known in this process."""
    (tmp_path / "state").write_bytes(b"a file where a folder should be")
    memory = memory_of(tmp_path)
    memory.record(blob, blob.stat(), DIGEST)
    assert not memory.save()
    assert memory.error
    assert "not remembered" in memory.error
    assert memory.lookup(blob, blob.stat()) == DIGEST


def test_threads_may_share_it(tmp_path: Path, blob: Path) -> None:
    """Recording from many threads while another saves loses nothing."""
    memory = memory_of(tmp_path)
    status = blob.stat()

    def record(start: int) -> None:
        for number in range(start, start + 500):
            memory.record(tmp_path / "repo" / f"{number}", status, DIGEST)

    threads = [threading.Thread(target=record, args=(500 * index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert memory.save()
    assert memory.save()
    read = memory_of(tmp_path)
    assert all(read.lookup(tmp_path / "repo" / f"{number}", status) for number in range(2000))


def test_processes_may_share_it(tmp_path: Path, blob: Path) -> None:
    """Processes that save at the same time keep each other's proofs."""
    code = (
        "import sys, pathlib; from hfassets.hub.memory import VerifyMemory\n"
        "root, me = pathlib.Path(sys.argv[1]), sys.argv[2]\n"
        "for number in range(20):\n"
        "    memory = VerifyMemory(root / 'state/verify/repo.json', root / 'repo')\n"
        "    memory.record(root / 'repo' / f'{me}-{number}', (root / 'repo/blobs/x').stat(), 'c' * 64)\n"
        "    assert memory.save()\n"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in "abc"]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    read = memory_of(tmp_path)
    assert sum(bool(read.lookup(tmp_path / "repo" / f"{me}-{n}", blob.stat())) for me in "abc" for n in range(20)) == 60


@settings(max_examples=50, deadline=None)
@given(name=st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="/\0"), min_size=1, max_size=40))
def test_any_name_is_remembered(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    """Names of any characters come back from the file as they were."""
    root = tmp_path_factory.mktemp("names")
    status = root.stat()
    memory = memory_of(root)
    path = root / "repo" / name
    memory.record(path, status, DIGEST)
    assert memory.save()
    assert memory_of(root).lookup(path, status) == DIGEST
