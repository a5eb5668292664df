"""Real clients fill caches; what is then damaged is found, put right from the Hub, and clean at a second look."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import scan_cache_dir

from hfassets.demo.hub_faults import Fault
from hfassets.hub.layout import RepoCache
from hfassets.hub.options import hub_options
from hfassets.hub.quarantine import quarantine
from hfassets.hub.repair import RepairResult, repair
from hfassets.hub.session import HubClient
from hfassets.hub.verify import VerifyReport, verify_cache
from hfassets.storage.state import StateDir

pytestmark = pytest.mark.hub

FILL = """
    import sys
    from huggingface_hub import snapshot_download
    snapshot_download(sys.argv[1], repo_type=sys.argv[2], max_workers=4)
"""


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    """The project's own folder."""
    return StateDir(tmp_path / "state")


@pytest.fixture
def client(hub_env: Any) -> Iterator[HubClient]:
    """A client of the sample Hub that gives up soon."""
    with HubClient(hub_options(max_retries=1, backoff_factor=0.05)) as opened:
        yield opened


@pytest.fixture
def repo(hub_env: Any, cache: Any) -> RepoCache:
    """`org/data`, filled by huggingface_hub: eight LFS files and two small ones."""
    files: dict[str, bytes] = {f"data/{n}.bin": cache.content(20_000 + n, n) for n in range(8)}
    files |= {"README.md": b"read me\n", ".gitattributes": b"*.bin filter=lfs\n"}
    hub_env.hub.add_repo("org/data", files)
    hub_env.python(FILL, "org/data", "dataset")
    return RepoCache(hub_env.hub_cache, "org/data")


def check(repo: RepoCache, state: StateDir, **options: Any) -> VerifyReport:
    """Verify the cache that `repo` lies in."""
    return verify_cache(repo.hub_cache, state=state, **options)


def pointer(repo: RepoCache, path: str) -> Path:
    """The link of a file in the only snapshot."""
    (snapshot,) = (repo.folder / "snapshots").iterdir()
    return snapshot / path


def is_well(repo: RepoCache, state: StateDir, files: int = 10) -> bool:
    """All files are there and proven, and the library has nothing to say."""
    report = check(repo, state, full=True)
    scanned = scan_cache_dir(repo.hub_cache)
    there = sum(path.is_file() for path in pointer(repo, "").rglob("*"))
    return report.intact and not scanned.warnings and there == files


@pytest.mark.parametrize("repo_type", ["dataset", "model"])
def test_a_fresh_cache_of_the_library_is_intact(hub_env: Any, cache: Any, state: StateDir, repo_type: str) -> None:
    """huggingface_hub 0.36 itself, over http and over xet-announcing repos, leaves nothing that we call a fault."""
    hub_env.hub.add_repo("org/any", {"a.bin": cache.content(50_000), "b.txt": b"b", "e": b""}, repo_type=repo_type)
    hub_env.python(FILL, "org/any", repo_type)
    hub_env.python(
        "from huggingface_hub import file_exists, try_to_load_from_cache, hf_hub_download\n"
        "import sys\n"
        "try: hf_hub_download('org/any', 'absent.txt', repo_type=sys.argv[1])\n"
        "except Exception as error: print(error)",
        repo_type,
    )
    report = verify_cache(hub_env.home, state=state)
    assert (report.faults, report.unverifiable, report.checked) == ((), (), 3)


def test_no_false_alarm_while_others_download(hub_env: Any, cache: Any, state: StateDir) -> None:
    """Verified again and again while the library fills the cache slowly: never a fault, and all proven at the end."""
    files = {f"data/{n}.bin": cache.content(200_000, n) for n in range(12)}
    hub_env.hub.add_repo("org/slow", files)
    hub_env.hub.set_faults(Fault("slow", rate=400_000, path="*.bin"))
    code = "import sys\nfrom huggingface_hub import snapshot_download\n"
    code += "snapshot_download('org/slow', repo_type='dataset', max_workers=4)"
    process = subprocess.Popen([sys.executable, "-c", code], env=hub_env.variables, stderr=subprocess.DEVNULL)
    faults, partial, looks = [], 0, 0
    while process.poll() is None:
        if hub_env.hub_cache.is_dir():
            report = verify_cache(hub_env.hub_cache, state=state)
            faults += report.faults
            partial += len(report.in_progress)
            looks += 1
    assert process.returncode == 0
    assert faults == []
    assert partial > 0
    assert looks > 3
    report = verify_cache(hub_env.hub_cache, state=state)
    assert (report.faults, report.in_progress, report.checked + report.remembered) == ((), (), 12)


def eight_corruptions(repo: RepoCache) -> set[str]:
    """Damage of eight kinds; returns what a report must call them."""
    blobs = {path: pointer(repo, path).resolve() for path in (f"data/{n}.bin" for n in range(8))}
    flipped = bytearray(blobs["data/0.bin"].read_bytes())
    flipped[-1] ^= 128
    blobs["data/0.bin"].write_bytes(flipped)
    with blobs["data/1.bin"].open("r+b") as file:
        file.truncate(1000)
    blobs["data/2.bin"].unlink()
    blobs["data/3.bin"].write_bytes(b"")
    blobs["data/4.bin"].unlink()
    blobs["data/4.bin"].mkdir()
    pointer(repo, "data/5.bin").unlink()
    pointer(repo, "data/5.bin").symlink_to("/etc/hostname")
    readme = pointer(repo, "README.md").resolve()
    readme.write_bytes(readme.read_bytes() + b"more")
    (blobs["data/6.bin"].parent / f"{'0' * 64}.incomplete").write_bytes(b"part")
    return {
        "data/0.bin: corrupt",
        "data/1.bin: truncated",
        "data/2.bin: missing",
        "data/3.bin: truncated",
        "data/4.bin: not-a-file",
        "data/5.bin: foreign-link",
        "README.md: corrupt",
        "None: leftover",
    }


def test_eight_corruptions_are_found_and_repaired(
    repo: RepoCache, state: StateDir, client: HubClient, hub_env: Any
) -> None:
    """All found, none invented; only what was damaged is fetched; the second verify is clean."""
    assert check(repo, state).intact
    wanted = eight_corruptions(repo)
    report = check(repo, state)
    assert {f"{fault.path}: {fault.kind}" for fault in report.faults} == wanted
    assert len(report.faults) == 8
    hub_env.hub.reset_log()
    result = repair(client, report, state)
    assert result.complete
    assert {file.path for file in result.repaired} == {*(f"data/{n}.bin" for n in range(6)), "README.md"}
    # The blob behind the link that led away was there all the time.
    fetched = sum(20_000 + n for n in range(5)) + len(b"read me\n")
    assert result.bytes_fetched == fetched
    assert fetched <= hub_env.hub.bytes_sent("*/resolve/*") < fetched + 2000  # redirects have short bodies
    assert is_well(repo, state)


def test_a_second_repair_has_nothing_to_do(repo: RepoCache, state: StateDir, client: HubClient, hub_env: Any) -> None:
    """A clean report costs no request."""
    hub_env.hub.reset_log()
    result = repair(client, check(repo, state), state)
    assert (result.repaired, result.complete, hub_env.hub.requests) == ((), True, [])


def test_what_was_quarantined_and_never_fetched_is_still_owed(
    repo: RepoCache, state: StateDir, client: HubClient
) -> None:
    """A repair that died after the quarantine: the next one fetches, though the cache looks clean."""
    pointer(repo, "data/0.bin").resolve().write_bytes(b"damaged")
    quarantine(state, check(repo, state).faults)
    report = check(repo, state)
    assert report.intact
    assert not pointer(repo, "data/0.bin").exists()
    assert [file.path for file in repair(client, report, state).repaired] == ["data/0.bin"]
    assert is_well(repo, state)


def test_what_the_hub_no_longer_has_is_named(repo: RepoCache, state: StateDir, client: HubClient, hub_env: Any) -> None:
    """The repo is gone: quarantined all the same, and each file is named with the reason."""
    hub_env.hub.remove_repo("org/data")
    pointer(repo, "data/0.bin").resolve().write_bytes(b"damaged")
    pointer(repo, "data/1.bin").resolve().unlink()
    result = repair(client, check(repo, state), state)
    assert not result.complete
    assert sorted(what.split(" at ")[0] for what, _ in result.not_repaired) == [
        "org/data: data/0.bin",
        "org/data: data/1.bin",
    ]
    assert all("org/data" in reason and "\n" not in reason for _, reason in result.not_repaired)
    assert check(repo, state).intact


def test_a_server_that_sends_bad_bytes_is_not_believed(
    repo: RepoCache, state: StateDir, client: HubClient, hub_env: Any
) -> None:
    """Wrong bytes from the Hub itself: not repaired, named, and nothing wrong is left under a right name."""
    pointer(repo, "data/0.bin").resolve().write_bytes(b"damaged")
    pointer(repo, "data/1.bin").resolve().write_bytes(b"damaged")
    hub_env.hub.set_faults(Fault("flip", path="*/data/0.bin", offset=5))
    result = repair(client, check(repo, state), state)
    assert [what for what, _ in result.not_repaired] == ["org/data: data/0.bin"]
    assert [file.path for file in result.repaired] == ["data/1.bin"]
    assert check(repo, state, full=True).kinds.keys() <= {"leftover"}
    hub_env.hub.set_faults()
    assert repair(client, check(repo, state), state).complete
    assert is_well(repo, state)


def test_the_byte_budget_is_kept(repo: RepoCache, state: StateDir, client: HubClient) -> None:
    """What does not fit is deferred by name, and comes another day."""
    for number in range(3):
        pointer(repo, f"data/{number}.bin").resolve().write_bytes(b"damaged")
    result = repair(client, check(repo, state), state, byte_budget=45_000)
    assert result.bytes_fetched <= 45_000
    assert ([file.path for file in result.repaired], [file.path for file in result.deferred]) == (
        ["data/0.bin", "data/1.bin"],
        ["data/2.bin"],
    )
    assert repair(client, check(repo, state), state).complete
    assert is_well(repo, state)


def test_a_link_that_leads_to_the_wrong_file_is_put_right(
    repo: RepoCache, state: StateDir, client: HubClient, hub_env: Any
) -> None:
    """With the Hub's listing it is seen, and the blob that is there is linked, not fetched."""
    link = pointer(repo, "data/0.bin")
    right = link.resolve()
    link.unlink()
    link.symlink_to(pointer(repo, "data/1.bin").readlink())

    def listing_for(repo: RepoCache, commit: str) -> Any:
        return client.list_files(repo.repo_id, commit, repo.repo_type)

    report = check(repo, state, listing_for=listing_for)
    assert [fault.kind for fault in report.faults] == ["wrong-link"]
    hub_env.hub.reset_log()
    assert repair(client, report, state).complete
    assert link.resolve() == right
    assert hub_env.hub.bytes_sent("*/resolve/*") == 0


def test_a_tree_that_contradicts_the_hub_is_the_one_to_go(
    repo: RepoCache, state: StateDir, client: HubClient, cache: Any
) -> None:
    """A flipped digit in `trees/<commit>.json` looks like a wrong link; the Hub decides, the link comes back."""
    commit = pointer(repo, "").name
    tree = repo.folder / "trees" / f"{commit}.json"
    tree.parent.mkdir()
    tree.write_text(
        '{"format_version": 1, "files": {"README.md": {"size": 8, "blob_id": "' + "0" * 40 + '"}}}',
    )
    report = check(repo, state)
    assert [fault.kind for fault in report.faults] == ["wrong-link"]
    assert repair(client, report, state).complete
    assert not tree.exists()
    assert is_well(repo, state)


def test_all_commits_that_had_a_file_get_it_back(hub_env: Any, state: StateDir, client: HubClient, cache: Any) -> None:
    """One blob, two commits: one fetch, both links."""
    same = cache.content(30_000)
    commits = [hub_env.hub.add_repo("org/two", {"a.bin": same, "v.txt": version}) for version in (b"1", b"2")]
    for commit in commits:
        hub_env.python(
            "import sys; from huggingface_hub import snapshot_download\n"
            "snapshot_download('org/two', repo_type='dataset', revision=sys.argv[1])",
            commit,
        )
    repo = RepoCache(hub_env.hub_cache, "org/two")
    (repo.snapshot(commits[0]) / "a.bin").resolve().write_bytes(b"damaged")
    hub_env.hub.reset_log()
    result = repair(client, check(repo, state), state)
    assert result.complete
    assert result.bytes_fetched == len(same)
    assert hub_env.hub.bytes_sent("*/a.bin") < len(same) + 1000
    assert [(repo.snapshot(commit) / "a.bin").read_bytes() for commit in commits] == [same, same]


def test_a_killed_repair_is_finished_by_the_next(
    repo: RepoCache, state: StateDir, client: HubClient, hub_env: Any, wait_until: Callable[..., None]
) -> None:
    """SIGKILL while the first file is being fetched: verify and repair again, and all is well."""
    for number in range(4):
        pointer(repo, f"data/{number}.bin").resolve().write_bytes(b"damaged")
    hub_env.hub.set_faults(Fault("hang", path="*.bin", after=5000))
    code = (
        "import sys; from pathlib import Path; from hfassets.hub.repair import repair\n"
        "from hfassets.hub.options import hub_options; from hfassets.hub.session import HubClient\n"
        "from hfassets.hub.verify import verify_cache; from hfassets.storage.state import StateDir\n"
        "state = StateDir(Path(sys.argv[2]))\n"
        "with HubClient(hub_options()) as client:\n"
        "    repair(client, verify_cache(Path(sys.argv[1]), state=state), state, workers=2)"
    )
    hub_env.hub.reset_log()
    process = subprocess.Popen([sys.executable, "-c", code, repo.hub_cache, state.root], env=hub_env.variables)
    wait_until(lambda: hub_env.hub.bytes_sent("*.bin") >= 5000)
    process.kill()
    process.wait()
    hub_env.hub.set_faults()
    assert repair(client, check(repo, state), state).complete
    assert is_well(repo, state)


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """Wait for a condition, a minute at most."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "waited a minute in vain"
            time.sleep(0.02)

    return wait


def test_a_cache_that_may_only_be_read_is_left_as_it_is(repo: RepoCache, state: StateDir, client: HubClient) -> None:
    """Where nothing may be moved nothing is fetched either, and it is all listed."""
    pointer(repo, "data/0.bin").resolve().write_bytes(b"damaged")
    state.root.write_bytes(b"no folder")
    repo.hub_cache.with_name("hub.quarantine").write_bytes(b"no folder")
    result: RepairResult = repair(client, check(repo, state), state)
    assert (len(result.quarantined.not_moved), result.repaired, result.complete) == (1, (), False)
    assert os.path.lexists(pointer(repo, "data/0.bin"))
