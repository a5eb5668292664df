"""Parts that go to a bucket or a repo as they are made: nothing is made twice, sent twice, or lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, constants

from hfassets.demo.hub_faults import Fault
from hfassets.demo.hub_server import SampleHub
from hfassets.errors import DataError, HubError, PartialFailureError, UsageError
from hfassets.mds.inputs import Cut
from hfassets.mds.origins import Target, from_files
from hfassets.mds.reader import MdsReader
from hfassets.mds.remote import Place
from hfassets.mds.shipping import Shipping, make_shipped, upload_folder
from hfassets.mds.stage import Stage, StageRun, make_stage
from hfassets.mds.upstream import upstream
from hfassets.mds.verify import verify_mds
from hfassets.storage.s3 import ObjectExistsError
from hfassets.storage.state import StateDir
from hfassets_tests.conftest import ClientEnvironment
from hfassets_tests.mds.pipeline import corpus, write_jsonl
from hfassets_tests.s3 import BUCKET, S3Server, s3, s3_server

__all__ = ["s3", "s3_server"]

TO = f"s3://{BUCKET}/sets/text"


@pytest.fixture
def stage(tmp_path: Path) -> Callable[[str], Stage]:
    """The conversion of one corpus into some parts, in a folder of that name."""
    write_jsonl(tmp_path / "source", corpus(120))

    def make(name: str) -> Stage:
        return _stage(tmp_path, name)

    return make


def _stage(root: Path, name: str) -> Stage:
    return from_files(root / "source", Target(root / name, StateDir(root / "state"), cut=Cut(60_000))).stage()


def _shards(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.mds*"))}


def _run(root: Path, **more: Any) -> StageRun:
    return StageRun(StateDir(root / "state"), **more)


def test_a_bucket_holds_the_shards_and_the_disk_none(
    s3: S3Server, stage: Callable[[str], Stage], tmp_path: Path
) -> None:
    """The same bytes as without; the set is complete there; a second run, and one on another disk, send nothing."""
    plain = make_stage(stage("plain"), _run(tmp_path))
    shipping = Shipping(Place(TO), cleanup=True)
    made = make_shipped(stage("shipped"), _run(tmp_path, workers=2), shipping)
    assert not _shards(made.root)
    there = {key.removeprefix("sets/text/"): s3.read(key) for key in s3.objects()}
    assert {name: data for name, data in there.items() if ".mds" in name} == _shards(plain.root)
    assert there["index.json"] == (plain.root / "index.json").read_bytes()
    assert made.fingerprint == plain.fingerprint and not verify_mds(made.root).faults
    before = _written(s3)
    assert make_shipped(stage("shipped"), _run(tmp_path), shipping).reused
    notes: list[str] = []
    shutil.rmtree(made.root)
    again = make_shipped(stage("other"), _run(tmp_path), shipping, lambda note: notes.append(str(note)))
    assert again.parts_made == 0 and any("are not made again" in note for note in notes)
    assert (again.root / "index.json").read_bytes() == there["index.json"]
    # The manifest of the whole says when it was made, so it alone is written anew.
    assert {key for key, when in _written(s3).items() if before[key] != when} <= {"sets/text/manifest.json"}
    with pytest.raises(DataError, match=f"were brought to {TO} and are not here"):
        upstream(again.root)
    with pytest.raises(PartialFailureError, match=f"they cannot go to s3://{BUCKET}/b"):
        make_shipped(stage("other"), _run(tmp_path), Shipping(Place(f"s3://{BUCKET}/b")))
    assert not [key for key in s3.objects() if key.startswith("b/")]


def test_without_cleaning_up_all_is_in_both_places(s3: S3Server, stage: Callable[[str], Stage], tmp_path: Path) -> None:
    """Also on a new disk, where it is made again and not sent again; cleaned up later, what a kill left goes too."""
    shipping = Shipping(Place(TO))
    made = make_shipped(stage("shipped"), _run(tmp_path), shipping)
    shards, before = _shards(made.root), _written(s3)
    there = {key.removeprefix("sets/text/"): s3.read(key) for key in before}
    assert {name: data for name, data in there.items() if ".mds" in name} == shards
    shutil.rmtree(made.root)
    assert _shards(make_shipped(stage("shipped"), _run(tmp_path), shipping).root) == shards
    assert {key: when for key, when in _written(s3).items() if ".mds" in key} == {
        key: when for key, when in before.items() if ".mds" in key
    }
    make_shipped(stage("shipped"), _run(tmp_path), Shipping(Place(TO), cleanup=True))
    assert not _shards(made.root)
    for name, data in shards.items():
        (made.root / name).write_bytes(data)
    make_shipped(stage("shipped"), _run(tmp_path), Shipping(Place(TO), cleanup=True))
    assert not _shards(made.root)


def _written(s3: S3Server) -> dict[str, Any]:
    return {one["Key"]: one["LastModified"] for one in s3.client.list_objects_v2(Bucket=BUCKET)["Contents"]}


_SCRIPT = """
import sys
from pathlib import Path
from hfassets_tests.mds.test_shipping import make
if __name__ == "__main__":
    make(Path(sys.argv[1]))
"""


def make(root: Path) -> None:
    """In a process of its own, to be killed."""
    make_shipped(_stage(root, "shipped"), _run(root, workers=2), Shipping(Place(TO), cleanup=True))


def test_killed_while_parts_are_sent_it_goes_on(s3: S3Server, stage: Callable[[str], Stage], tmp_path: Path) -> None:
    """SIGKILL when some parts have arrived: in the end all is there, once, as if nothing had been."""
    plain = make_stage(stage("plain"), _run(tmp_path))
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=environment, start_new_session=True)
    deadline = time.monotonic() + 60
    while not s3.objects() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    make(tmp_path)
    there = {key.removeprefix("sets/text/"): s3.read(key) for key in s3.objects()}
    assert {name: data for name, data in there.items() if ".mds" in name} == _shards(plain.root)
    assert not _shards(tmp_path / "shipped")


def test_what_somebody_else_put_there_stays(s3: S3Server, stage: Callable[[str], Stage], tmp_path: Path) -> None:
    """Another object of a shard's name is an error that names it, and no shard is removed here."""
    plain = make_stage(stage("plain"), _run(tmp_path))
    name = next(iter(_shards(plain.root)))
    s3.client.put_object(Bucket=BUCKET, Key=f"sets/text/{name}", Body=b"somebody's")
    with pytest.raises(Exception, match="another object") as raised:
        make_shipped(stage("plain"), _run(tmp_path), Shipping(Place(TO), cleanup=True))
    assert name in str(raised.value)
    assert s3.read(f"sets/text/{name}") == b"somebody's"
    with pytest.raises(ObjectExistsError):
        upload_folder(plain.root, Place(TO))


@pytest.fixture
def hub(sample_hub: SampleHub, monkeypatch: pytest.MonkeyPatch) -> SampleHub:
    """The sample Hub for somebody who may write, as a process sees it that began with this environment."""
    monkeypatch.setattr(constants, "ENDPOINT", sample_hub.url)
    monkeypatch.setenv("HF_ENDPOINT", sample_hub.url)
    monkeypatch.setenv("HF_TOKEN", sample_hub.token)
    return sample_hub


def _fetched(hub_env: ClientEnvironment, repo: str) -> Path:
    """What the unmodified client fetches of a repo."""
    code = "import sys, huggingface_hub as h; print(h.snapshot_download(sys.argv[1], repo_type='dataset'))"
    return Path(hub_env.run(sys.executable, "-c", code, repo).stdout.strip())


def test_a_repo_gets_a_commit_a_part(
    hub: SampleHub, hub_env: ClientEnvironment, stage: Callable[[str], Stage], tmp_path: Path
) -> None:
    """What the unmodified client fetches is the set; a server in trouble is asked again; nothing is sent twice."""
    plain = make_stage(stage("plain"), _run(tmp_path))
    hub.set_faults(
        Fault("status", path="*commit*", status=500, times=1), Fault("status", path="/lfs/*", status=503, times=1)
    )
    shipping = Shipping(Place("team/text-mds/en"), cleanup=True)
    made = make_shipped(stage("shipped"), _run(tmp_path), shipping)
    api = HfApi(endpoint=hub.url, token=hub.token)
    assert not _shards(made.root)
    fetched = _fetched(hub_env, "team/text-mds")
    assert _shards(fetched / "en") == _shards(plain.root)
    assert len(MdsReader(fetched / "en")) == len(MdsReader(plain.root))
    files = api.list_repo_files("team/text-mds", repo_type="dataset")
    assert {"en/index.json", "en/manifest.json", "en/stats.json"} <= set(files)
    hub.reset_log()
    shutil.rmtree(made.root)
    assert make_shipped(stage("shipped"), _run(tmp_path), shipping).parts_made == 0
    assert not [one for one in hub.requests if one.path.startswith("/lfs/")]


def test_a_folder_is_uploaded_once(
    hub: SampleHub, hub_env: ClientEnvironment, stage: Callable[[str], Stage], tmp_path: Path
) -> None:
    """To a repo of the Hub, in commits of some files each, the manifest in the last one."""
    plain = make_stage(stage("plain"), _run(tmp_path))
    files, sent = upload_folder(plain.root, Place("hf://datasets/team/whole"))
    assert files == sent > 4
    assert upload_folder(plain.root, Place("team/whole")) == (files, 0)
    fetched = _fetched(hub_env, "team/whole")
    for path in plain.root.rglob("*"):
        if path.is_file():
            assert (fetched / path.relative_to(plain.root)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("text", ["", "text", "s3:/x", "a/../b", "https://x/y", "/tmp/x"])
def test_a_place_that_is_none_is_told(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line that says what a place looks like."""
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    with pytest.raises(UsageError, match="s3://bucket/prefix, or ORG/NAME of the Hub"):
        Place(text).open()


def test_without_a_token_nothing_is_begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The line says what to set."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(HubError, match="set HF_TOKEN"):
        Place("team/x").open()


def test_a_token_that_may_not_write_is_told(
    sample_hub: SampleHub, stage: Callable[[str], Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the Hub's own words, before anything is made."""
    monkeypatch.setenv("HF_ENDPOINT", sample_hub.url)
    monkeypatch.setenv("HF_TOKEN", sample_hub.stranger_token)
    with pytest.raises(HubError, match="may write"):
        make_shipped(stage("shipped"), _run(tmp_path), Shipping(Place("team/x"), cleanup=True))
    assert not (tmp_path / "shipped").exists()
