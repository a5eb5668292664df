"""Snapshots: only proven bytes get a name, whatever the Hub or the cache does."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from hfassets.demo.hub_faults import Fault
from hfassets.demo.hub_server import SampleHub
from hfassets.errors import HfassetsError, PartialFailureError, SpaceError, UnsafePathError
from hfassets.hub.layout import RepoCache
from hfassets.hub.memory import VerifyMemory
from hfassets.hub.session import HubClient, HubRefusalError, hub_options
from hfassets.hub.snapshot import SnapshotPlan, SnapshotResult, fetch_snapshot, plan_snapshot
from hfassets.progress import Note, Progress
from hfassets.storage import StateDir

pytestmark = pytest.mark.hub

REPO = "team/mixed"
_random = random.Random(5)
FILES: Mapping[str, bytes] = {
    "README.md": b"# mixed\n",
    "empty.txt": b"",
    "data/big.parquet": _random.randbytes(3_000_000),
    "data/same.parquet": b"s" * 150_000,
    "data/copy/same.parquet": b"s" * 150_000,
    **{f"data/part-{index:02}.parquet": _random.randbytes(120_000 + index) for index in range(12)},
    **{f"meta/{index:02}.json": _random.randbytes(900 + index) for index in range(12)},
}


class Work:
    """One cache, one client: plan and fetch in one call; notes are kept."""

    def __init__(self, hub: SampleHub, folder: Path, commit: str) -> None:
        self.hub = hub
        self.commit = commit
        self.repo = RepoCache(folder / "cache", REPO)
        self.state = StateDir(folder / "state")
        self.notes: list[str] = []
        options = hub_options(endpoint=hub.url, backoff_factor=0.02, environment={"HF_HOME": "/nonexistent"})
        self.client = HubClient(options, self.hear)

    def hear(self, event: Progress | Note) -> None:
        """Keep notes, and see that counts never exceed their total."""
        if isinstance(event, Note):
            self.notes.append(event.text)
        else:
            assert event.total is None or 0 <= event.done <= event.total

    @property
    def memory(self) -> VerifyMemory:
        """The memory as it is on disk."""
        return VerifyMemory.open(self.state, self.repo)

    def plan(self, *, force: bool = False) -> SnapshotPlan:
        """Prove what is there."""
        listing = self.client.list_files(REPO, self.commit)
        return plan_snapshot(listing, self.repo, self.memory, force=force, progress=self.hear)

    def fetch(self, *, force: bool = False, **options: object) -> SnapshotResult:
        """Plan and fetch."""
        plan = self.plan(force=force)
        return fetch_snapshot(self.client, plan, self.repo, self.memory, progress=self.hear, **options)  # type: ignore[arg-type]

    def check(self, files: Mapping[str, bytes] = FILES) -> None:
        """All files are there, right, and nothing else lies about."""
        snapshot = self.repo.snapshot(self.commit)
        found = {str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if not path.is_dir()}
        assert found == set(files)
        for path, content in files.items():
            assert (snapshot / path).read_bytes() == content, path
        blobs = [entry.name for entry in (self.repo.folder / "blobs").iterdir()]
        assert all(len(name) in (40, 64) for name in blobs)
        assert list((self.repo.hub_cache / ".locks").rglob("*.lock")) == []

    def blob_of(self, path: str) -> Path:
        """The blob of a file."""
        return self.repo.blob(self.etag(path))

    def etag(self, path: str) -> str:
        """The etag of a file."""
        (file,) = [file for file in self.client.list_files(REPO, self.commit).files if file.path == path]
        return file.etag

    def file_requests(self) -> list[str]:
        """Paths in the repo that were asked for, in order, redirects left out."""
        asked = [request for request in self.hub.requests if request.bucket == "resolvers"]
        return [request.file.removeprefix(f"{REPO}/") for request in asked]


@pytest.fixture
def work(sample_hub: SampleHub, tmp_path: Path) -> Iterator[Work]:
    """The repo on the Hub and an empty cache."""
    made = Work(sample_hub, tmp_path, sample_hub.add_repo(REPO, FILES))
    yield made
    made.client.close()


def test_one_request_a_content_and_no_head(work: Work) -> None:
    """The listing tells sizes and hashes: each distinct content is asked for once, by GET; the empty one not at all."""
    result = work.fetch(revision="main")
    work.check()
    assert sorted(work.file_requests()) == sorted(set(FILES) - {"data/same.parquet", "empty.txt"})
    assert {request.method for request in work.hub.requests} == {"GET"}
    assert result.files == len(FILES)
    assert result.bytes_fetched == sum(map(len, FILES.values())) - 150_000
    assert (work.repo.folder / "refs/main").read_text() == work.commit
    link = os.readlink(work.repo.snapshot(work.commit) / "data/copy/same.parquet")  # noqa: PTH115
    assert link == f"../../../../blobs/{work.etag('data/same.parquet')}"


@pytest.mark.parametrize("header", ["retry-after", "retry-after-date", "ratelimit", "none"])
def test_completes_against_a_rationing_and_cutting_hub(work: Work, header: str) -> None:
    """Every third request answered 429 and every tenth body cut: all arrives, and what was waited for is said."""
    faults = (Fault("status", every=3, header=header), Fault("cut", every=10, after=500))  # type: ignore[arg-type]
    plan = work.plan()
    work.hub.set_faults(*faults)
    result = fetch_snapshot(work.client, plan, work.repo, work.memory, revision="main", progress=work.hear)
    refused, cut = work.hub.fault_hits
    assert refused >= 8
    assert cut >= 2
    work.check()
    assert any("429 from the Hub" in note for note in work.notes)
    assert any("was cut" in note for note in work.notes)
    assert result.waited_s == pytest.approx(work.client.waited)
    # What had come before each cut was not sent again.
    assert result.bytes_fetched == sum(map(len, FILES.values())) - 150_000


def test_a_second_run_reads_and_asks_nothing(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing on arrival seeds the memory: planning again costs a stat a file."""
    work.fetch()
    monkeypatch.setattr("hfassets.hub.plan.hash_file", lambda *_: pytest.fail("read again"))
    work.hub.reset_log()
    plan = work.plan()
    assert plan.fetch == ()
    assert len(plan.cached) == len(FILES)
    result = fetch_snapshot(work.client, plan, work.repo, work.memory)
    assert (result.bytes_fetched, result.bytes_cached) == (0, sum(map(len, FILES.values())))
    assert work.file_requests() == []


def test_what_the_library_has_fetched_is_used(work: Work, hub_env: object) -> None:
    """A cache filled by huggingface_hub is proven by reading and kept; what it left half done is resumed."""
    from huggingface_hub import snapshot_download

    with work.client.library_session():
        snapshot_download(
            REPO, repo_type="dataset", cache_dir=work.repo.hub_cache, endpoint=work.hub.url, ignore_patterns="*big*"
        )
    (work.blob_of("data/big.parquet").parent / f"{work.etag('data/big.parquet')}.incomplete").write_bytes(
        FILES["data/big.parquet"][:2_000_000]
    )
    work.hub.reset_log()
    plan = work.plan()
    assert [(file.path, have) for file, have in plan.partial] == [("data/big.parquet", 2_000_000)]
    assert plan.fetch_bytes == 1_000_000
    result = work.fetch()
    assert result.bytes_fetched == 1_000_000
    assert work.hub.bytes_sent("/cdn/*") == 1_000_000
    work.check()


def test_the_library_accepts_what_we_have_fetched(work: Work) -> None:
    """scan_cache_dir has no warning, and snapshot_download finds everything without fetching."""
    from huggingface_hub import scan_cache_dir, snapshot_download

    work.fetch(revision="main")
    scan = scan_cache_dir(work.repo.hub_cache)
    assert scan.warnings == []
    (repo,) = scan.repos
    assert {file.file_name for revision in repo.revisions for file in revision.files} == {
        Path(path).name for path in FILES
    }
    found = snapshot_download(REPO, repo_type="dataset", cache_dir=work.repo.hub_cache, local_files_only=True)
    assert Path(found) == work.repo.snapshot(work.commit)


def test_a_cache_without_links_is_used(work: Work) -> None:
    """Real files in the snapshot folder count when they prove; a damaged one becomes a link to a fetched blob."""
    snapshot = work.repo.snapshot(work.commit)
    for path, content in FILES.items():
        (snapshot / path).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / path).write_bytes(content)
    (snapshot / "data/copy/same.parquet").unlink()
    (snapshot / "data/big.parquet").write_bytes(FILES["data/big.parquet"][:-1] + b"?")
    result = work.fetch()
    assert work.file_requests() == ["data/big.parquet"]
    assert result.refetched == ("data/big.parquet",)
    work.check()
    assert not (snapshot / "README.md").is_symlink()
    assert (snapshot / "data/big.parquet").is_symlink()


def test_a_blob_in_a_store_shared_by_repos_is_used(work: Work) -> None:
    """A blob that is a link counts by its content, and stays a link."""
    work.fetch()
    blob = work.blob_of("data/big.parquet")
    store = work.repo.hub_cache / "blobs/ab"
    store.mkdir(parents=True)
    blob.rename(store / "ab01")
    blob.symlink_to("../../blobs/ab/ab01")
    plan = work.plan()
    assert plan.fetch == ()
    fetch_snapshot(work.client, plan, work.repo, work.memory)
    assert blob.is_symlink()
    work.check()


@pytest.mark.parametrize("damage", ["flipped", "short", "gone", "dangling"])
def test_a_damaged_blob_is_fetched_again(work: Work, damage: str) -> None:
    """Its name and size are not believed once its time stamp differs; the file is listed as refetched."""
    work.fetch()
    blob = work.blob_of("data/big.parquet")
    content = FILES["data/big.parquet"]
    blob.unlink()
    if damage == "flipped":
        blob.write_bytes(b"?" + content[1:])
    elif damage == "short":
        blob.write_bytes(content[:-1])
    elif damage == "dangling":
        blob.symlink_to("../nowhere")
    result = work.fetch()
    assert result.refetched == (() if damage == "gone" else ("data/big.parquet",))
    assert result.bytes_fetched == len(content)
    work.check()


def test_force_fetches_all_again(work: Work) -> None:
    """With force nothing in the cache counts."""
    work.fetch()
    assert work.fetch(force=True).bytes_fetched == sum(map(len, FILES.values())) - 150_000
    work.check()


def test_wrong_bytes_once_are_fetched_again(work: Work) -> None:
    """A flipped bit in passing costs a second fetch and is reported."""
    work.hub.set_faults(Fault("flip", path=f"{REPO}/data/big.parquet", offset=1_000_000, times=1))
    result = work.fetch()
    work.check()
    assert result.refetched == ("data/big.parquet",)
    assert result.bytes_fetched == sum(map(len, FILES.values())) - 150_000 + 3_000_000
    assert any("fetched a second time" in note for note in work.notes)


def test_a_partial_file_of_wrong_bytes_is_found_out(work: Work) -> None:
    """What a foreign hand left as the beginning is hashed too."""
    work.repo.blob("0" * 40).parent.mkdir(parents=True)
    etag = work.etag("data/big.parquet")
    (work.repo.folder / f"blobs/{etag}.incomplete").write_bytes(b"?" * 2_900_000)
    assert work.fetch().refetched == ("data/big.parquet",)
    work.check()


def test_wrong_bytes_twice_fail_that_file_alone(work: Work) -> None:
    """The error names file, both hashes and the host; the other files are done, no wrong byte has a name, no ref."""
    work.hub.set_faults(Fault("flip", path=f"{REPO}/data/big.parquet"))
    with pytest.raises(PartialFailureError) as caught:
        work.fetch(revision="main")
    ((name, reason),) = caught.value.failures
    assert name == "data/big.parquet"
    assert "127.0.0.1 served wrong bytes twice" in reason
    assert f"expected sha256 {work.etag(name)}, got " in reason
    assert not (work.repo.folder / "refs").exists()
    assert not work.blob_of(name).exists()
    assert not work.blob_of(name).with_name(f"{work.etag(name)}.incomplete").exists()
    work.hub.set_faults()
    assert work.fetch().bytes_fetched == 3_000_000
    work.check()


@pytest.mark.parametrize("size", [2_999_999, 3_000_001])
def test_a_listing_that_lies_about_a_size(work: Work, size: int) -> None:
    """A body shorter or longer than listed is wrong, however it is framed, and ends after the second try."""
    listing = work.client.list_files(REPO, work.commit)
    files = tuple(replace(file, size=size) if file.path == "data/big.parquet" else file for file in listing.files)
    plan = plan_snapshot(replace(listing, files=files), work.repo, work.memory)
    with pytest.raises(PartialFailureError, match=r"big\.parquet.*served wrong bytes twice"):
        fetch_snapshot(work.client, plan, work.repo, work.memory)
    assert work.file_requests().count("data/big.parquet") == 2


def test_a_server_that_ignores_ranges_starts_over(work: Work) -> None:
    """Cut once, then answered with the whole file: still the right bytes."""
    big = f"{REPO}/data/big.parquet"
    work.hub.set_faults(Fault("cut", path=big, after=1_500_000, times=1), Fault("ignore-range", path=big))
    result = work.fetch()
    work.check()
    assert result.refetched == ()
    assert result.bytes_fetched > sum(map(len, FILES.values())) - 150_000


def test_a_body_that_halts_is_taken_up_again(work: Work) -> None:
    """A connection that goes silent in the middle of a file is given up after the read timeout, and resumed."""
    work.client.close()
    work.client = HubClient(replace(work.client.options, read_timeout=0.3), work.hear)
    work.hub.set_faults(Fault("hang", path=f"{REPO}/data/big.parquet", after=2_000_000, times=1))
    result = work.fetch()
    work.check()
    assert result.bytes_fetched == sum(map(len, FILES.values())) - 150_000
    assert any("came to a halt" in note for note in work.notes)


def test_a_file_cut_without_progress_fails_within_the_allowance(work: Work) -> None:
    """No progress in 1 + max_retries attempts: that file fails, naming how far it came."""
    work.hub.set_faults(Fault("cut", path=f"{REPO}/data/big.parquet", after=0))
    with pytest.raises(PartialFailureError, match=r"1 of .*big\.parquet.*was cut"):
        work.fetch()
    assert work.file_requests().count("data/big.parquet") == 1 + work.client.options.max_retries


def test_all_failures_are_listed(work: Work) -> None:
    """Files that the Hub does not give fail one by one; the others are there."""
    work.hub.set_faults(Fault("status", status=404, path=f"{REPO}/meta/0*"))
    with pytest.raises(PartialFailureError) as caught:
        work.fetch()
    assert [name for name, _ in caught.value.failures] == [f"meta/{index:02}.json" for index in range(10)]
    assert caught.value.total == len(FILES)
    assert len(list((work.repo.snapshot(work.commit) / "data").glob("part-*"))) == 12


def test_a_gated_repo_is_refused_once(work: Work) -> None:
    """When the whole repo is refused, that is the error, and not every file is asked for."""
    gated = work.hub.add_repo("team/gated", {f"{index}": b"%d" % index for index in range(200)}, gated=True)
    repo = RepoCache(work.repo.hub_cache, "team/gated")
    plan = plan_snapshot(work.client.list_files("team/gated", gated), repo, work.memory)
    with pytest.raises(HubRefusalError, match="accept its conditions"):
        fetch_snapshot(work.client, plan, repo, work.memory)
    assert len(work.file_requests()) < 60


def test_nothing_is_fetched_that_would_not_fit(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """max_bytes, free space and inodes are checked before the first byte, for what is missing only."""
    with pytest.raises(SpaceError, match=r"4\.6 MB to fetch, max_bytes allows 1\.0 MB"):
        work.fetch(max_bytes=1_000_000)

    def full(_: object) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, 1000, 100, 100, 1000, 5, 5, 0, 255))

    with monkeypatch.context() as patched:
        patched.setattr("os.statvfs", full)
        with pytest.raises(SpaceError, match=r"4\.\d MB missing"):
            work.fetch()
    assert work.file_requests() == []
    work.fetch(max_bytes=5_000_000)
    work.fetch(max_bytes=0)


def test_a_dry_run_in_numbers(work: Work) -> None:
    """The plan tells files, bytes, what is cached, requests, and hours at the present limit."""
    plan = work.plan()
    summary = plan.describe(work.client.quota())
    assert (summary.files, summary.cached_files, summary.requests) == (29, 0, 28)
    assert summary.bytes == sum(map(len, FILES.values()))
    assert summary.fetch_bytes == summary.bytes - 150_000
    slow = plan.describe(replace(summary.quota, requests=14, window_s=3600, learned=True))
    assert slow.hours == 2.0
    assert "29 files" in str(slow)
    assert "2.0 h at the present limit (14 per 3600 s)" in str(slow)
    assert not work.repo.hub_cache.exists()
    work.fetch()
    assert work.plan().describe(work.client.quota()).requests == 0


@pytest.mark.parametrize("transfer", ["hf_transfer", "xet"])
def test_other_transfers_are_proven_as_well(work: Work, transfer: str) -> None:
    """hf_transfer and huggingface_hub may carry the bytes; what arrives is hashed, and what is lost is said."""
    large = _random.randbytes(1_000_000) * 25
    files = {"large.bin": large, "small.txt": b"small"}
    work.commit = work.hub.add_repo(REPO, files)
    work.hub.set_faults(Fault("flip", path=f"{REPO}/large.bin", offset=-1))
    with pytest.raises(PartialFailureError, match=r"1 of 2 .*large\.bin: 127\.0\.0\.1 served wrong bytes twice"):
        work.fetch(transfer=transfer)
    assert not work.blob_of("large.bin").exists()
    work.hub.set_faults()
    assert work.fetch(transfer=transfer).files == 2
    work.check(files)
    assert any(transfer in note and "not ours" in note for note in work.notes)


@pytest.mark.parametrize("place", ["blobs", "snapshots", "refs", "locks", "pointer", "repo"])
def test_nothing_is_written_through_a_link_out_of_the_cache(work: Work, tmp_path: Path, place: str) -> None:
    """Folders that lead out of the cache are refused by name; what they lead to stays as it was."""
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = work.repo.folder
    link = {
        "blobs": folder / "blobs",
        "snapshots": folder / "snapshots",
        "refs": folder / "refs",
        "locks": work.repo.hub_cache / ".locks",
        "pointer": folder / "snapshots" / work.commit / "data",
        "repo": folder,
    }[place]
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside)
    with pytest.raises((UnsafePathError, PartialFailureError), match="leads out of the cache"):
        work.fetch(revision="main")
    assert list(outside.rglob("*")) == []


def test_hostile_links_in_place_of_files_are_replaced(work: Work, tmp_path: Path) -> None:
    """A partial file, snapshot entry or ref that is a link elsewhere is not written through."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    etag = work.etag("data/big.parquet")
    snapshot = work.repo.snapshot(work.commit)
    for link in (
        work.repo.folder / f"blobs/{etag}.incomplete",
        snapshot / "README.md",
        snapshot / "data/big.parquet",
        work.repo.folder / "refs/main",
        work.repo.lock(etag),
    ):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(victim)
    with pytest.raises(PartialFailureError, match="big"):
        work.fetch(revision="main")
    work.repo.lock(etag).unlink()
    work.fetch(revision="main")
    assert victim.read_bytes() == b"mine"
    assert (work.repo.folder / "refs/main").read_text() == work.commit
    (work.repo.folder / f"blobs/{etag}.incomplete").unlink()
    work.check()


def test_a_cache_that_cannot_be_written_is_one_line(work: Work) -> None:
    """The line names the folder and what to ask for."""
    work.repo.folder.parent.mkdir(parents=True)
    work.repo.folder.write_text("a file where the folder should be")
    with pytest.raises(HfassetsError, match="cannot be written by this user"):
        work.fetch()
