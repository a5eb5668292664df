"""What is visible under its final name is complete, whatever kills the writer."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hfassets.storage import open_atomic, publish_directory, write_atomic
from hfassets.storage.atomic import TEMPORARY, remove_temporaries, temporary_beside

pytestmark = pytest.mark.unit

KILLED_WRITER = """
import sys, time
from pathlib import Path
from hfassets.storage import open_atomic
with open_atomic(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("ready", flush=True)
    time.sleep(60)
"""

KILLED_PUBLISHER = """
import os, sys, time
from pathlib import Path
from hfassets.storage import publish_directory
def hang(descriptor):
    print("ready", flush=True)
    time.sleep(60)
os.fsync = hang
publish_directory(Path(sys.argv[1]), Path(sys.argv[2]), replace=True)
"""


def kill_when_ready(code: str, *arguments: Path) -> None:
    """Run Python code until it prints a line, then kill -9."""
    with subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)


def folder_with(path: Path, content: str) -> Path:
    """A folder with one file and one file a level below."""
    (path / "below").mkdir(parents=True)
    (path / "a.txt").write_text(content)
    (path / "below" / "b.txt").write_text(content)
    return path


def test_a_killed_writer_leaves_the_older_file(tmp_path: Path) -> None:
    """kill -9 within open_atomic: the old content stays, the rest is a recognised temporary file."""
    path = tmp_path / "out.json"
    path.write_bytes(b"old")
    kill_when_ready(KILLED_WRITER, path)
    assert path.read_bytes() == b"old"
    left = [entry.name for entry in tmp_path.iterdir() if entry != path]
    assert len(left) == 1
    assert TEMPORARY.match(left[0])
    assert remove_temporaries(tmp_path) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.json"]


def test_a_killed_publisher_leaves_no_final_folder(tmp_path: Path) -> None:
    """kill -9 before the rename: nothing under the final name."""
    temporary = folder_with(temporary_beside(tmp_path / "out"), "new")
    kill_when_ready(KILLED_PUBLISHER, temporary, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert remove_temporaries(tmp_path) == 1


def test_an_error_in_the_body_leaves_nothing(tmp_path: Path) -> None:
    """The temporary file goes away with the exception."""
    with pytest.raises(RuntimeError), open_atomic(tmp_path / "deep" / "x") as file:
        file.write(b"half")
        raise RuntimeError
    assert list((tmp_path / "deep").iterdir()) == []


def test_write_atomic_follows_the_umask(tmp_path: Path) -> None:
    """Team folders stay group-writable: mode is 666 less the umask, not that of a private temporary file."""
    before = os.umask(0o002)
    try:
        write_atomic(tmp_path / "team" / "x", b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "team" / "x").stat().st_mode) == 0o664
    assert stat.S_IMODE((tmp_path / "team").stat().st_mode) == 0o775


def test_publishing_onto_another_writers_folder_discards_ours(tmp_path: Path) -> None:
    """Two writers of one part publish equal bytes: the later one gives up its own and says so."""
    folder_with(tmp_path / "out", "first")
    temporary = folder_with(temporary_beside(tmp_path / "out"), "second")
    assert publish_directory(temporary, tmp_path / "out") is False
    assert (tmp_path / "out" / "a.txt").read_text() == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("before", ["nothing", "empty folder", "full folder", "file", "link"])
def test_publishing_with_replace_makes_way(tmp_path: Path, before: str) -> None:
    """Whatever stands there unproven is replaced as a whole; what a link points at is not ours and stays."""
    final = tmp_path / "out"
    elsewhere = folder_with(tmp_path / "elsewhere", "theirs")
    match before:
        case "empty folder":
            final.mkdir()
        case "full folder":
            folder_with(final, "old")
            (final / "only_old.txt").touch()
        case "file":
            final.write_text("old")
        case "link":
            final.symlink_to(elsewhere)
    assert publish_directory(folder_with(temporary_beside(final), "new"), final, replace=True) is True
    assert not final.is_symlink()
    assert sorted(path.relative_to(final).as_posix() for path in final.rglob("*.txt")) == ["a.txt", "below/b.txt"]
    assert (final / "a.txt").read_text() == "new"
    assert (elsewhere / "a.txt").read_text() == "theirs"
    assert {entry.name for entry in tmp_path.iterdir()} == {"out", "elsewhere"}


def test_a_failure_that_is_no_race_is_raised(tmp_path: Path) -> None:
    """Only `not empty` means that somebody was first: any other refusal of the rename is an error."""
    final = tmp_path / "out"
    final.write_text("a file where a folder belongs")
    with pytest.raises(NotADirectoryError):
        publish_directory(folder_with(temporary_beside(final), "new"), final)
    assert final.read_text() == "a file where a folder belongs"


def test_remove_temporaries_keeps_what_is_not_ours(tmp_path: Path) -> None:
    """Names that only look alike stay."""
    for name in (".hidden", ".x.tmp", "x.0123abcd.tmp", ".x.0123ABCD.tmp"):
        (tmp_path / name).touch()
    (tmp_path / ".x.0123abcd.tmp").symlink_to(tmp_path)
    assert remove_temporaries(tmp_path) == 1
    assert len(list(tmp_path.iterdir())) == 4
