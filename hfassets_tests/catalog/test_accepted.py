"""The catalog in force: edits, nonsense, kills, moves, retired keys."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hfassets.catalog import accepted as accepted_module
from hfassets.catalog.accepted import accept, prune
from hfassets.catalog.lock import Lock, RepoLock, dump_lock, lock_path, parse_lock, read_lock, unsynced, write_lock
from hfassets.errors import CatalogError

pytestmark = pytest.mark.unit

COMMIT = "0123456789" * 4


def pin(repo: str, *configs: str, revision: str = "main", commit: str = COMMIT) -> RepoLock:
    return RepoLock(
        repo=repo,
        revision=revision,
        commit=commit,
        configs=configs,
        default_config=None,
        synced_at="2026-01-01T00:00:00Z",
    )


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    """A project with two synced datasets and its state in a folder of its own."""
    folder = tmp_path / "project"
    folder.mkdir()
    path = folder / "catalog.yaml"
    path.write_text("storage:\n  state_dir: ../state\ndatasets:\n  - repo: a/one\n  - repo: b/two\n    configs: [en]\n")
    write_lock(lock_path(path), Lock((pin("b/two", "de", "en"), pin("a/one", "default"))))
    return path


def keys(path: Path) -> list[str]:
    return [one.key for one in accept(path).partitions]


def test_a_valid_catalog_comes_into_force(catalog: Path) -> None:
    """Both files are copied under their hash; accepting again writes nothing."""
    accepted = accept(catalog)
    assert (accepted.error, accepted.notes) == (None, ())
    assert keys(catalog) == ["a/one:default", "b/two:en"]
    assert accepted.require() is accepted.catalog
    copied = catalog.parent.parent / "state" / "catalog" / accepted.sha
    assert (copied / "catalog.yaml").read_bytes() == catalog.read_bytes()
    assert (copied / "catalog.lock").read_bytes() == lock_path(catalog).read_bytes()
    files = {path: path.stat().st_mtime_ns for path in catalog.parent.parent.rglob("*") if path.is_file()}
    assert accept(catalog).sha == accepted.sha
    assert files == {path: path.stat().st_mtime_ns for path in catalog.parent.parent.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "nonsense",
    [
        "",
        "{{{",
        "\0\1",
        "- list",
        "datasets:\n  - repo: a/one\n    typo: 1\n",
        "[" * 10_000,
        "storage: 5",
        "x: &a [*a]",
    ],
)
def test_nonsense_keeps_the_last_accepted(catalog: Path, nonsense: str) -> None:
    """Whatever the file becomes, partitions and storage stay, and the reason is said."""
    before = accept(catalog)
    catalog.write_text(nonsense)
    after = accept(catalog)
    assert after.error is not None
    assert "catalog.yaml" in after.error
    assert (after.sha, after.catalog, after.lock, after.partitions) == (
        before.sha,
        before.catalog,
        before.lock,
        before.partitions,
    )


def test_a_deleted_or_unreadable_file_keeps_the_last_accepted(catalog: Path) -> None:
    """Gone, a folder in its place, a damaged lock: still the last accepted."""
    before = accept(catalog)
    good_lock = lock_path(catalog).read_bytes()
    lock_path(catalog).write_bytes(b"<<<<<<< HEAD\n" + good_lock)
    broken = accept(catalog)
    assert broken.partitions == before.partitions
    assert "catalog.lock:1: not JSON (an unresolved merge)" in (broken.error or "")
    lock_path(catalog).write_bytes(good_lock)
    catalog.unlink()
    assert accept(catalog).partitions == before.partitions
    catalog.mkdir()
    assert accept(catalog).partitions == before.partitions


def test_nothing_was_ever_accepted(catalog: Path) -> None:
    """No partitions, the reason, and a refusal to work, but no exception."""
    catalog.write_text("nonsense")
    accepted = accept(catalog)
    assert (accepted.sha, accepted.partitions, accepted.catalog.datasets) == ("", (), ())
    assert accepted.error
    with pytest.raises(CatalogError, match="must be a mapping"):
        accepted.require()


def test_without_the_pointer_the_broken_file_still_says_where_the_state_is(catalog: Path) -> None:
    """A read-only project folder has no pointer: an edit that leaves `storage` readable finds its history."""
    before = accept(catalog)
    (catalog.parent / ".catalog.accepted.json").unlink()
    catalog.write_text(catalog.read_text() + "typo: 1\n")
    assert accept(catalog).partitions == before.partitions


def test_a_variable_that_is_gone_keeps_the_keys_and_refuses_work(
    catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """References are resolved at every load, so without the variable nothing runs; but every key stays."""
    monkeypatch.setenv("DATA_SECRET", "s3cr3t-folder")
    catalog.write_text(catalog.read_text().replace("storage:\n", "storage:\n  output_root: ${DATA_SECRET}\n"))
    before = accept(catalog)
    monkeypatch.delenv("DATA_SECRET")
    after = accept(catalog)
    assert [one.key for one in after.partitions] == [one.key for one in before.partitions]
    assert after.sha == ""
    with pytest.raises(CatalogError, match="DATA_SECRET is not set"):
        after.require()
    written = b"".join(path.read_bytes() for path in catalog.parent.parent.rglob("*") if path.is_file())
    assert b"s3cr3t" not in written


def test_a_removed_key_is_retired_until_it_is_pruned(catalog: Path) -> None:
    """Its entry and commit stay usable; coming back makes it current; prune forgets it."""
    accept(catalog)
    full = catalog.read_text()
    catalog.write_text(full.replace("  - repo: a/one\n", ""))
    accepted = accept(catalog)
    assert [one.key for one in accepted.partitions] == ["b/two:en", "a/one:default"]
    assert accepted.retired == ("a/one:default",)
    gone = accepted.partitions[1]
    assert (gone.retired, gone.dataset.repo, gone.config, gone.commit) == (True, "a/one", "default", COMMIT)
    catalog.write_text(full)
    assert accept(catalog).retired == ()
    catalog.write_text(full.replace("  - repo: a/one\n", ""))
    accept(catalog)
    assert prune(catalog, {}, dry_run=True).keys == ("a/one:default",)
    assert accept(catalog).retired == ("a/one:default",)
    assert prune(catalog, {"b/two:en": ["run 1"]}).keys == ("a/one:default",)
    assert keys(catalog) == ["b/two:en"]
    assert prune(catalog, {}).keys == ()


def test_prune_is_refused_while_a_retired_key_is_targeted(catalog: Path) -> None:
    """All or nothing, naming who holds what; also refused while the catalog is wrong."""
    accept(catalog)
    good = "storage:\n  state_dir: ../state\n"
    catalog.write_text(good)
    accept(catalog)
    with pytest.raises(CatalogError) as raised:
        prune(catalog, {"a/one:default": ["run 7 (QUEUED)", "backfill x"]})
    assert raised.value.errors[0] == "a/one:default is targeted by run 7 (QUEUED), backfill x"
    assert keys(catalog) == ["a/one:default", "b/two:en"]
    catalog.write_text("nonsense")
    with pytest.raises(CatalogError):
        prune(catalog, {})
    assert keys(catalog) == ["a/one:default", "b/two:en"]


def test_keys_survive_a_change_of_the_state_folder(catalog: Path) -> None:
    """`state_dir` moves on: what the old one knew is carried over."""
    accept(catalog)
    catalog.write_text("storage:\n  state_dir: ../elsewhere\n")
    assert accept(catalog).retired == ("a/one:default", "b/two:en")
    shutil.rmtree(catalog.parent.parent / "state")
    assert accept(catalog).retired == ("a/one:default", "b/two:en")


def test_a_project_moves_with_its_history(catalog: Path, tmp_path: Path) -> None:
    """Catalog and state moved together are the same catalog."""
    accept(catalog)
    (tmp_path / "new").mkdir()
    shutil.move(tmp_path / "project", tmp_path / "new" / "project")
    shutil.move(tmp_path / "state", tmp_path / "new" / "state")
    moved = tmp_path / "new" / "project" / "catalog.yaml"
    moved.write_text("nonsense")
    assert keys(moved) == ["a/one:default", "b/two:en"]


def test_two_catalogs_that_share_a_state_folder_do_not_mix(catalog: Path, tmp_path: Path) -> None:
    """Each has its own record: neither sees the other's keys."""
    accept(catalog)
    other = tmp_path / "other" / "catalog.yaml"
    other.parent.mkdir()
    other.write_text("storage:\n  state_dir: ../state\n")
    assert keys(other) == []
    catalog.write_text("nonsense")
    assert keys(catalog) == ["a/one:default", "b/two:en"]


def test_a_state_that_cannot_be_written_is_a_note(catalog: Path) -> None:
    """The catalog is valid, so it is used; that it was not recorded is said."""
    catalog.write_text(catalog.read_text().replace("../state", "/proc/nowhere"))
    accepted = accept(catalog)
    assert accepted.error is None
    assert len(accepted.partitions) == 2
    assert any("not recorded as accepted" in note for note in accepted.notes)


def test_a_damaged_record_is_a_note_and_a_damaged_copy_is_not_used(catalog: Path) -> None:
    """Damage in the state never stops a location from loading."""
    accepted = accept(catalog)
    state = catalog.parent.parent / "state" / "catalog"
    (record,) = state.glob("accepted-*.json")
    content = record.read_bytes()
    record.write_bytes(content[:40])
    again = accept(catalog)
    assert (again.error, len(again.partitions)) == (None, 2)
    assert "not a record of accepted catalogs" in again.notes[0]
    record.write_bytes(content)
    (state / accepted.sha / "catalog.yaml").write_text("storage:\n  state_dir: ../state\n")
    catalog.write_text("nonsense")
    broken = accept(catalog)
    assert [one.key for one in broken.partitions] == ["a/one:default", "b/two:en"]
    assert "damaged" in (broken.error or "")


def test_explicit_configs_must_be_in_the_lock(catalog: Path) -> None:
    """A config that the pinned commit does not have is an error that names the nearest."""
    accept(catalog)
    catalog.write_text(catalog.read_text().replace("[en]", "[en, dee]"))
    assert accept(catalog).errors == (
        f"{catalog}:6 datasets[1].configs[1]: b/two at commit 012345678901 has no config 'dee'; did you mean 'de'?",
    )


def test_umask_holds_for_all_that_is_written(catalog: Path) -> None:
    """With `umask: 0002` files and folders are group-writable, whatever the process's own mask."""
    catalog.write_text(catalog.read_text().replace("storage:\n", "storage:\n  umask: 0002\n"))
    before = os.umask(0o077)
    try:
        accept(catalog)
    finally:
        assert os.umask(before) == 0o077
    state = catalog.parent.parent / "state"
    modes = {path: path.stat().st_mode & 0o777 for path in (state, *state.rglob("*"), *catalog.parent.glob(".*.json"))}
    assert all(mode == (0o775 if path.is_dir() else 0o664) for path, mode in modes.items()), modes


STEPS = ["publish_directory", "write_record", "_write_pointer", "END"]

KILLED = """
import os, signal, sys
from pathlib import Path
from hfassets.catalog import accepted
step, path = sys.argv[1], Path(sys.argv[2])
def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)
if step != "END":
    setattr(accepted, step, die)
result = accepted.accept(path)
die()
"""


@pytest.mark.parametrize("step", STEPS)
def test_killed_anywhere_old_or_new_is_in_force(catalog: Path, step: str) -> None:
    """After a kill at each step: nonsense finds the old or the new catalog whole; the next accept completes it."""
    accept(catalog)
    old = {"a/one:default", "b/two:en"}
    catalog.write_text(catalog.read_text().replace("    configs: [en]\n", "").replace("  - repo: a/one\n", ""))
    done = subprocess.run([sys.executable, "-c", KILLED, step, str(catalog)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    edited = catalog.read_text()
    catalog.write_text("nonsense")
    assert old <= set(keys(catalog)) <= old | {"b/two:de"}
    catalog.write_text(edited)
    assert keys(catalog) == ["b/two:de", "b/two:en", "a/one:default"]
    catalog.write_text("nonsense")
    after = accept(catalog)
    assert [one.key for one in after.partitions] == ["b/two:de", "b/two:en", "a/one:default"]
    leftovers = [path.name for path in (catalog.parent.parent / "state" / "catalog").iterdir() if ".tmp" in path.name]
    assert leftovers == []


def test_a_kill_before_the_pointer_is_made_good(catalog: Path) -> None:
    """A first accept that died before it named the state folder: the next one names it."""
    subprocess.run([sys.executable, "-c", KILLED, "_write_pointer", str(catalog)], check=False)
    accept(catalog)
    catalog.write_text("nonsense")
    assert keys(catalog) == ["a/one:default", "b/two:en"]


def test_who_may_only_read_the_project_still_gets_the_catalog(catalog: Path) -> None:
    """Without write access to project and state: valid is used, wrong falls back, nothing raises."""
    code = (
        "import os, sys, pathlib; from hfassets.catalog import accept; os.geteuid() or os.setuid(65534); "
        "found = accept(pathlib.Path(sys.argv[1])); print(len(found.partitions), bool(found.error), len(found.notes))"
    )
    # Another user cannot reach pytest's own folders.
    with tempfile.TemporaryDirectory() as reachable:
        shutil.copytree(catalog.parent, Path(reachable) / "project")
        path = Path(reachable) / "project" / "catalog.yaml"
        accept(path)
        before = path.read_text()
        folders = [Path(reachable), path.parent, Path(reachable) / "state" / "catalog"]
        for folder in folders:
            folder.chmod(0o555)
        answers = []
        for text in (before, before + "# edited\n", "nonsense"):
            path.write_text(text)
            done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
            answers.append(done.stdout.strip())
        for folder in folders:
            folder.chmod(0o755)
    assert answers == ["2 False 0", "2 False 1", "2 True 0"]


def test_a_process_that_was_held_up_never_puts_an_older_catalog_in_force(
    catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edit between reading and recording: the newer content is what comes into force."""
    held_up = accepted_module.lease

    @contextmanager
    def lease_after_an_edit(*arguments: Any, **options: Any) -> Iterator[None]:
        catalog.write_text(catalog.read_text().replace("  - repo: a/one\n", ""))
        with held_up(*arguments, **options):
            yield

    monkeypatch.setattr(accepted_module, "lease", lease_after_an_edit)
    assert [one.key for one in accept(catalog).partitions] == ["b/two:en"]
    catalog.write_text("nonsense")
    assert keys(catalog) == ["b/two:en"]


def test_many_processes_accept_at_once(catalog: Path) -> None:
    """Daemon, web server, workers: all get the same answer and leave one consistent record."""
    code = "import sys, pathlib; from hfassets.catalog import accept; print(accept(pathlib.Path(sys.argv[1])).sha)"

    def one(_: int) -> str:
        done = subprocess.run([sys.executable, "-c", code, str(catalog)], capture_output=True, text=True, check=True)
        return done.stdout

    with ThreadPoolExecutor(4) as pool:
        shas = set(pool.map(one, range(8)))
    assert shas == {f"{accept(catalog).sha}\n"}
    state = catalog.parent.parent / "state" / "catalog"
    assert sorted(path.suffix for path in state.iterdir()) == ["", ".json"]


def test_lock_is_sorted_and_strict(tmp_path: Path) -> None:
    """Equal locks have equal bytes; a file that sync did not write so is refused with a remedy."""
    one, two = pin("b/x", "c"), pin("a/x", "c")
    content = dump_lock(Lock((one, two)))
    assert content == dump_lock(Lock((two, one)))
    assert parse_lock(content, tmp_path / "catalog.lock") == Lock((two, one))
    assert read_lock(tmp_path / "missing.lock") == Lock()
    document = json.loads(content)
    document["repos"][0]["commit"] = "main"
    with pytest.raises(CatalogError, match=r"repos\[0\].commit: not as sync writes it; restore it"):
        parse_lock(json.dumps(document).encode(), tmp_path / "catalog.lock")
    document["repos"] = [document["repos"][1]] * 2
    with pytest.raises(CatalogError, match="twice"):
        parse_lock(json.dumps(document).encode(), tmp_path / "catalog.lock")


def test_unsynced_datasets_have_no_partitions(catalog: Path) -> None:
    """An entry that the lock does not know is valid and has none yet."""
    catalog.write_text(catalog.read_text() + "  - repo: c/new\n    configs: [x]\n")
    accepted = accept(catalog)
    assert [one.key for one in accepted.partitions] == ["a/one:default", "b/two:en"]
    assert [one.name for one in unsynced(accepted.catalog, accepted.lock)] == ["c/new"]


def test_a_detected_config_that_cannot_be_a_key_is_refused(catalog: Path) -> None:
    """Dagster reads `...` as a range; naming the wanted configs leaves such a one out."""
    write_lock(lock_path(catalog), Lock((pin("a/one", "x...y", "z"), pin("b/two", "en"))))
    (error,) = accept(catalog).errors
    assert error == (
        f"{catalog}:4 datasets[0]: the partition key 'a/one:x...y' has ... or control characters; "
        "name in `configs` the ones to take"
    )
    catalog.write_text(catalog.read_text().replace("a/one\n", "a/one\n    configs: [z]\n"))
    assert keys(catalog) == ["a/one:z", "b/two:en"]
