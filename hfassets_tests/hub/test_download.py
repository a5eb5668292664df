"""The whole way of `hfassets hub download`: commit, configs, raw files, Arrow, and what happens when a part fails."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from hfassets.demo.hub_faults import Fault
from hfassets.errors import DataError, HfassetsError, HubError, IntegrityError, SpaceError
from hfassets.hub.acquire import SnapshotRequest, find_snapshot, read_metadata, take_snapshot
from hfassets.hub.download import DownloadError, DownloadRequest, download_dataset, parse_configs, plan_download
from hfassets.hub.layout import RepoCache
from hfassets.hub.memory import VerifyMemory
from hfassets.hub.session import HubClient, hub_options
from hfassets.storage.manifest import read_manifest
from hfassets.storage.state import StateDir

pytestmark = pytest.mark.hub


@pytest.fixture
def request_for(hub_env, tmp_path):
    """A download request into this test's own caches."""

    def make(repo_id: str, *configs: str, **keywords: object) -> DownloadRequest:
        return DownloadRequest(
            repo_id, hub_env.hub_cache, hub_env.datasets_cache, StateDir(tmp_path / "state"), configs,
            **keywords,  # type: ignore[arg-type]
        )  # fmt: skip

    return make


@pytest.fixture
def options(hub_env):
    return hub_options(endpoint=hub_env.hub.url, backoff_factor=0.01)


def small_repo(hub, repo_id: str = "team/two") -> str:
    return hub.add_repo(
        repo_id,
        {
            "README.md": "---\nconfigs:\n- {config_name: one, data_files: one/*}\n"
            "- {config_name: two, data_files: two/*}\n---\n",
            "one/a.jsonl": '{"a": 1}\n{"a": 2}\n',
            "two/b.jsonl": '{"b": "x"}\n',
            "other/picture.png": b"\x89PNG",
        },
    )


@pytest.mark.unit
def test_configs_are_parsed_from_a_comma_list():
    """Trimmed, empty items and repeats dropped; nothing means all."""
    assert parse_configs(" a, b ,,a ") == ("a", "b")
    assert parse_configs("") == parse_configs(None) == parse_configs(" , ") == ()


def test_all_configs_are_found_fetched_and_prepared_once(sample_hub, request_for, options, hub_env):
    """All configs of the card; the manifests say what; a second run asks only for the commit, a pinned one nothing."""
    commit = small_repo(sample_hub)
    request = request_for("team/two")
    first = download_dataset(request, options)
    assert [result.config for result in first.prepared] == ["one", "two"]
    assert [dict(result.splits) for result in first.prepared] == [{"train": 2}, {"train": 1}]
    assert (first.commit, first.failures, first.report) == (commit, (), None)
    manifest = read_manifest(request.state.manifest("hub_snapshot", "team/two:one"))
    assert manifest is not None
    assert {file.path for file in manifest.files} == {"README.md", "one/a.jsonl"}
    assert manifest.inputs["commit"] == commit
    assert all(file.sha256.startswith("git-sha1:") for file in manifest.files)
    assert (hub_env.hub_cache / "datasets--team--two" / "refs" / "main").read_text() == commit
    assert not (hub_env.hub_cache / "datasets--team--two" / "snapshots" / commit / "other").exists()
    sample_hub.reset_log()
    second = download_dataset(request, options)
    assert len(sample_hub.requests) == 1
    assert all(result.reused for result in (*second.snapshots, *second.prepared))
    sample_hub.reset_log()
    pinned = download_dataset(replace(request, revision=commit), options)
    assert sample_hub.requests == []
    assert [result.fingerprint for result in pinned.prepared] == [result.fingerprint for result in first.prepared]
    forced = download_dataset(replace(request, force_redownload=True), options)
    assert not any(result.reused for result in (*forced.snapshots, *forced.prepared))
    assert sample_hub.bytes_sent("team/two/one/a.jsonl") > 0
    assert [result.fingerprint for result in forced.snapshots] == [result.fingerprint for result in first.snapshots]


def test_one_failed_config_is_reported_and_the_others_are_done(request_for, options):
    """A config of the card whose files are missing, one that does not exist: named in the error and the report file."""
    with pytest.raises(DownloadError, match=r"2 of 3 configs of allenai/ai2_arc failed") as caught:
        download_dataset(request_for("allenai/ai2_arc", "ARC-Challenge", "ARC-Easy", "ARC-Esay"), options)
    error = caught.value
    assert [result.config for result in error.result.prepared] == ["ARC-Easy"]
    failed = dict(error.failures)
    assert "nothing in the repo matches ARC-Challenge/" in failed["ARC-Challenge"]
    assert "it has ARC-Easy" in failed["ARC-Esay"]
    report = error.result.report
    assert report is not None
    assert report.name.startswith("download_failures_allenai_ai2_arc_2")
    assert str(report) in str(error)
    assert "\n" not in str(error)
    text = report.read_text()
    assert "Failed configs: 2 of 3" in text
    assert f"Config: ARC-Challenge\nError: {failed['ARC-Challenge']}" in text


def test_failed_enumeration_is_an_error(sample_hub, request_for, options):
    """No listing, no card, a wrong card: an error in one line, and nothing is fetched under any config's name."""
    small_repo(sample_hub)
    request = request_for("team/two")
    for fault in (Fault("status", status=500, path="*/tree/*"), Fault("status", status=503, path="team/two/README.md")):
        sample_hub.set_faults(fault)
        with pytest.raises(HubError):
            download_dataset(request, replace(options, max_retries=1))
    sample_hub.set_faults(Fault("flip", path="team/two/README.md", offset=8))
    with pytest.raises(IntegrityError, match=r"other bytes for README\.md"):
        download_dataset(request, options)
    sample_hub.set_faults()
    sample_hub.add_repo("team/two", {"README.md": "---\nconfigs: 3\n---\n", "a.jsonl": '{"a": 1}\n'})
    with pytest.raises(DataError, match="`configs` in the card is not a list"):
        download_dataset(request, options)
    assert not (request.state.root / "manifests" / "hub_snapshot").exists()
    assert not request.datasets_cache.exists()


def test_script_repos_name_the_revision_that_loads(request_for, options):
    """A script dataset is refused with the advice, and the advice works."""
    request = request_for("codeparrot/apps")
    with pytest.raises(DataError, match="--revision refs/convert/parquet"):
        download_dataset(request, options)
    done = download_dataset(replace(request, revision="refs/convert/parquet"), options)
    assert sum(done.prepared[0].splits.values()) > 0


def test_gated_missing_and_unknown_get_one_line(request_for, options, sample_hub):
    """No token for a gated repo, no such repo, no such revision."""
    cases = [("bigcode/starcoderdata", "main"), ("team/absent", "main"), ("openai/gsm8k", "v9")]
    for repo_id, revision in cases:
        with pytest.raises(HfassetsError) as caught:
            download_dataset(request_for(repo_id, revision=revision), options)
        assert "\n" not in str(caught.value)
        assert repo_id in str(caught.value)
    done = download_dataset(request_for("bigcode/starcoderdata"), replace(options, token=sample_hub.token))
    assert done.failures == ()


def test_dry_run_writes_nothing(sample_hub, request_for, options, tmp_path):
    """Plans for all configs; no cache, no state appears."""
    small_repo(sample_hub)
    plans = dict(plan_download(request_for("team/two"), options))
    assert {config: (plan.files, plan.fetch_files) for config, plan in plans.items()} == {"one": (2, 2), "two": (2, 2)}
    assert plans["one"].bytes > 18
    assert not (tmp_path / "state").exists()
    assert not list((tmp_path / "hf-home").rglob("*")) or not (tmp_path / "hf-home" / "hub").exists()


def test_offline_takes_what_is_there_and_says_what_is_not(sample_hub, request_for, options, hub_env):
    """With HF_HUB_OFFLINE: no request; the branch from the cache's refs; a config never fetched is named as missing."""
    small_repo(sample_hub)
    download_dataset(request_for("team/two", "one"), options)
    offline = replace(options, offline=True)
    sample_hub.reset_log()
    again = download_dataset(request_for("team/two", "one", force_prepare=True), offline)
    assert dict(again.prepared[0].splits) == {"train": 2}
    with pytest.raises(DownloadError, match=r"two: team/two:two: offline, and 1 of 1 files .*two/b\.jsonl"):
        download_dataset(request_for("team/two"), offline)
    with pytest.raises(HubError, match="has not recorded the revision 'v2'"):
        download_dataset(request_for("team/two", revision="v2"), offline)
    for path in (request_for("team/two").state.root / "manifests").rglob("*.json"):
        path.unlink()
    foreign = download_dataset(request_for("team/two", "one"), offline)
    assert (foreign.prepared[0].reused, foreign.snapshots[0].bytes_fetched) == (True, 0)
    assert sample_hub.requests == []


def test_raw_only_all_files_and_globs(sample_hub, request_for, options, hub_env):
    """`--raw-only` stops before Arrow; `files: all` brings what rows may point at; globs keep a part of the files.
    A part of a config is not prepared under its name."""
    commit = small_repo(sample_hub)
    folder = hub_env.hub_cache / "datasets--team--two" / "snapshots" / commit
    result = download_dataset(request_for("team/two", "one", raw_only=True, files="all"), options)
    assert result.prepared == ()
    assert not hub_env.datasets_cache.exists()
    assert (folder / "other" / "picture.png").exists()
    narrow = request_for("team/two", "two", include=("other/*",), files="all", raw_only=True)
    assert {file.path for file in download_dataset(narrow, options).snapshots[0].files} == {
        "README.md",
        "other/picture.png",
    }
    sample_hub.add_repo("team/parts", {f"{n}.jsonl": '{"a": 1}\n' for n in range(3)})
    with pytest.raises(DownloadError, match=r"leave out 1 files that team/parts:default .*\(2\.jsonl\)"):
        download_dataset(request_for("team/parts", exclude=("2.*",)), options)
    with pytest.raises(DownloadError, match="leave none of its 3 files"):
        download_dataset(request_for("team/parts", include=("*.parquet",), raw_only=True), options)


def test_max_bytes_is_kept_over_all_configs(sample_hub, request_for, options):
    """The second config would exceed the budget: refused, with nothing of it fetched."""
    sample_hub.add_repo(
        "team/large",
        {
            "README.md": "---\nconfigs:\n- {config_name: a, data_files: a.jsonl}\n"
            "- {config_name: b, data_files: b.jsonl}\n---\n",
            "a.jsonl": '{"a": 1}\n' * 100,
            "b.jsonl": '{"b": 1}\n' * 100,
        },
    )
    with pytest.raises(DownloadError, match="max_bytes allows") as caught:
        download_dataset(request_for("team/large", max_bytes=1500), options)
    assert [config for config, _ in caught.value.failures] == ["b"]
    assert sample_hub.bytes_sent("team/large/b.jsonl") == 0
    assert issubclass(SpaceError, HfassetsError)


def test_a_recorded_snapshot_counts_only_while_each_file_is_proven(sample_hub, hub_env, options, tmp_path):
    """A blob that changed or went, a link that went, another commit: the snapshot is taken again, healed."""
    commit = small_repo(sample_hub)
    repo = RepoCache(hub_env.hub_cache, "team/two")
    request = SnapshotRequest(repo, commit, StateDir(tmp_path / "state"), "one", key="mine:one")
    pointer = repo.snapshot(commit) / "one" / "a.jsonl"

    def corrupt() -> None:
        blob = pointer.resolve()
        blob.write_bytes(b"x" * blob.stat().st_size)

    def remove_blob() -> None:
        pointer.resolve().unlink()

    with HubClient(options) as client:
        assert find_snapshot(request) is None
        first = take_snapshot(client, request)
        assert find_snapshot(request) == replace(
            first, reused=True, bytes_fetched=0, bytes_cached=first.size, seconds=0.0, waited_s=0.0
        )
        assert find_snapshot(replace(request, files="all")) is None
        for damage in (corrupt, remove_blob, pointer.unlink):
            damage()
            assert find_snapshot(request) is None
            healed = take_snapshot(client, request)
            assert pointer.read_bytes() == b'{"a": 1}\n{"a": 2}\n'
            assert (healed.fingerprint, find_snapshot(request) is not None) == (first.fingerprint, True)


def test_metadata_is_proven_before_it_is_read(sample_hub, hub_env, options, tmp_path):
    """A card damaged in the cache is not believed: its bytes come from the Hub."""
    commit = small_repo(sample_hub)
    repo = RepoCache(hub_env.hub_cache, "team/two")
    state = StateDir(tmp_path / "state")
    with HubClient(options) as client:
        take_snapshot(client, SnapshotRequest(repo, commit, state, "one"))
        card = (repo.snapshot(commit) / "README.md").resolve()
        right = card.read_bytes()
        os.utime(card, (1, 1))
        card.write_bytes(right.replace(b"one/", b"two/"))
        listing = client.list_files("team/two", commit)
        assert read_metadata(client, repo, listing, VerifyMemory.open(state, repo)) == {"README.md": right}


def test_wrong_bytes_from_the_hub_fail_the_config(sample_hub, request_for, options):
    """A Hub that keeps sending wrong bytes: the config fails, no snapshot is recorded, nothing is prepared."""
    small_repo(sample_hub)
    sample_hub.set_faults(Fault("flip", path="team/two/one/*", offset=2))
    with pytest.raises(DownloadError, match=r"one/a\.jsonl") as caught:
        download_dataset(request_for("team/two"), options)
    assert [result.config for result in caught.value.result.prepared] == ["two"]
    assert find_snapshot(
        SnapshotRequest(request_for("team/two").repo, caught.value.result.commit, request_for("team/two").state, "one")
    ) is None  # fmt: skip
    assert Path(str(caught.value.result.report)).is_file()


def test_all_raw_files_of_a_repo_need_no_config(sample_hub, request_for, options):
    """A repo that no library can load, a script one included, can still be fetched whole and proven."""
    sample_hub.add_repo("team/odd", {"weights/model.bin": b"\x00" * 5000, "script.py": b"print(1)\n", "odd.py": b"\n"})
    result = download_dataset(request_for("team/odd", raw_only=True, files="all"), options)
    (taken,) = result.snapshots
    assert taken.config is None
    assert {file.path for file in taken.files} >= {"weights/model.bin", "script.py", "odd.py"}
    assert (taken.folder / "weights/model.bin").read_bytes() == b"\x00" * 5000
