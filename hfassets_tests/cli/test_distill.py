"""`hfassets distill` end to end: real processes against the sample Hub."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from hfassets.demo.hub_app import TOKEN
from hfassets_tests.conftest import ClientEnvironment

pytestmark = pytest.mark.hub

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(hub_env: ClientEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `hfassets distill ...` in a folder of its own and hold it to the rules that every command keeps."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    endpoint = f"{hub_env.hub.url}/_s3"
    (work / "mix.yaml").write_text(f"total_samples: 300\nsoftware_heritage: {{endpoint_url: '{endpoint}'}}\n")

    def call(*words: str | Path, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hfassets.cli.main", "distill", *words]
        done = hub_env.run(*command, check=False, **{"HF_TOKEN": TOKEN, **variables})
        assert done.returncode == code, f"{done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        assert "Traceback" not in done.stdout + done.stderr
        return done

    return call


def files(folder: str = "data/distillation") -> dict[str, bytes]:
    """The JSONL files, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).glob("*/*.jsonl"))}


def test_the_documents_commands_work_as_printed(run: Run) -> None:
    """--config, --dataset, --total-samples, --output-dir; a table at the end; datasets reads what is written."""
    done = run("--config", "mix.yaml")
    assert len(files()) == 12
    assert "gsm8k" in done.stdout and "download_summary.json" in done.stdout
    summary = json.loads(Path("data/distillation/download_summary.json").read_text())
    assert (summary["total_samples"], len(summary["datasets"])) == (300, 12)
    alone = run("--config", "mix.yaml", "--dataset", "gsm8k", "--output-dir", "one")
    assert files("one") == {"math_reasoning/gsm8k.jsonl": files()["math_reasoning/gsm8k.jsonl"]}
    assert "openhermes" not in alone.stdout
    again = run("--config", "mix.yaml")
    assert again.stdout.count("was ready") == 12
    more = run("--config", "mix.yaml", "--total-samples", "400", "--json")
    assert json.loads(more.stdout)["total_samples"] == 400
    for path in Path("data/distillation").glob("*/*.jsonl"):
        one = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir="ds")
        assert one.num_rows == len(path.read_bytes().splitlines())
    # The metadata of each source has other fields.
    names = ("text", "id", "source", "category")
    features = datasets.Features({**{name: datasets.Value("string") for name in names}, "metadata": datasets.Json()})
    every = "data/distillation/*/*.jsonl"
    loaded = datasets.load_dataset("json", data_files=every, split="train", features=features, cache_dir="ds")
    assert loaded.num_rows == 400
    solved = next(row for row in loaded if row["source"] == "gsm8k")
    _, end = solved["metadata"]["rationale_span"]
    assert solved["text"][end:].strip() == f"#### {solved['metadata']['final_answer']}"


def test_a_dry_run_says_what_it_would_take_and_fetches_nothing(run: Run, hub_env: ClientEnvironment) -> None:
    """Per source: asked, rows or unknown, bytes, licence, access; closed ones make it a failure."""
    hub_env.hub.reset_log()
    done = run("--config", "mix.yaml", "--dry-run")
    assert "unknown" in done.stdout and "cc-by-sa-4.0" in done.stdout and "gated, granted" in done.stdout
    assert not files()
    asked = [one.path for one in hub_env.hub.requests if "/resolve/" in one.path]
    assert all(path.endswith("README.md") for path in asked)
    closed = run("--config", "mix.yaml", "--dry-run", code=1, HF_TOKEN="")
    assert "the_stack_python: dataset bigcode/the-stack-v2 is gated: accept its conditions" in closed.stdout


def test_batches_have_no_text_in_common(run: Run) -> None:
    """As the document's loop wants it, in a folder each."""
    texts: list[str] = []
    for number in (1, 2):
        run(
            "--config",
            "mix.yaml",
            "--batch",
            f"{number}/2",
            "--output-dir",
            f"batch_{number}",
            "--dataset",
            "ultrachat",
        )
        texts += [
            json.loads(line)["text"]
            for line in files(f"batch_{number}")["instruction_chat/ultrachat.jsonl"].splitlines()
        ]
    assert len(texts) == len(set(texts)) == 84
    assert "'3/2' is no slice" in run("--batch", "3/2", code=2).stderr


def test_summary_and_licences_are_commands_of_their_own(run: Run) -> None:
    """The summary is made anew from what is there; licences are those of the data."""
    run("--config", "mix.yaml", "--dataset", "math")
    Path("data/distillation/download_summary.json").unlink()
    shown = run("summary", "--config", "mix.yaml").stdout
    assert "missing" in shown
    assert json.loads(Path("data/distillation/download_summary.json").read_text())["total_samples"] > 0
    table = run("licenses").stdout
    assert "cc-by-sa-3.0" in table and "not stated" in table
    licences = json.loads(run("licenses", "--json").stdout)["licenses"]
    assert licences["hotpotqa"]["commercial"] == "yes"


def test_a_mix_of_the_catalog_is_made_at_its_pinned_commits(run: Run, hub_env: ClientEnvironment) -> None:
    """--mix NAME; another name is a usage error that says which there are."""
    endpoint = f"{hub_env.hub.url}/_s3"
    Path("catalog.yaml").write_text(
        f"hub: {{endpoint: '{hub_env.hub.url}'}}\n"
        f"distillation: [{{name: mine, total_samples: 120, software_heritage: {{endpoint_url: '{endpoint}'}}}}]\n"
    )
    sync = [sys.executable, "-m", "hfassets.cli.main", "catalog", "sync"]
    hub_env.run(*sync, check=True)
    run("--mix", "mine")
    assert len(files("data/distillation/mine")) == 12
    assert "its section distillation has mine" in run("--mix", "yours", code=2).stderr
    assert "--config and --mix" in run("--mix", "mine", "--config", "mix.yaml", code=2).stderr


def test_a_wrong_file_and_a_strange_source_are_one_line(run: Run) -> None:
    """No traceback, the place, and what would be right."""
    Path("bad.yaml").write_text("datasets: {gsm8k: {enabled: maybe}}\n")
    assert "bad.yaml:1 datasets.gsm8k.enabled: must be true or false" in run("--config", "bad.yaml", code=1).stderr
    assert "gsm9k is not in the mix" in run("--dataset", "gsm9k", code=2).stderr
    assert "absent.yaml" in run("--config", "absent.yaml", code=1).stderr
