"""Quarantine moves damage out of a cache and leaves one that every library can read."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from huggingface_hub import scan_cache_dir

from hfassets.hub.quarantine import QuarantineResult, quarantine, read_quarantine
from hfassets.hub.scan import STORE
from hfassets.hub.verify import VerifyReport, verify_cache
from hfassets.storage.state import StateDir

pytestmark = pytest.mark.unit


def check(cache: Any) -> VerifyReport:
    """Verify the hand-made cache."""
    return verify_cache(cache.hub, state=cache.state)


def clean(cache: Any) -> QuarantineResult:
    """Verify, quarantine, and see that nothing is wrong any more and the library has nothing to say."""
    result = quarantine(cache.state, check(cache).faults)
    assert check(cache).faults == ()
    warnings = [str(warning) for warning in scan_cache_dir(cache.hub).warnings]
    # What newer versions leave is strange to 0.36 whatever we do.
    assert [text for text in warnings if f"{cache.hub / STORE}" not in text] == []
    return result


def records(cache: Any) -> list[dict[str, Any]]:
    """All records, oldest first."""
    return [orjson.loads(file.read_bytes()) for file in sorted(cache.state.quarantine.glob("list/*.json"))]


def test_a_damaged_blob_is_moved_with_all_its_links(cache: Any) -> None:
    """Two commits link it: both links go, the bytes lie in the state folder, and the record says all of it."""
    blob = cache.add("a.bin", b"a" * 100)
    cache.add("sub/a.bin", b"a" * 100, commit=cache.other, ref=None)
    kept = cache.add("b.bin", b"b")
    blob.write_bytes(b"damaged")
    result = clean(cache)
    assert (len(result.moved), result.links_removed, result.not_moved) == (1, 2, ())
    (record,) = records(cache)
    assert (record["repo"], record["commit"], record["path"]) == ("org/name", cache.commit, "a.bin")
    assert (record["etag"], record["why"].split(":")[0]) == (blob.name, "corrupt")
    moved = Path(record["moved_to"])
    assert moved.read_bytes() == b"damaged"
    assert moved.parent == cache.state.quarantine / "datasets--org--name"
    assert kept.exists()
    assert (cache.repo().snapshot(cache.commit) / "b.bin").exists()


def test_a_second_time_does_nothing(cache: Any) -> None:
    """The same faults again: nothing is moved, nothing fails."""
    cache.add("a.bin", b"a").write_bytes(b"b")
    cache.add("b.bin", b"b").unlink()
    faults = check(cache).faults
    assert len(quarantine(cache.state, faults).moved) == 2
    again = quarantine(cache.state, faults)
    assert (again.moved, again.not_moved) == ((), ())
    assert len(records(cache)) == 2


def test_every_kind_of_fault_leaves_a_clean_cache(cache: Any) -> None:
    """Missing blobs, wrong and foreign links, leftovers, folders, bad refs and trees: gone, and all recorded."""
    blobs = [cache.add(f"{number}.bin", cache.content(50, number)) for number in range(6)]
    blobs[0].unlink()
    blobs[1].unlink()
    blobs[1].mkdir()
    (blobs[1] / "inside").touch()
    pointers = cache.repo().snapshot(cache.commit)
    (pointers / "2.bin").unlink()
    (pointers / "2.bin").symlink_to("/etc/hostname")
    blobs[3].with_name("f" * 64 + ".incomplete").write_bytes(b"part")
    cache.repo().ref("broken").write_text("")
    tree = cache.add_tree({"5.bin": (cache.content(50, 4), True)})
    (tree.parent / f"{cache.other}.json").write_text("{")
    cache.add("x.bin", b"x", commit=cache.other, ref=None)
    kinds = set(check(cache).kinds)
    assert kinds == {"missing", "not-a-file", "foreign-link", "leftover", "bad-ref", "bad-tree", "wrong-link"}
    result = clean(cache)
    assert result.not_moved == ()
    assert {record["why"].split(":")[0] for record in records(cache)} == kinds


def test_files_of_a_cache_without_links_are_moved(cache: Any) -> None:
    """A real file in a snapshot goes itself."""
    cache.add_tree({"a.bin": (b"right", True)})
    file = cache.repo().snapshot(cache.commit) / "a.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"wrong")
    result = clean(cache)
    assert not file.exists()
    assert Path(result.moved[0].moved_to or "").read_bytes() == b"wrong"
    assert result.moved[0].is_missed


def test_a_store_file_goes_with_the_links_of_all_repos(cache: Any) -> None:
    """The payload is moved, not just a link to it, and each repo has a record of what it lost."""
    stored = cache.add_stored("a.bin", cache.content(500))
    cache.add_stored("b.bin", cache.content(500), repo_id="org/second")
    stored.write_bytes(b"damaged")
    faults = verify_cache(cache.hub, state=cache.state, repos={"org/second"}).faults
    assert len(faults) == 1
    quarantine(cache.state, faults)
    assert not stored.exists()
    assert check(cache).faults == ()
    lost = {(entry.repo, *entry.links[0][:2]) for entry in read_quarantine(cache.state, [cache.hub])}
    assert lost == {("org/name", cache.commit, "a.bin"), ("org/second", cache.commit, "b.bin")}


def test_on_another_file_system_it_goes_beside_the_cache(cache: Any) -> None:
    """A state folder elsewhere: renamed beside the cache, never copied across, never into the cache."""
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK) or shm.stat().st_dev == cache.hub.parent.stat().st_dev:
        pytest.skip("needs a second file system")
    blob = cache.add("a.bin", b"a")
    blob.write_bytes(b"b")
    inode = blob.stat().st_ino
    result = subprocess.run(["mktemp", "-d", "-p", shm], capture_output=True, text=True, check=True).stdout.strip()
    try:
        state = StateDir(Path(result))
        (moved,) = quarantine(state, check(cache).faults).moved
        target = Path(moved.moved_to or "")
        assert target.is_relative_to(cache.hub.with_name("hub.quarantine"))
        assert target.stat().st_ino == inode
        assert [entry.file for entry in read_quarantine(state, [cache.hub])] == [str(blob)]
        assert list(state.quarantine.glob("**/*.json")) == []
    finally:
        subprocess.run(["rm", "-r", result], check=True)


def test_what_was_replaced_since_stays(cache: Any) -> None:
    """A blob that another process has put right after the verification is not moved."""
    blob = cache.add("a.bin", b"a")
    blob.write_bytes(b"b")
    faults = check(cache).faults
    blob.unlink()
    blob.write_bytes(b"a")
    result = quarantine(cache.state, faults)
    assert result.moved == ()
    assert "changed since" in result.not_moved[0][1]
    assert check(cache).intact


def test_what_may_not_be_moved_is_listed(cache: Any, public_folder: Path, as_nobody: Any) -> None:
    """With reading rights alone nothing is touched, everything is listed, nothing is raised."""
    cache = replace(cache, hub=public_folder / "hub", state=StateDir(public_folder / "state"))
    blobs = [cache.add(f"{number}.bin", bytes([number])) for number in range(3)]
    for blob in blobs:
        blob.write_bytes(b"damaged")
    cache.state.root.mkdir()
    cache.state.root.chmod(0o777)

    def move() -> Any:
        result = quarantine(cache.state, check(cache).faults)
        return [len(result.moved), [reason.split(":")[0] for _, reason in result.not_moved], len(records(cache))]

    assert as_nobody(move) == [0, ["Permission denied"] * 3, 0]
    assert all(blob.exists() for blob in blobs)


@pytest.mark.parametrize("step", ["_write_record", "_move", "_remove_links"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_between_any_two_steps_it_is_finished_by_the_next(cache: Any, step: str, when: str) -> None:
    """SIGKILL before or after each step: a second verify and quarantine end as one that was not killed."""
    blob = cache.add("a.bin", b"a" * 100)
    cache.add("b.bin", b"b")
    blob.write_bytes(b"damaged")
    code = (
        "import os, signal, sys; from pathlib import Path; from hfassets.hub import quarantine as module\n"
        "from hfassets.hub.verify import verify_cache; from hfassets.storage.state import StateDir\n"
        "step, when, state = sys.argv[3], sys.argv[4], StateDir(Path(sys.argv[2]))\n"
        "real = getattr(module, step)\n"
        "def fatal(*args, **kwargs):\n"
        "    if when == 'after': real(*args, **kwargs)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "setattr(module, step, fatal)\n"
        "module.quarantine(state, verify_cache(Path(sys.argv[1]), state=state).faults)\n"
    )
    arguments = [str(cache.hub), str(cache.state.root), step, when]
    assert subprocess.run([sys.executable, "-c", code, *arguments], check=False).returncode == -9
    if (step, when) != ("_remove_links", "after"):
        assert {fault.path for fault in check(cache).faults} == {"a.bin"}
    clean(cache)
    entries = read_quarantine(cache.state, [cache.hub])
    moved = [Path(entry.moved_to) for entry in entries if entry.moved_to]
    assert [file.read_bytes() for file in moved] == [b"damaged"]
    assert {(commit, path) for entry in entries for commit, path, _ in entry.links} == {(cache.commit, "a.bin")}
    assert all(entry.is_missed for entry in entries)
