"""Staging: every file, whatever its name, proven; goes on when killed; nothing left behind where there is no room."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import orjson
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfassets.errors import DataError, PartialFailureError, SpaceError
from hfassets.staging import Staged, StagingRequest, read_tree, stage_tree
from hfassets.staging import copy as copying
from hfassets.staging.copy import verify_staged
from hfassets.staging.tree import STAGED, SourceFile, listing_mark
from hfassets.storage.manifest import Manifest, OutputFile, write_manifest
from hfassets_tests.dagster_service import wait_for

HOSTILE = [
    b"plain",
    b"with space",
    b"with 'quote' and \"quotes\"",
    b"with\nnewline",
    b"-rf",
    b"$(touch x)",
    b"*",
    b"\xff\xfe not utf-8",
    b"#;&|`\\",
    "ümläut \u202e".encode(),
    b".hidden",
    b"x" * 250,
]


def fill(root: Path, seed: int = 0, sizes: tuple[int, ...] = (0, 1, 10_000, 3_000_000)) -> Path:
    """Files with hostile names of some sizes, in folders with hostile names."""
    random.seed(seed)
    for number, name in enumerate(HOSTILE):
        folder = root / os.fsdecode(HOSTILE[number // 4]) if number % 2 else root
        if folder.is_file():
            folder = root / "below"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / os.fsdecode(b"f " + name[:200])).write_bytes(random.randbytes(sizes[number % len(sizes)]))
    return root


def content(root: Path) -> dict[str, bytes]:
    """All plain files below a folder but for what staging writes, by path."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files if path.name not in (STAGED,)}


def stage(source: Path, to: Path, workers: int = 2, *, hashed: bool = True) -> Staged:
    """Stage a folder."""
    return stage_tree(StagingRequest(read_tree(source), to, workers, hashed))


@pytest.mark.parametrize(("few", "hashed"), [(100, True), (100, False), (0, True)])
def test_every_file_arrives_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int, hashed: bool
) -> None:
    """By threads, as few files, or by processes, as many: the same bytes and times; a second time nothing is copied; a
    changed source brings what has changed.
    """
    monkeypatch.setattr(copying, "_FEW", few)
    source = fill(tmp_path / "source")
    first = stage(source, tmp_path / "to", hashed=hashed)
    assert content(tmp_path / "to") == content(source)
    assert (first.copied_files, first.files) == (len(HOSTILE), len(HOSTILE)) and first.bytes == first.copied_bytes
    times = {one.path: one.mtime_ns for one in read_tree(source).files}
    assert {one.path: one.mtime_ns for one in read_tree(tmp_path / "to").files} == times
    assert stage(source, tmp_path / "to", hashed=hashed).copied_files == 0
    (source / "new").write_text("new")
    changed = source / os.fsdecode(b"f plain")
    changed.write_bytes(b"changed")
    gone = next(path for path in source.rglob("f*") if path.is_file() and path != changed)
    gone.unlink()
    assert stage(source, tmp_path / "to", hashed=hashed).copied_files == 2
    assert content(tmp_path / "to") == content(source)


FOLDERS = st.lists(st.sampled_from("ab -'\n"), min_size=1, max_size=3)


@given(st.lists(st.tuples(FOLDERS, st.integers(0, 5000)), min_size=1, max_size=12))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_tree_is_copied_exactly(
    tmp_path_factory: pytest.TempPathFactory, tree: list[tuple[list[str], int]]
) -> None:
    """Whatever folders and sizes."""
    root = tmp_path_factory.mktemp("tree")
    for number, (names, size) in enumerate(tree):
        folder = root.joinpath("source", *(f"d{name}" for name in names))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}").write_bytes(bytes([number % 256]) * size)
    stage(root / "source", root / "to", workers=1)
    assert content(root / "to") == content(root / "source")


def test_a_link_is_followed_and_one_in_the_target_is_not(tmp_path: Path) -> None:
    """A copy holds files; what a link in the target points at is never written to."""
    source, precious = fill(tmp_path / "source"), tmp_path / "precious"
    precious.write_text("precious")
    (source / "linked").symlink_to(source / os.fsdecode(b"f plain"))
    stage(source, tmp_path / "to")
    assert not (tmp_path / "to/linked").is_symlink() and (tmp_path / "to/linked").read_bytes() == b""
    (tmp_path / "to/linked").unlink()
    (tmp_path / "to/linked").symlink_to(precious)
    assert stage(source, tmp_path / "to").copied_files == 1
    assert precious.read_text() == "precious" and content(tmp_path / "to") == content(source)
    (source / "loop").symlink_to(source)
    with pytest.raises(DataError, match="it would never end"):
        read_tree(source)


def with_manifest(root: Path) -> Path:
    """An output of ours: its hashes are known."""
    files = tuple(
        OutputFile(path.name, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(root.iterdir())
    )
    write_manifest(root / "manifest.json", Manifest("trial", 1, {}, {}, ".", files))
    return root


def test_what_is_not_what_the_manifest_says_does_not_count(tmp_path: Path) -> None:
    """A flipped bit in the source is found while it is copied; the others arrive, and the folder is not finished."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(4):
        (source / f"{number}.bin").write_bytes(bytes([number]) * 1000)
    with_manifest(source)
    about = (source / "2.bin").stat()
    (source / "2.bin").write_bytes(b"\x02" * 999 + b"\x03")
    os.utime(source / "2.bin", ns=(about.st_atime_ns, about.st_mtime_ns))
    with pytest.raises(PartialFailureError, match=r"2\.bin: its SHA-256 is not what the manifest says"):
        stage(source, tmp_path / "to")
    with pytest.raises(DataError, match="not finished"):
        verify_staged(tmp_path / "to")
    (source / "2.bin").write_bytes(b"\x02" * 1000)
    assert stage(source, tmp_path / "to").copied_files == 1
    (source / "3.bin").unlink()
    with pytest.raises(DataError, match=r"3\.bin: gone; its manifest has it"):
        read_tree(source)


def test_a_copy_that_was_changed_is_found(tmp_path: Path) -> None:
    """By its hashes; one that was made without cannot be proven, and says so."""
    source = fill(tmp_path / "source")
    stage(source, tmp_path / "to")
    assert verify_staged(tmp_path / "to") == []
    victim = max((tmp_path / "to").rglob("f*"), key=lambda path: path.stat().st_size)
    victim.write_bytes(b"x" * victim.stat().st_size)
    (fault,) = verify_staged(tmp_path / "to")
    assert "not what was copied" in fault
    stage(source, tmp_path / "fast", hashed=False)
    with pytest.raises(DataError, match="staged without hashes"):
        verify_staged(tmp_path / "fast")
    assert stage(source, tmp_path / "fast").copied_files == len(HOSTILE)
    assert verify_staged(tmp_path / "fast") == []


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    """Not empty and not staged by us: one line, and nothing is touched; so is a target in the source."""
    source = fill(tmp_path / "source")
    (tmp_path / "to").mkdir()
    (tmp_path / "to/thesis.tex").write_text("years")
    with pytest.raises(DataError, match="not empty, and not staged by hfassets"):
        stage(source, tmp_path / "to")
    assert content(tmp_path / "to") == {"thesis.tex": b"years"}
    for target in (source / "inside", tmp_path):
        with pytest.raises(DataError, match="in the source itself, or around it"):
            stage(source, target)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
@pytest.mark.parametrize(
    ("options", "told"), [("size=1m", "are missing, nothing was copied"), ("nr_inodes=6", "can be made")]
)
def test_no_room_is_one_line_and_leaves_nothing(tmp_path: Path, options: str, told: str) -> None:
    """Bytes or inodes: said before anything is copied."""
    source, small = fill(tmp_path / "source"), tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", small], check=True)
    try:
        with pytest.raises(SpaceError, match=told):
            stage(source, small / "to")
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_what_was_copied_anew_without_hashes_is_proven_by_no_older_hash(tmp_path: Path) -> None:
    """Asked for proof again, the file is copied again, and the copy verified by what it now is."""
    source, to = tmp_path / "source", tmp_path / "to"
    source.mkdir()
    for number, content in enumerate((b"before", b"behind")):
        (source / "one.bin").write_bytes(content)
        os.utime(source / "one.bin", (number, number))
        stage(source, to, hashed=number == 0)
    assert stage(source, to).copied_files == 1
    assert verify_staged(to) == []


@pytest.mark.parametrize(
    ("workers", "files", "size", "streams"),
    [(2, 20, 1 << 20, 4), (2, 20, 1000, 2), (20, 9, 1 << 30, 32), (64, 9, 1 << 30, 64), (3, 10_001, 1 << 20, 3)],
)
def test_of_large_files_two_a_worker_are_copied_at_once(workers: int, files: int, size: int, streams: int) -> None:
    """Up to 32; more only where there are more workers. Small ones, and very many, one a worker."""
    assert copying._streams(workers, [SourceFile(str(number), size, 0) for number in range(files)]) == streams


_KILLED = """
import os, signal, sys
from pathlib import Path
from hfassets.staging import StagingRequest, copy, read_tree, stage_tree
told = 0
def progress(event):
    global told
    told += 1
    if told == 5:
        os.kill(os.getpid(), signal.SIGKILL)
if __name__ == "__main__":
    copy._FEW = int(sys.argv[3])
    stage_tree(StagingRequest(read_tree(Path(sys.argv[1])), Path(sys.argv[2]), 2), progress)
"""


@pytest.mark.parametrize("few", [100, 0])
def test_a_run_that_is_killed_goes_on(tmp_path: Path, few: int) -> None:
    """By threads or by processes: what has arrived is not copied again, all is proven, and no process of it is left."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(40):
        (source / f"{number}.bin").write_bytes(random.randbytes(1_500_000))
    script = tmp_path / "script.py"
    script.write_text(_KILLED)
    command = [sys.executable, str(script), str(source), str(tmp_path / "to"), str(few)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "STAGED_BY": str(tmp_path)}
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    wait_for("its workers to end", lambda: not _processes(f"STAGED_BY={tmp_path}"))
    done = stage(source, tmp_path / "to")
    assert 0 < done.copied_files <= 36
    assert verify_staged(tmp_path / "to") == [] and content(tmp_path / "to") == content(source)


def _processes(variable: str) -> list[str]:
    """Those that have it in their environment."""
    found = []
    for place in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            found += [place.parent.name] if variable.encode() in place.read_bytes().split(b"\0") else []
    return found


def test_two_jobs_on_a_node_share_one_copy(tmp_path: Path) -> None:
    """The second waits for the first, and copies nothing."""
    source = fill(tmp_path / "source")
    found: list[Staged] = []
    threads = [threading.Thread(target=lambda: found.append(stage(source, tmp_path / "to", 1))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.copied_files for one in found) == [0, len(HOSTILE)]


LISTED = """\
import sys
from pathlib import Path
from hfassets.staging import StagingRequest, read_tree, stage_tree
from hfassets.staging.ahead import TargetListing
to = Path(sys.argv[2])
mark = TargetListing(to).mark()
request = StagingRequest(read_tree(Path(sys.argv[1])), to)
print(stage_tree(request, listing=TargetListing(to)).copied_files, mark)
"""


def listed(source: Path, to: Path) -> tuple[int, str]:
    """Files that are copied now and the target's mark before, by a process that has no threads, as the command is."""
    command = [sys.executable, "-c", LISTED, str(source), str(to)]
    copied, mark = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split(" ")
    return int(copied), mark.strip()


def test_a_target_that_is_listed_beforehand_is_as_good_as_one_that_is_looked_at(tmp_path: Path) -> None:
    """Whatever the names: all there is seen by the listing's mark, a change of one file makes another mark."""
    source, to = fill(tmp_path / "source"), tmp_path / "to"
    stage(source, to)
    mark = listing_mark((one.path, one.size, one.mtime_ns) for one in read_tree(source).files)
    assert listed(source, to) == (0, mark)
    lost = next(path for path in to.rglob("*") if path.is_file() and path.name not in (STAGED,))
    lost.write_bytes(b"other")
    copied, other = listed(source, to)
    assert copied == 1
    assert other != mark
    assert content(to) == content(source)


@pytest.mark.parametrize("known", [True, False])
def test_files_longer_than_a_block_are_proven(tmp_path: Path, *, known: bool) -> None:
    """A large file is hashed on its way, by SHA-256 where the manifest has it, else by XXH3; and can be verified."""
    source = tmp_path / "source"
    source.mkdir()
    data = random.Random(1).randbytes(9_000_001)
    (source / "big").write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    if known:
        made = Manifest("x", 1, {}, {}, ".", (OutputFile("big", len(data), sha256),))
        write_manifest(source / "manifest.json", made)
    stage(source, tmp_path / "to")
    digests = orjson.loads((tmp_path / "to" / STAGED).read_bytes())["hashes"]
    assert digests["big"] == (sha256 if known else f"xxh3:{xxhash.xxh3_128_hexdigest(data)}")
    assert verify_staged(tmp_path / "to") == []
    with (tmp_path / "to" / "big").open("r+b") as file:
        file.seek(8_999_999)
        file.write(b"\0\0")
    assert verify_staged(tmp_path / "to") == ["big: not what was copied"]


@pytest.mark.drill
@pytest.mark.parametrize("hashed", [True, False])
def test_within_a_file_system_that_can_a_copy_shares_the_blocks_of_its_source(tmp_path: Path, *, hashed: bool) -> None:
    """On btrfs ten copies of 20 MB take no room, and are equal and proven."""
    image, place = tmp_path / "image", tmp_path / "btrfs"
    with image.open("wb") as file:
        file.truncate(300 << 20)
    place.mkdir()
    subprocess.run(["mkfs.btrfs", "-q", image], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        (place / "source").mkdir()
        (place / "source" / "big").write_bytes(random.Random(1).randbytes(20_000_001))
        os.sync()
        before = os.statvfs(place).f_bavail
        for number in range(10):
            stage(place / "source", place / f"to-{number}", hashed=hashed)
            assert content(place / f"to-{number}") == content(place / "source")
            assert not hashed or verify_staged(place / f"to-{number}") == []
        os.sync()
        assert (before - os.statvfs(place).f_bavail) * os.statvfs(place).f_frsize < 20_000_000
    finally:
        subprocess.run(["umount", place], check=True)
