"""Verification finds each kind of damage in each kind of cache, and invents none."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfassets.errors import HfassetsError
from hfassets.hub.layout import RepoCache
from hfassets.hub.listing import Listing, RepoFile
from hfassets.hub.listings import keep_listing
from hfassets.hub.memory import VerifyMemory
from hfassets.hub.verify import VerifyReport, list_repos, verify_cache, verify_files
from hfassets.progress import Progress
from hfassets.storage.state import StateDir

pytestmark = pytest.mark.unit


def flip(file: Path, offset: int, mask: int = 1) -> None:
    """Flip bits of one byte in place."""
    data = bytearray(file.read_bytes())
    data[offset] ^= mask
    file.write_bytes(data)


def check(cache: Any, **options: Any) -> VerifyReport:
    """Verify the hand-made cache."""
    return verify_cache(cache.hub, state=cache.state, **options)


@pytest.fixture
def healthy(cache: Any) -> Any:
    """A cache that many versions have written: all layouts, all repo types, nothing wrong."""
    cache.add("README.md", b"read me\n", lfs=False)
    cache.add("data/train/part-0.parquet", cache.content(300_000))
    cache.add("data/empty.txt", b"", lfs=False)
    cache.add("data/train/part-0.parquet", cache.content(300_000), commit=cache.other, ref=None)
    cache.add("model.safetensors", cache.content(5_000), repo_id="tiny", repo_type="model")
    cache.add("app.py", b"print()\n", repo_id="org/app", repo_type="space", lfs=False)
    cache.add_stored("shared.bin", cache.content(40_000, 7))
    cache.add_stored("shared.bin", cache.content(40_000, 7), repo_id="org/second")
    tree = {"here.txt": (b"here", False), "never/asked.bin": (b"not here", True)}
    cache.add("here.txt", b"here", repo_id="org/tree", lfs=False)
    cache.add_tree(tree, repo_id="org/tree")
    folder = cache.repo().folder
    (folder / ".no_exist" / cache.commit).mkdir(parents=True)
    (folder / ".no_exist" / cache.commit / "missing.json").touch()
    (folder / "refs" / "refs" / "pr").mkdir(parents=True)
    (folder / "refs" / "refs" / "pr" / "1").write_text("f" * 40)  # a download that never got to its first file
    locks = cache.hub / ".locks" / cache.repo().folder_name
    locks.mkdir(parents=True)
    (locks / f"{cache.etag_of(b'read me', lfs=False)}.lock").touch()
    (cache.hub / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55")
    (cache.hub / "version.txt").write_text("1")
    return cache


def test_a_healthy_cache_of_all_layouts_is_intact(healthy: Any) -> None:
    """SHA-256 and git names, models, spaces, the shared store, trees, locks and markers: no fault, all proven."""
    report = check(healthy)
    assert report.faults == ()
    assert report.unverifiable == ()
    assert report.not_downloaded == 1
    assert set(report.repo_ids) == {"org/name", "tiny", "org/app", "org/second", "org/tree"}
    # Five blobs of their own, two links into the store, the store's file by its own name, and the tree repo's.
    assert report.checked == 9


def test_a_second_look_reads_nothing(healthy: Any) -> None:
    """What was proven is remembered, the store's files too; `full` reads it again."""
    first, second, full = check(healthy), check(healthy), check(healthy, full=True)
    assert (second.checked, second.bytes_read, second.remembered) == (0, 0, first.checked)
    assert second.bytes_proven == first.bytes_proven
    assert (full.checked, full.bytes_read) == (first.checked, first.bytes_read)
    assert second.intact
    assert full.intact


def test_damage_that_only_full_can_see_is_not_forgotten_again(cache: Any) -> None:
    """Bytes that changed under an unchanged time: `full` finds them, and from then on every verification does."""
    blob = cache.add("a.bin", cache.content(100))
    check(cache)
    before = blob.stat()
    flip(blob, 50)
    os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert check(cache).intact
    assert one(check(cache, full=True)).kind == "corrupt"
    assert one(check(cache)).kind == "corrupt"


@pytest.mark.parametrize("place", ["home", "bare", "both"])
def test_the_kind_of_cache_folder_is_detected(cache: Any, tmp_path: Path, place: str) -> None:
    """HF_HOME, a hub cache without a `hub/` level, or old repos beside `hub/`: each is found."""
    home = tmp_path / "home"
    cache.add("a.bin", cache.content(10))
    shutil.copytree(cache.hub, home / "hub" if place != "bare" else home, symlinks=True)
    if place == "both":
        shutil.copytree(cache.repo().folder, home / "datasets--org--older", symlinks=True)
    (home / "datasets").mkdir()
    repos = [row.repo_id for row in list_repos(home)]
    assert repos == (["org/name", "org/older"] if place == "both" else ["org/name"])
    assert verify_cache(home, state=cache.state).checked == len(repos)


def test_folders_that_are_no_cache_are_refused(cache: Any, tmp_path: Path) -> None:
    """No folder, a folder of something else, a repo that is not there: one line that says so."""
    with pytest.raises(HfassetsError, match="no such folder"):
        verify_cache(tmp_path / "nowhere", state=cache.state)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(HfassetsError, match="neither HF_HOME nor a hub cache"):
        verify_cache(tmp_path / "other", state=cache.state)
    cache.add("a.bin", b"a")
    with pytest.raises(HfassetsError, match=r"org/absent is not in .*org/name"):
        check(cache, repos={"org/absent"})
    (tmp_path / "empty").mkdir()
    assert verify_cache(tmp_path / "empty", state=cache.state).intact


def test_only_the_repos_named_are_read(healthy: Any) -> None:
    """With `repos`, other repos and the store are left alone."""
    report = check(healthy, repos={"tiny"})
    assert (report.repo_ids, report.checked) == (("tiny",), 1)


def damaged_files(cache: Any) -> list[Path]:
    """Every file of the cache that carries data under a hash."""
    files = [*cache.hub.glob("*--*/blobs/*"), *cache.hub.glob("blobs/??/" + "[0-9a-f]" * 64)]
    return sorted(file for file in files if file.is_file() and not file.is_symlink() and file.stat().st_size)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_flipped_byte_is_found_and_nothing_else(make_cache: Any, data: Any) -> None:
    """Any bit of any byte of any file: exactly that file is called corrupt, and the memory does not cover it up."""
    cache = make_cache()
    cache.add("README.md", b"read me\n", lfs=False)
    cache.add("data/a.bin", cache.content(3000))
    cache.add("model.bin", cache.content(50, 3), repo_id="tiny", repo_type="model")
    cache.add_stored("s.bin", cache.content(400, 5))
    cache.add_stored("s.bin", cache.content(400, 5), repo_id="org/second")
    files = damaged_files(cache)
    assert len(files) == 4
    file = data.draw(st.sampled_from(files))
    assert check(cache).intact
    flip(file, data.draw(st.integers(0, file.stat().st_size - 1)), 1 << data.draw(st.integers(0, 7)))
    report = check(cache)
    assert {(fault.kind, fault.file.resolve()) for fault in report.faults} == {("corrupt", file)}
    shared = file.is_relative_to(cache.hub / "blobs")
    assert len(report.faults) == (2 if shared else 1)  # two repos need the store's file


def one(report: VerifyReport) -> Any:
    """The only fault of a report."""
    assert len(report.faults) == 1, report.faults
    return report.faults[0]


@pytest.mark.parametrize("known", ["never", "tree", "before"])
def test_truncation_is_told_where_the_size_is_known(cache: Any, known: str) -> None:
    """A short file is truncated when a tree or an earlier proof tells its size, and corrupt when nothing does."""
    blob = cache.add("a.bin", cache.content(1000))
    if known == "tree":
        cache.add_tree({"a.bin": (cache.content(1000), True)})
    if known == "before":
        assert check(cache).intact
    blob.write_bytes(cache.content(1000)[:400])
    fault = one(check(cache))
    assert fault.kind == ("corrupt" if known == "never" else "truncated")
    assert ("400 of 1,000 bytes" in fault.detail) == (known != "never")
    assert (fault.commit, fault.path, fault.expected) == (cache.commit, "a.bin", blob.name)


def test_an_emptied_file_is_truncated(cache: Any) -> None:
    """No bytes at all needs no known size."""
    cache.add("a.bin", cache.content(1000)).write_bytes(b"")
    assert one(check(cache)).kind == "truncated"


def test_a_missing_blob_is_one_fault_with_all_its_links(cache: Any) -> None:
    """A blob that two commits link: one fault that names both places."""
    blob = cache.add("a.bin", b"a" * 100)
    cache.add("b/a.bin", b"a" * 100, commit=cache.other)
    cache.add("c.bin", b"c")
    blob.unlink()
    fault = one(check(cache))
    assert (fault.kind, fault.file) == ("missing", blob)
    assert fault.links == ((cache.commit, "a.bin"), (cache.other, "b/a.bin"))


def test_what_a_tree_lists_and_nobody_fetched_is_not_missing(cache: Any) -> None:
    """A partial download: the tree lists the whole repo, only what a snapshot links can be missing."""
    tree = {name: (name.encode(), True) for name in ("a.bin", "b.bin", "c.bin")}
    blob = cache.add("a.bin", b"a.bin")
    cache.add_tree(tree)
    assert (check(cache).intact, check(cache).not_downloaded) == (True, 2)
    blob.unlink()
    report = check(cache)
    assert (one(report).kind, one(report).path, report.not_downloaded) == ("missing", "a.bin", 2)


@pytest.mark.parametrize("how", ["tree", "kept", "given"])
def test_a_link_to_the_wrong_blob_is_found(cache: Any, how: str) -> None:
    """A link to another file's healthy blob: seen with any listing of the commit."""
    right, wrong = cache.add("a.bin", b"right"), cache.add("b.bin", b"wrong")
    listing = Listing("org/name", cache.commit, (RepoFile("a.bin", 5, right.name), RepoFile("b.bin", 5, wrong.name)))
    pointer = cache.repo().snapshot(cache.commit) / "a.bin"
    pointer.unlink()
    cache.link(cache.repo(), cache.commit, "a.bin", wrong)
    assert check(cache).intact
    if how == "tree":
        cache.add_tree({"a.bin": (b"right", True), "b.bin": (b"wrong", True)})
    if how == "kept":
        keep_listing(cache.state, listing)
    fault = one(check(cache, listing_for=(lambda repo, commit: listing) if how == "given" else None))
    assert (fault.kind, fault.file, fault.expected) == ("wrong-link", pointer, right.name)


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../../outside", "../../../models--tiny/blobs/" + "0" * 64])
def test_a_link_out_of_the_repo_is_found(cache: Any, target: str) -> None:
    """A snapshot link that leads out of its repo's blobs is a fault, whatever it leads to."""
    cache.add("a.bin", b"a")
    pointer = cache.repo().snapshot(cache.commit) / "evil"
    pointer.symlink_to(target)
    fault = one(check(cache))
    assert (fault.kind, fault.path) == ("foreign-link", "evil")


def test_absolute_links_into_the_own_blobs_are_fine(cache: Any) -> None:
    """Links as old versions wrote them."""
    blob = cache.add("a.bin", b"a")
    pointer = cache.repo().snapshot(cache.commit) / "a.bin"
    pointer.unlink()
    pointer.symlink_to(blob.absolute())
    assert check(cache).intact
    blob.write_bytes(b"b")
    assert one(check(cache)).path == "a.bin"


@pytest.mark.parametrize(
    "name", ["{etag}.incomplete", "{etag}.0123abcd.incomplete", ".{etag}.0123abcd.tmp", ".{etag}.0123abcd.shared"]
)
@pytest.mark.parametrize("held", ["no", "lock", "flock", "open"])
def test_a_leftover_is_a_fault_unless_somebody_holds_it(cache: Any, name: str, held: str) -> None:
    """Broken-off downloads of all versions; by the library's lock, a lock on the file, or an open file: in progress."""
    blob = cache.add("a.bin", b"a")
    etag = cache.etag_of(b"another")
    leftover = blob.with_name(name.format(etag=etag))
    leftover.write_bytes(b"anoth")
    lock = cache.repo().lock(etag)
    lock.parent.mkdir(parents=True)
    lock.touch()
    with lock.open() if held == "lock" else leftover.open() as file:
        if held in ("lock", "flock"):
            fcntl.flock(file, fcntl.LOCK_EX)
        if held == "no":
            file.close()
        report = check(cache)
    if held == "no":
        assert (one(report).kind, one(report).file) == ("leftover", leftover)
    else:
        assert (report.faults, report.in_progress) == ((), (leftover,))


def test_a_folder_in_a_blobs_place_is_found(cache: Any) -> None:
    """One fault, and the link to it is not reported again."""
    blob = cache.add("a.bin", b"a")
    blob.unlink()
    blob.mkdir()
    fault = one(check(cache))
    assert (fault.kind, fault.path, fault.file) == ("not-a-file", "a.bin", blob)


def test_foreign_names_are_unverifiable(cache: Any) -> None:
    """A file whose name is no hash is listed: neither intact nor a fault."""
    blob = cache.add("a.bin", b"a")
    blob.with_name("notes.txt").write_bytes(b"mine")
    report = check(cache)
    assert report.intact
    assert [entry.file.name for entry in report.unverifiable] == ["notes.txt"]


@pytest.mark.parametrize("text", ["", "main", "f" * 39, "F" * 40, "g" * 40])
def test_a_ref_that_names_no_commit_is_found(cache: Any, text: str) -> None:
    """An empty or mangled ref is a fault; one that names a commit nobody has fetched yet is not."""
    cache.add("a.bin", b"a")
    cache.repo().ref("main").write_text("f" * 40)
    assert check(cache).intact
    cache.repo().ref("main").write_text(text)
    assert one(check(cache)).kind == "bad-ref"


def test_a_tree_that_is_no_tree_is_found(cache: Any) -> None:
    """A stored listing that cannot be read is one fault; one of an unknown version is left alone."""
    cache.add("a.bin", b"a")
    tree = cache.add_tree({"a.bin": (b"a", True)})
    tree.write_text('{"format_version": 2}')
    assert check(cache).intact
    tree.write_bytes(tree.read_bytes()[:10])
    assert one(check(cache)).kind == "bad-tree"


def test_a_cache_without_links_cannot_be_verified_offline(cache: Any) -> None:
    """Real files in a snapshot: unverifiable, until a listing says what they are; then damage is found."""
    cache.hub.mkdir()
    files = {"README.md": (b"read me", False), "data/a.bin": (cache.content(2000), True)}
    for path, (data, _) in files.items():
        file = cache.repo().snapshot(cache.commit) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    report = check(cache)
    assert (report.checked, len(report.unverifiable), report.faults) == (0, 2, ())
    assert all("cannot be verified offline" in entry.reason for entry in report.unverifiable)
    cache.add_tree(files)
    report = check(cache)
    assert (report.checked, report.unverifiable, check(cache).remembered) == (2, (), 2)
    flip(cache.repo().snapshot(cache.commit) / "data/a.bin", 1999)
    fault = one(check(cache))
    assert (fault.kind, fault.path, fault.expected) == ("corrupt", "data/a.bin", cache.etag_of(files["data/a.bin"][0]))


def test_the_shared_store_is_proven_by_its_own_hash(cache: Any) -> None:
    """A store file that no repo links any more is proven too; its lock, refs and marker are no leftovers."""
    stored = cache.add_stored("a.bin", cache.content(3000))
    assert check(cache).intact
    shutil.rmtree(cache.repo().folder)
    cache.add("b.bin", b"b")
    assert check(cache).intact
    stored.chmod(0o644)
    flip(stored, 17)
    fault = one(check(cache))
    assert (fault.repo_type, fault.kind, fault.file) == ("store", "corrupt", stored)


def test_a_store_file_that_is_gone_is_one_fault(cache: Any) -> None:
    """The repo's blob leads nowhere: named with the place that needs it."""
    cache.add_stored("a.bin", cache.content(3000)).unlink()
    fault = one(check(cache))
    assert (fault.kind, fault.path) == ("dangling", "a.bin")


def test_many_files_gone_at_once_are_a_purge(cache: Any) -> None:
    """Ten and half of all: purged; fewer: just missing."""
    blobs = [cache.add(f"{number}.bin", bytes([number])) for number in range(18)]
    for blob in blobs[:9]:
        blob.unlink()
    assert (len(check(cache).faults), check(cache).purged) == (9, ())
    blobs[9].unlink()
    assert (len(check(cache).faults), check(cache).purged) == (10, ("org/name",))


def test_a_state_folder_that_cannot_be_written_is_a_notice(cache: Any) -> None:
    """Without a memory the verification still verifies, and says so."""
    cache.add("a.bin", b"a").write_bytes(b"b")
    cache.state.root.write_bytes(b"a file")
    report = check(cache)
    assert one(report).kind == "corrupt"
    cache.add("c.bin", b"c")
    assert "not remembered" in check(cache).notices[0]


def test_the_report_is_json(healthy: Any) -> None:
    """Every report, names that are not UTF-8 included, becomes JSON."""
    import orjson

    folder = os.fsencode(healthy.repo().folder / "blobs")
    Path(os.fsdecode(folder + b"/\xff\xfe")).write_bytes(b"x")
    damaged_files(healthy)[0].write_bytes(b"changed")
    document = orjson.loads(orjson.dumps(check(healthy).to_dict()))
    assert document["intact"] is False
    assert document["unverifiable"][0]["file"].endswith("\\xff\\xfe")


def test_without_rights_the_rest_is_verified(cache: Any, public_folder: Path, as_nobody: Any) -> None:
    """As another user: files and folders that may not be read are faults, all others are proven."""
    cache = replace(cache, hub=public_folder / "hub", state=StateDir(public_folder / "state"))
    cache.add("a.bin", b"a")
    cache.add("b.bin", b"b" * 100).chmod(0)
    cache.add("c.bin", b"c", repo_id="org/closed")
    cache.repo("org/closed").folder.joinpath("blobs").chmod(0o700)

    def verify() -> Any:
        report = check(cache)
        return [report.checked, sorted([f.kind, f.file.name, f.path] for f in report.faults), len(report.notices)]

    closed = ["unreadable", cache.etag_of(b"b" * 100), "b.bin"]
    assert as_nobody(verify) == [1, sorted([closed, ["unreadable", "blobs", None]], key=str), 1]


def test_a_killed_verification_goes_on_where_it_was(cache: Any) -> None:
    """SIGKILL in the middle: the next run reads only what had not been proven and saved."""
    for number in range(60):
        cache.add(f"{number}.bin", cache.content(20_000, number))
    code = (
        "import sys, time; from pathlib import Path; from hfassets.hub import sweep, verify\n"
        "from hfassets.storage.state import StateDir\n"
        "sweep._GROUP_FILES, sweep._SAVE_EVERY_S, prove = 1, 0.0, sweep._prove\n"
        "def slowly(task, meter):\n"
        "    time.sleep(0.02)\n"
        "    return prove(task, meter)\n"
        "sweep._prove = slowly\n"
        "verify.verify_cache(Path(sys.argv[1]), state=StateDir(Path(sys.argv[2])), workers=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(cache.hub), str(cache.state.root)])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(_remembered(cache)) < 10:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    known = len(_remembered(cache))
    report = check(cache)
    assert 10 <= known < 60
    assert (report.remembered, report.checked, report.faults) == (known, 60 - known, ())


def _remembered(cache: Any) -> dict[str, Any]:
    import orjson

    files = list(cache.state.verify_memory.glob("datasets--*.json"))
    return orjson.loads(files[0].read_bytes())["files"] if files else {}


def test_progress_counts_every_byte(cache: Any) -> None:
    """The last word on progress is all bytes of all."""
    for number in range(100):
        cache.add(f"{number}.bin", cache.content(1000, number))
    seen: list[Any] = []
    check(cache, progress=seen.append)
    last = [event for event in seen if isinstance(event, Progress)][-1]
    assert (last.done, last.total, last.unit) == (100_000, 100_000, "B")


def test_the_memory_does_not_outgrow_the_cache(cache: Any) -> None:
    """Files that are gone are forgotten by a sweep over the whole cache."""
    cache.add("a.bin", b"a")
    cache.add("gone.bin", b"gone", repo_id="org/name").unlink()
    check(cache)
    (cache.repo().snapshot(cache.commit) / "gone.bin").unlink()
    blob = cache.add("b.bin", b"b")
    check(cache)
    assert len(_remembered(cache)) == 2
    blob.unlink()
    (cache.repo().snapshot(cache.commit) / "b.bin").unlink()
    check(cache)
    assert len(_remembered(cache)) == 1


def listing_of(cache: Any, **files: bytes) -> Listing:
    """A listing at the cache's commit of LFS files `<name>.bin`."""
    entries = tuple(RepoFile(f"{name}.bin", len(data), cache.etag_of(data)) for name, data in files.items())
    return Listing("org/name", cache.commit, entries)


def verify_listing(cache: Any, listing: Listing, **options: Any) -> VerifyReport:
    """Verify just the files of a listing."""
    repo: RepoCache = cache.repo()
    return verify_files(repo, listing, VerifyMemory.open(cache.state, repo), **options)


def test_files_of_one_config_are_held_against_their_listing(cache: Any) -> None:
    """Each kind of damage to a listed file is named with its path and etag; other files are not looked at."""
    names = ("intact", "flipped", "short", "gone", "unlinked", "wrong", "foreign")
    data = {name: name.encode() * 10 for name in names}
    blobs = {name: cache.add(f"{name}.bin", data[name]) for name in names}
    cache.add("other.bin", b"other").write_bytes(b"damaged, and not asked for")
    listing = listing_of(cache, **data)
    assert verify_listing(cache, listing).faults == ()
    flip(blobs["flipped"], 3)
    blobs["short"].write_bytes(data["short"][:-1])
    blobs["gone"].unlink()
    pointers = cache.repo().snapshot(cache.commit)
    for name in ("unlinked", "wrong", "foreign"):
        (pointers / f"{name}.bin").unlink()
    cache.link(cache.repo(), cache.commit, "wrong.bin", blobs["intact"])
    (pointers / "foreign.bin").symlink_to("/etc/passwd")
    report = verify_listing(cache, listing)
    kinds = {fault.path: fault.kind for fault in report.faults}
    assert kinds == {
        "flipped.bin": "corrupt",
        "short.bin": "truncated",
        "gone.bin": "missing",
        "unlinked.bin": "missing",
        "wrong.bin": "wrong-link",
        "foreign.bin": "foreign-link",
    }
    assert all(fault.expected == cache.etag_of(data[fault.path[:-4]]) for fault in report.faults)
    assert f"flipped.bin {cache.etag_of(data['flipped'])}" in report.damage
    assert report.purged == ()


def test_a_whole_repo_gone_is_a_purge(cache: Any) -> None:
    """However few files it had."""
    cache.add("a.bin", b"a")
    shutil.rmtree(cache.repo().folder)
    report = verify_listing(cache, listing_of(cache, a=b"a"))
    assert (one(report).kind, report.purged) == ("missing", ("org/name",))


def test_verifying_files_shares_the_memory_of_the_sweep(cache: Any) -> None:
    """What the sweep has proven is not read again for a config, and the other way round."""
    cache.add("a.bin", b"a")
    check(cache)
    assert verify_listing(cache, listing_of(cache, a=b"a")).remembered == 1
    assert verify_listing(cache, listing_of(cache, a=b"a"), full=True).checked == 1
    assert check(cache).remembered == 1
