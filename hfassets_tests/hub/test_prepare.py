"""From pinned raw files to Arrow where the unmodified library finds it."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from hfassets.errors import DataError, LeaseHeldError, SpaceError
from hfassets.hub.acquire import SnapshotRequest, take_snapshot
from hfassets.hub.layout import RepoCache
from hfassets.hub.prepare import PreparedDataset, PrepareRequest, find_prepared, prepare
from hfassets.hub.session import HubClient, hub_options
from hfassets.progress import Progress
from hfassets.storage.manifest import read_manifest
from hfassets.storage.state import StateDir

pytestmark = pytest.mark.hub


@pytest.fixture
def state(tmp_path) -> StateDir:
    return StateDir(tmp_path / "state")


@pytest.fixture
def fetched(hub_env, state):
    """Fetch a config's raw files; returns the request to prepare them."""

    def fetch(repo_id: str, config: str, **keywords: object) -> PrepareRequest:
        repo = RepoCache(hub_env.hub_cache, repo_id)
        with HubClient(hub_options(endpoint=hub_env.hub.url)) as client:
            commit = client.resolve_commit(repo_id)
            take_snapshot(client, SnapshotRequest(repo, commit, state, config))
        return PrepareRequest(repo, config, commit, hub_env.datasets_cache, state, **keywords)  # type: ignore[arg-type]

    return fetch


def jsonl(*rows: object) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def one_config(files: dict[str, bytes], *, pattern: str = "*.jsonl") -> dict[str, bytes | str]:
    return {"README.md": f"---\nconfigs:\n- config_name: main\n  data_files: '{pattern}'\n---\n", **files}


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def litter(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.name.endswith((".tmp", ".incomplete")) or ".tmp_" in path.name]


PLAIN = """
    import json, logging, os, sys, datasets
    from pathlib import Path
    def files(cache):
        return {str(p): p.stat().st_mtime_ns for p in Path(cache).rglob("*") if p.suffix in (".arrow", ".json")}
    out = {}
    prepared, fresh = sys.argv[2:4]
    for repo, config, commit, call in json.loads(sys.argv[1]):
        before = files(prepared)
        ours = eval("datasets." + call) if not datasets.config.HF_HUB_OFFLINE else datasets.load_dataset(
            repo, config, cache_dir=prepared)
        rebuilt = files(prepared) != before
        rows = {str(s): d.num_rows for s, d in ours.items()}
        equal = True
        if not datasets.config.HF_HUB_OFFLINE:
            theirs = datasets.load_dataset(repo, config, cache_dir=fresh, revision=commit)
            infos = [json.loads(next(Path(c).rglob(f"{config}/*/{commit}/dataset_info.json")).read_text())
                     for c in (prepared, fresh)]
            tables = [{s: part.data.table for s, part in built.items()} for built in (ours, theirs)]
            equal = infos[0] == infos[1] and all(tables[0][s].equals(tables[1][s]) for s in theirs)
        out[f"{repo}:{config}"] = [rebuilt, rows, equal]
    print(json.dumps(out))
"""


def test_plain_load_dataset_finds_what_was_prepared_online_and_offline(hub_env, sample_hub, fetched, state):
    """Every sample format: nothing is rebuilt, rows and `dataset_info.json` are those of the library's own build, and
    HF_HUB_OFFLINE finds it with the known warning only. Preparing itself asks the Hub nothing."""
    sample_hub.add_repo(
        "Some-Team/MixedCase_name",
        one_config({"a.jsonl.gz": gzip.compress(jsonl({"a": 1}, {"a": 2}))}, pattern="*.gz"),
    )
    sample_hub.add_repo("team/zipped", {"train.zip": zipped({"a.jsonl": jsonl({"a": 1})})})
    sample_hub.add_repo("team/tarred", {"train-0.tar": tarred({"1.txt": b"one", "1.json": b'{"n": 1}'})})
    sample_hub.add_repo("team/labels", {f"train/{kind}/{kind}.png": b"\x89PNG" for kind in ("cat", "dog")})
    sample_hub.add_repo(
        "team/table",
        {
            "README.md": "---\nconfigs:\n"
            "- {config_name: tabs, data_files: '*.data.csv', sep: '|', version: 1.2.0}\n---\n",
            "x.data.csv": "a|b\n1|2\n",
        },
    )
    wanted = [
        ("ibm-research/duorc", "SelfRC"), ("allenai/c4", "en"), ("cerebras/SlimPajama-627B", "default"),
        ("google/docci", "default"), ("AI-Lab-Makerere/beans", "default"), ("roneneldan/TinyStories", "default"),
        ("Some-Team/MixedCase_name", "main"), ("team/zipped", "default"), ("team/tarred", "default"),
        ("team/labels", "default"), ("team/table", "tabs"),
    ]  # fmt: skip
    requests = [fetched(repo, config) for repo, config in wanted]
    sample_hub.reset_log()
    events: list[object] = []
    done = [prepare(request, events.append) for request in requests]
    assert sample_hub.requests == []
    assert not any(result.reused for result in done)
    rows = [event for event in events if isinstance(event, Progress) and event.unit == "rows"]
    assert {event.task for event in rows} >= {"ibm-research/duorc:SelfRC: Generating train split"}
    arguments = json.dumps([[r.repo_id, r.config, r.commit, r.load_call] for r in done])
    fresh = hub_env.home / "fresh"
    expected = {f"{r.repo_id}:{r.config}": [False, dict(r.splits), True] for r in done}
    online = hub_env.python(PLAIN, arguments, hub_env.datasets_cache, fresh, HF_HUB_DISABLE_XET="1")
    assert json.loads(online.stdout.splitlines()[-1]) == expected
    offline = hub_env.python(PLAIN, arguments, hub_env.datasets_cache, fresh, HF_HUB_OFFLINE="1")
    assert json.loads(offline.stdout.splitlines()[-1]) == expected
    warned = [line for line in offline.stderr.splitlines() if line.strip()]
    assert {line.split(" ")[0] for line in warned} == {"Using", "Found"}
    assert len(warned) == 2 * len(done)
    assert litter(hub_env.datasets_cache) == []
    for request, result in zip(requests, done, strict=True):
        manifest = read_manifest(request.manifest)
        assert manifest is not None
        assert manifest.account == result.splits
        assert {file.path for file in manifest.files} == {path.name for path in result.folder.iterdir()}
        assert manifest.fingerprint == result.fingerprint


def test_what_is_prepared_is_skipped_without_the_library(fetched, hub_env, state):
    """A second call costs stats only: `datasets` is not imported. A file of another size, or force, prepares again."""
    request = fetched("allenai/ai2_arc", "ARC-Easy")
    first = prepare(request)
    code = """
        import sys
        sys.modules["datasets"] = None
        from pathlib import Path
        from hfassets.hub.layout import RepoCache
        from hfassets.hub.prepare import PrepareRequest, prepare
        from hfassets.storage.state import StateDir
        hub, cache, state, commit = sys.argv[1:]
        repo = RepoCache(Path(hub), "allenai/ai2_arc")
        print(prepare(PrepareRequest(repo, "ARC-Easy", commit, Path(cache), StateDir(Path(state)))).reused)
    """
    done = hub_env.python(code, hub_env.hub_cache, hub_env.datasets_cache, state.root, request.commit)
    assert done.stdout.split() == ["True"]
    damaged = first.folder / next(file.path for file in first.files if file.path.endswith("train.arrow"))
    damaged.write_bytes(damaged.read_bytes()[:-100])
    assert find_prepared(request) is None
    again = prepare(request)
    assert (again.reused, again.splits, again.fingerprint) == (False, first.splits, first.fingerprint)
    assert prepare(replace(request, force=True)).reused is False


def test_images_and_sounds_are_prepared_without_their_decoders(hub_env, sample_hub, fetched, state):
    """Image Parquet, an image folder and an audio folder become Arrow where Pillow and torchcodec cannot be imported,
    with the paths of the raw files."""
    sample_hub.add_repo("team/sounds", {f"{n}.wav": b"RIFF" + bytes(40) for n in range(3)})
    repos = ("google/docci", "AI-Lab-Makerere/beans", "team/sounds")
    requests = [fetched(repo, "default") for repo in repos]
    code = """
        import sys
        sys.modules["PIL"] = sys.modules["torchcodec"] = None
        from pathlib import Path
        from hfassets.hub.layout import RepoCache
        from hfassets.hub.prepare import PrepareRequest, prepare
        from hfassets.storage.state import StateDir
        hub, cache, state = map(Path, sys.argv[1:4])
        for repo, commit in zip(sys.argv[4::2], sys.argv[5::2]):
            done = prepare(PrepareRequest(RepoCache(hub, repo), "default", commit, cache, StateDir(state)))
            print(sum(done.splits.values()) > 2, "Image" in done.features, "Audio" in done.features)
    """
    words = [word for request in requests for word in (request.repo.repo_id, request.commit)]
    done = hub_env.python(code, hub_env.hub_cache, hub_env.datasets_cache, state.root, *words)
    assert done.stdout.splitlines() == ["True True False", "True True False", "True False True"]
    assert done.stderr == ""
    sounds = prepare(requests[2])
    import datasets

    (arrow,) = [file.path for file in sounds.files if file.path.endswith(".arrow")]
    rows = datasets.Dataset.from_file(str(sounds.folder / arrow)).cast_column("audio", datasets.Audio(decode=False))
    folder = requests[2].repo.snapshot(requests[2].commit)
    assert [row["audio"] for row in rows] == [{"bytes": None, "path": str(folder / f"{n}.wav")} for n in range(3)]


def test_a_folder_that_the_library_prepared_is_taken_over_if_it_is_whole(fetched, hub_env):
    """What plain `load_dataset` left is reused and gets a manifest; the same folder cut short is prepared again."""
    request = fetched("allenai/ai2_arc", "ARC-Easy")
    made = prepare(request)
    request.manifest.unlink()
    inode = made.folder.stat().st_ino
    reused = prepare(request)
    assert (reused.reused, reused.files, reused.folder.stat().st_ino) == (True, made.files, inode)
    request.manifest.unlink()
    arrow = next(path for path in made.folder.iterdir() if path.suffix == ".arrow")
    arrow.write_bytes(arrow.read_bytes()[: arrow.stat().st_size // 2])
    again = prepare(request)
    assert (again.reused, again.splits) == (False, made.splits)


def test_num_proc_is_capped_and_gives_the_same_rows(fetched, sample_hub):
    """More processes than files is no error and no warning; rows come in the same order."""
    files = {f"{n}.jsonl": jsonl(*({"n": n, "i": i} for i in range(50))) for n in range(3)}
    sample_hub.add_repo("team/several", one_config(files))
    request = fetched("team/several", "main", num_proc=16)
    parallel = prepare(request)
    rows = _rows(parallel)
    alone = prepare(replace(request, num_proc=None, force=True))
    assert rows == _rows(alone) == [{"n": n, "i": i} for n in range(3) for i in range(50)]
    assert parallel.fingerprint == alone.fingerprint


def _rows(result: PreparedDataset) -> list[object]:
    import datasets

    (split,) = result.splits
    paths = sorted(file.path for file in result.files if file.path.endswith(".arrow"))
    found = [datasets.Dataset.from_file(str(result.folder / path)) for path in paths]
    assert sum(part.num_rows for part in found) == result.splits[split]
    return [row for part in found for row in part]


def test_a_partial_snapshot_is_enough(fetched, hub_env, state):
    """Only this config's files in the cache, no listing kept, and a card that names others: it prepares."""
    request = fetched("ibm-research/duorc", "SelfRC")
    assert not (request.repo.snapshot(request.commit) / "ParaphraseRC").exists()
    for kept in (state.root / "manifests").rglob("*.json"):
        kept.unlink()
    assert prepare(request).splits["train"] > 0
    with pytest.raises(DataError, match=r"ParaphraseRC.*no data files"):
        prepare(replace(request, config="ParaphraseRC"))


MALFORMED = {
    "json": one_config({"good.jsonl": jsonl({"a": 1}), "oops.jsonl": b'{"a": 1}\n{"a": \n'}),
    "parquet": one_config({"bad.parquet": b"PAR1 this is no parquet PAR1"}, pattern="*.parquet"),
    "columns": one_config({"1.csv": b"a,b\n1,2\n3,4\n", "2.csv": b"a,c\n1,2\n3,4\n"}, pattern="*.csv"),
    "single-rows": one_config({"1.csv": b"a,b\n1,2\n", "2.csv": b"a,c\n1,2\n"}, pattern="*.csv"),
    "sizes": {
        "README.md": "---\nconfigs:\n- {config_name: main, data_files: a.jsonl}\ndataset_info:\n  config_name: main\n"
        "  features:\n  - {name: a, dtype: int64}\n  splits:\n  - {name: train, num_examples: 7, num_bytes: 1}\n---\n",
        "a.jsonl": jsonl({"a": 1}),
    },
}


@pytest.mark.parametrize(
    ("kind", "num_proc", "message"),
    [
        ("json", None, r"oops\.jsonl.*intact|oops\.jsonl.*malformed"),
        ("json", 2, r"oops\.jsonl.*malformed"),
        ("parquet", None, r"bad\.parquet.*malformed"),
        ("columns", None, r"prepared: 2\.csv: .*same columns.*malformed"),
        ("single-rows", None, r"Schema at index 1 was different: a: int64 b: int64 vs.*malformed"),
        ("sizes", None, r"rows found are not those that the repo's card announces.*malformed"),
    ],
)
def test_malformed_data_is_told_from_damaged_data(fetched, sample_hub, kind, num_proc, message):
    """Intact bytes that cannot be prepared: one line with the file and the library's reason; nothing is left behind."""
    sample_hub.add_repo(f"team/{kind}", MALFORMED[kind])
    request = fetched(f"team/{kind}", "main", num_proc=num_proc)
    with pytest.raises(DataError, match=message) as caught:
        prepare(request)
    text = str(caught.value)
    assert "\n" not in text
    assert "as the Hub has them" in text
    assert litter(request.datasets_cache) == []
    assert not list(request.datasets_cache.rglob("*.arrow"))
    assert not request.manifest.exists()


def test_damaged_data_is_named_and_fetched_again(fetched, sample_hub, hub_env, state):
    """Bytes rotted since the download, time stamps kept: the failed prepare says so, the next fetch heals it."""
    repo_id = "team/rotting"
    sample_hub.add_repo(repo_id, one_config({"a.jsonl": jsonl(*({"a": i} for i in range(100)))}))
    request = fetched(repo_id, "main")
    blob = (request.repo.snapshot(request.commit) / "a.jsonl").resolve()
    status = blob.stat()
    with blob.open("r+b") as file:
        file.seek(300)
        file.write(b"\xff\x00\xff")
    os.utime(blob, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match=r"raw data is damaged \(a\.jsonl is corrupt\).*hub download"):
        prepare(request)
    assert prepare(fetched(repo_id, "main")).splits == {"train": 100}


def test_a_failing_force_keeps_what_was_there(fetched, sample_hub):
    """The old folder stays until the new one is whole."""
    sample_hub.add_repo("team/forced", one_config({"a.jsonl": jsonl({"a": 1})}))
    request = fetched("team/forced", "main")
    made = prepare(request)
    (request.repo.snapshot(request.commit) / "a.jsonl").resolve().write_bytes(b"{")
    with pytest.raises(DataError, match="damaged"):
        prepare(replace(request, force=True))
    assert find_prepared(request) == replace(made, reused=True, seconds=0.0)
    assert _rows(made) == [{"a": 1}]


def test_space_and_leases_are_asked_first(fetched, sample_hub, monkeypatch, state):
    """Too little space is said with the estimate; a config that another run prepares is refused by name."""
    sample_hub.add_repo("team/big", one_config({"a.jsonl": jsonl({"a": 1})}))
    request = fetched("team/big", "main")
    small = os.statvfs_result((4096, 4096, 10**6, 0, 0, 10**6, 10**6, 10**6, 0, 255))
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: small)
        with pytest.raises(
            SpaceError, match=r"team/big:main: about .* of Arrow to write \(estimated as 1\.5 x .*json\)"
        ):
            prepare(request)
    script = textwrap.dedent(
        """
        import sys, threading
        from pathlib import Path
        import hfassets.hub.prepare as p
        from hfassets.hub.layout import RepoCache
        from hfassets.storage.state import StateDir
        hub, cache, state, commit = sys.argv[1:]
        def hold(*_):
            print("held", flush=True)
            sys.stdin.read()
        p._prepare = hold
        repo = RepoCache(Path(hub), "team/big")
        p.prepare(p.PrepareRequest(repo, "main", commit, Path(cache), StateDir(Path(state))))
        """
    )
    words = [sys.executable, "-c", script, request.repo.hub_cache, request.datasets_cache, state.root, request.commit]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LeaseHeldError, match=f"team/big:main in .* process {holder.pid}"):
            prepare(request)
        assert holder.stdin is not None
        holder.stdin.close()
    assert prepare(request).splits == {"train": 1}


def test_a_kill_in_the_middle_leaves_no_trace_after_the_next_run(fetched, sample_hub, state):
    """SIGKILL while processes write shards: no folder counts, no orphan lives on; the next run gives all rows and
    clears what was left."""
    files = {f"{n}.jsonl": jsonl(*({"n": n, "i": i} for i in range(2000))) for n in range(4)}
    sample_hub.add_repo("team/killed", one_config(files))
    request = fetched("team/killed", "main", num_proc=2)
    script = """
        import os, signal, sys
        from pathlib import Path
        from hfassets.hub.layout import RepoCache
        from hfassets.hub.prepare import PrepareRequest, prepare
        from hfassets.progress import Progress
        from hfassets.storage.state import StateDir
        hub, cache, state, commit = sys.argv[1:]
        def kill(event):
            if isinstance(event, Progress) and event.unit == "rows" and event.done:
                print(*Path(f"/proc/self/task/{os.getpid()}/children").read_text().split(), flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
        repo = RepoCache(Path(hub), "team/killed")
        prepare(PrepareRequest(repo, "main", commit, Path(cache), StateDir(Path(state)), num_proc=2), kill)
    """
    words = [request.repo.hub_cache, request.datasets_cache, state.root, request.commit]
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, words)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    children = killed.stdout.split()
    assert len(children) >= 2
    _wait_until(lambda: not any(_is_alive(int(child)) for child in children))
    assert litter(request.datasets_cache) != []
    assert find_prepared(request) is None
    result = prepare(request)
    assert result.splits == {"train": 8000}
    assert _rows(result) == [{"n": n, "i": i} for n in range(4) for i in range(2000)]
    assert litter(request.datasets_cache) == []


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def _wait_until(condition) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
