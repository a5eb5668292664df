"""`hfassets hub` end to end: real processes against the sample Hub."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hfassets.demo.hub_faults import Fault

if TYPE_CHECKING:
    from hfassets_tests.conftest import ClientEnvironment

pytestmark = pytest.mark.hub

Run = Callable[..., subprocess.CompletedProcess[str]]

DUORC = "ibm-research/duorc"


@pytest.fixture
def run(hub_env: ClientEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `hfassets hub ...` in a folder of its own and hold it to the rules that every command keeps."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def call(*words: str | Path, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        done = hub_env.run(sys.executable, "-m", "hfassets.cli.main", "hub", *words, check=False, **variables)
        assert done.returncode == code, f"{done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        assert "Traceback" not in done.stdout + done.stderr
        assert not set("\r\x1b") & set(done.stdout + done.stderr), "no bars or colours where there is no terminal"
        errors = [line for line in done.stderr.splitlines() if line.startswith("hfassets:")]
        assert len(errors) == (code != 0)
        return done

    return call


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that says what went wrong: the last on stderr."""
    return done.stderr.splitlines()[-1].removeprefix("hfassets: error: ")


def document(done: subprocess.CompletedProcess[str]) -> Any:
    """stdout as JSON: nothing else may stand there."""
    return json.loads(done.stdout)


def big_blob(cache: Path, repo_id: str) -> Path:
    """The largest blob of a repo in a Hub cache."""
    folder = cache / f"datasets--{repo_id.replace('/', '--')}" / "blobs"
    return max(folder.iterdir(), key=lambda path: path.stat().st_size)


def damage(path: Path) -> None:
    """Flip one bit in the middle, the size unchanged."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_download_ends_with_a_call_that_loads_it(run: Run, hub_env: ClientEnvironment, tmp_path: Path) -> None:
    """The old flags are taken; a table names each config; the printed call works; a second run fetches nothing."""
    words = ("download", "--dataset-name", DUORC, "--cache-dir", tmp_path / "arrow", "--split", "test")
    done = run(*words, "--num-proc", "2", "--max-retries", "10", "--backoff-factor", "1.2", "--trust-remote-code")
    assert "notice: --split test is ignored" in done.stderr
    assert "notice: --trust-remote-code is ignored" in done.stderr
    assert f"{DUORC} at {hub_env.hub.commit(DUORC)}: 2 configs ok, 0 failed" in done.stdout
    calls = re.findall(r"^  (load_dataset\(.*\))$", done.stdout, re.MULTILINE)
    assert len(calls) == 2
    loaded = hub_env.python(f"from datasets import load_dataset; print({calls[0]}['train'].num_rows)")
    assert int(loaded.stdout) > 1000
    hub_env.hub.reset_log()
    again = run("download", "--dataset-name", DUORC, "--cache-dir", tmp_path / "arrow", "--json")
    result = document(again)
    assert result["bytes_fetched"] == 0
    assert result["bytes_cached"] > 1_000_000
    assert [config["prepared"]["reused"] for config in result["configs"]] == [True, True]
    assert hub_env.hub.bytes_sent("*/resolve/*") == 0


def test_a_hub_that_refuses_and_cuts_is_waited_for_and_named(run: Run, hub_env: ClientEnvironment) -> None:
    """Every third request 429, every tenth body cut: it completes, and the summary says what it waited for."""
    hub_env.hub.set_faults(
        Fault("status", every=3, status=429, header="retry-after", wait=1), Fault("cut", every=10, after=500)
    )
    words = ("download", "--dataset-name", DUORC, "--raw-only", "--max-retries", "20", "--backoff-factor", "0.01")
    done = run(*words, "--json", "report.json")
    assert re.search(r"^Waited \d.* for the Hub:$", done.stdout, re.MULTILINE)
    assert re.search(r"^  \d+ times?, .*429", done.stdout, re.MULTILINE)
    assert "To load" not in done.stdout
    waits = json.loads(Path("report.json").read_text())["waits"]
    assert sum(wait["times"] for wait in waits) >= 1
    assert all(hits > 0 for hits in hub_env.hub.fault_hits)
    hub_env.hub.set_faults()
    assert run("verify", "--full").stdout.endswith("no faults\n")


def test_failed_configs_are_listed_and_the_others_are_done(run: Run, tmp_path: Path) -> None:
    """Exit 1, valid JSON with both, the reason in the report file of the state folder; blanks in the list dropped."""
    words = ("--subset-name", " SelfRC ,,Nope,", "--cache-dir", tmp_path / "arrow", "--state-dir", tmp_path / "state")
    done = run("download", "--dataset-name", DUORC, *words, "--json", code=1)
    assert "has no config 'Nope'; it has ParaphraseRC, SelfRC" in error_of(done)
    result = document(done)
    assert {config["config"]: config["ok"] for config in result["configs"]} == {"SelfRC": True, "Nope": False}
    report = Path(result["report"])
    assert report.parent == tmp_path / "state" / "reports"
    assert report.name.startswith("download_failures_ibm-research_duorc_")
    assert "Nope" in report.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dataset-name", "bigcode/starcoderdata"], "is gated: accept its conditions at"),
        (["--dataset-name", "nobody/nothing"], "does not exist or is private"),
        (["--dataset-name", "codeparrot/apps"], "is a script dataset"),
        (["--dataset-name", DUORC, "--revision", "nope"], "nope"),
        (["--dataset-name", "not an id"], "is not a Hub repo id; it looks like owner/name"),
        (["--dataset-name", DUORC, "--max-bytes", "1kB"], "max_bytes allows 1.0 kB"),
        (["--dataset-name", DUORC, "--include", "*.parquet", "--exclude", "*"], "include and exclude leave none"),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_do(
    run: Run, hub_env: ClientEnvironment, words: list[str], said: str
) -> None:
    """It says what to do; exit 1, no traceback, and no data file was sent."""
    done = run("download", *words, "--raw-only", "--max-retries", "0", code=1)
    assert said in error_of(done)
    assert hub_env.hub.bytes_sent("*.parquet") == 0


def test_a_hub_that_cannot_be_reached_is_one_line(run: Run) -> None:
    """It names the address and how often it was tried."""
    done = run("download", "--dataset-name", DUORC, "--raw-only", "--max-retries", "0", code=1,
               HF_ENDPOINT="http://127.0.0.1:1")  # fmt: skip
    assert "127.0.0.1:1" in error_of(done)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["download"], "--dataset-name"),
        (["download", "--dataset-name", "a/b"], "--cache-dir is missing"),
        (["download", "--dataset-name", "a/b", "--raw-only", "--max-bytes", "lots"], "looks like 200GB"),
        (["download", "--dataset-name", "a/b", "--raw-only", "--transfer", "ftp"], "'http', 'hf_transfer', 'xet'"),
        (["download", "--dataset-name", "a/b", "--raw-only", "--workers", "0"], "--workers"),
        (["download", "--dataset-name", "a/b", "--raw-only", "--token", "hf_verysecret"], "set HF_TOKEN instead"),
        (["prepare", "--dataset-name", "a/b"], "--cache-dir is missing"),
        (["verify", "--batch"], "No such option"),
        (["test-load", "--dataset-name", DUORC, "--split", "train[:"], "is no split"),
    ],
)
def test_usage_errors_give_2(run: Run, words: list[str], said: str) -> None:
    """One line; a token that was given is refused and not repeated."""
    done = run(*words, code=2)
    assert said in error_of(done)
    assert "verysecret" not in done.stdout + done.stderr


def test_a_dry_run_writes_nothing(run: Run, hub_env: ClientEnvironment) -> None:
    """Files, bytes, what is cached, requests and hours; no cache, no state."""
    done = run("download", "--dataset-name", DUORC, "--dry-run", "--json")
    plans = {plan["config"]: plan for plan in document(done)["configs"]}
    assert set(plans) == {"SelfRC", "ParaphraseRC"}
    assert plans["SelfRC"]["fetch_bytes"] == plans["SelfRC"]["bytes"] > 500_000
    assert plans["SelfRC"]["requests"] == plans["SelfRC"]["files"]
    assert not hub_env.hub_cache.exists()
    assert list(Path.cwd().iterdir()) == []


def test_patterns_choose_raw_files_but_never_a_part_of_a_dataset(
    run: Run, hub_env: ClientEnvironment, tmp_path: Path
) -> None:
    """A part of the files may be fetched raw; preparing a part as if it were the whole is refused before a byte."""
    only = ("--dataset-name", DUORC, "--subset-name", "SelfRC", "--include", "SelfRC/test*")
    done = run("download", *only, "--cache-dir", tmp_path / "arrow", code=1)
    assert re.search(r"leave out \d files that ibm-research/duorc:SelfRC is prepared from", error_of(done))
    assert hub_env.hub.bytes_sent("*.parquet") == 0
    run("download", *only, "--raw-only")
    names = {path.name for path in hub_env.hub_cache.glob("datasets--*/snapshots/*/**/*.parquet")}
    assert len(names) == 1
    assert names.pop().startswith("test")


def test_raw_files_first_prepared_offline_later(run: Run, hub_env: ClientEnvironment, tmp_path: Path) -> None:
    """`prepare --offline` needs no Hub; what was never fetched is one line; test-load shows what came."""
    arrow = ("--cache-dir", tmp_path / "arrow")
    run("download", "--dataset-name", DUORC, "--subset-name", "SelfRC", "--raw-only")
    hub_env.hub.reset_log()
    run("prepare", "--dataset-name", DUORC, "--subset-name", "SelfRC", *arrow, "--offline")
    missing = run("prepare", "--dataset-name", DUORC, "--subset-name", "ParaphraseRC", *arrow, "--offline", code=1)
    assert "offline" in error_of(missing)
    loading = ("test-load", "--dataset-name", DUORC, "--subset-name", "SelfRC", *arrow, "--offline")
    shown = run(*loading, "--split", "test[0:5]", "--json")
    assert hub_env.hub.requests == []
    assert document(shown)["loaded"][0]["rows"] == 5
    assert len(document(shown)["loaded"][0]["samples"]) == 3
    both = run("test-load", "--dataset-name", DUORC, "--subset-name", "SelfRC,ParaphraseRC", *arrow, code=1)
    assert [line.split()[:2] for line in both.stdout.splitlines()[1:]] == [
        ["SelfRC", "train"],
        ["ParaphraseRC", "FAILED"],
    ]
    assert "1 of 2 configs" in error_of(both)
    assert "not prepared" in error_of(both)


def test_damage_is_found_moved_and_repaired(run: Run, hub_env: ClientEnvironment) -> None:
    """1 when found, 1 when only moved aside, 0 when all is right again; only the damaged file is fetched."""
    run("download", "--dataset-name", DUORC, "--raw-only")
    blob = big_blob(hub_env.hub_cache, DUORC)
    size = blob.stat().st_size
    damage(blob)
    found = run("verify", "--json", code=1)
    assert [fault["kind"] for fault in document(found)["faults"]] == ["corrupt"]
    assert document(found)["faults"][0]["file"] == str(blob)
    assert "1 fault (1 corrupt)" in error_of(found)
    moved = run("verify", "--cache-dir", hub_env.home, "--quarantine", code=1)
    assert "1 file moved aside" in moved.stdout
    assert not blob.exists()
    assert "1 quarantined file not fetched again yet" in run("verify", "--dataset", DUORC).stdout
    hub_env.hub.reset_log()
    repaired = run("verify", "--cache-dir", hub_env.hub_cache, "--repair", "--batch-size", "10", "--workers", "2")
    assert "notice: --batch-size is ignored" in repaired.stderr
    assert "1 file repaired" in repaired.stdout
    assert 0 <= hub_env.hub.bytes_sent("*/resolve/*") - size < 1000  # and the body of a redirect
    assert document(run("verify", "--full", "--json"))["intact"] is True


def test_what_cannot_be_repaired_is_a_failure(run: Run, hub_env: ClientEnvironment) -> None:
    """The Hub itself serves wrong bytes: exit 1 and the file by name."""
    run("download", "--dataset-name", DUORC, "--raw-only")
    damage(big_blob(hub_env.hub_cache, DUORC))
    hub_env.hub.set_faults(Fault("flip", offset=100))
    done = run("verify", "--repair", "--json", code=1)
    assert "could not be repaired" in error_of(done)
    assert document(done)["repair"]["complete"] is False


def test_a_cache_is_listed(run: Run, hub_env: ClientEnvironment, tmp_path: Path) -> None:
    """By repo, from HF_HUB_CACHE as well as from a folder given; what is not there is said."""
    run("download", "--dataset-name", DUORC, "--raw-only", "--hub-cache", tmp_path / "elsewhere")
    listed = document(run("verify", "--list", "--json", HF_HUB_CACHE=str(tmp_path / "elsewhere")))
    assert [(repo["repo_id"], repo["repo_type"]) for repo in listed["repos"]] == [(DUORC, "dataset")]
    assert "1 repo, " in run("verify", "--list", "--cache-dir", tmp_path / "elsewhere").stdout
    assert "is not in" in error_of(run("verify", "--cache-dir", tmp_path / "elsewhere", "--dataset", "a/b", code=1))
    assert "no such folder" in error_of(run("verify", "--cache-dir", tmp_path / "nowhere", code=1))


def test_a_catalog_says_where_things_are_when_there_is_one(run: Run, tmp_path: Path) -> None:
    """Its state folder, Hub cache and umask hold unless an option says otherwise; a broken one only warns."""
    catalog = Path("catalog.yaml")
    catalog.write_text('storage: {hub_cache: ./hub, state_dir: ./state, umask: "0002"}\n')
    run("download", "--dataset-name", DUORC, "--subset-name", "SelfRC", "--raw-only")
    assert (Path("hub") / "datasets--ibm-research--duorc" / "blobs").stat().st_mode & 0o777 == 0o775
    assert list(Path("state/manifests").rglob("*.json"))
    assert not Path("data").exists()
    catalog.write_text("storage: {hub_cache: ./hub, state_dri: ./state}\n")
    assert (
        "warning: catalog.yaml:1 storage.state_dri: unknown key"
        in run("verify", "--cache-dir", "hub", "--state-dir", tmp_path / "other").stderr
    )


def test_a_killed_download_fetches_only_the_rest(run: Run, hub_env: ClientEnvironment) -> None:
    """kill -9 in the middle of a large file, run again: what the server sent in all is the file and a little more."""
    data = b"".join(b'{"id": %d, "text": "%s"}\n' % (number, b"x" * 1000) for number in range(40_000))
    hub_env.hub.add_repo("someone/large", {"data.jsonl": data})
    hub_env.hub.set_faults(Fault("slow", rate=20e6, path="*data.jsonl"))
    words = ("download", "--dataset-name", "someone/large", "--raw-only", "--files", "all")
    command = [sys.executable, "-m", "hfassets.cli.main", "hub", *words]
    with subprocess.Popen(command, env=hub_env.variables, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while hub_env.hub.bytes_sent("*data.jsonl") < len(data) / 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
    before = hub_env.hub.bytes_sent("*data.jsonl")
    assert before < len(data)
    result = document(run(*words, "--json"))
    sent = hub_env.hub.bytes_sent("*data.jsonl")
    assert len(data) <= sent < len(data) + 8_000_000
    assert result["bytes_fetched"] < len(data) * 0.75
    assert document(run("verify", "--full", "--json"))["bytes_proven"] >= len(data)
