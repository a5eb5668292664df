"""Mixes over the sample Hub's twelve sources: quotas, workers, shortfalls, copies across sources, growth."""

from __future__ import annotations

import gzip
import io
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
import requests

from hfassets.catalog.load import parse_mix
from hfassets.demo.hub_app import TOKEN
from hfassets.demo.hub_server import SampleHub
from hfassets.distillation.dry_run import estimate
from hfassets.distillation.mix import MixResult, find_all, make_mix, make_one
from hfassets.distillation.mix_run import MixRun
from hfassets.errors import DataError, PartialFailureError, UsageError
from hfassets.storage.state import StateDir

pytestmark = pytest.mark.hub


class Mixes:
    """A Hub, a reader's token, and a place."""

    def __init__(self, hub: SampleHub, root: Path) -> None:
        self.hub = hub
        self.root = root

    def run(self, text: str = "", folder: str = "out", **habits: Any) -> MixRun:
        """A run of a mix given as YAML, 600 rows unless it says otherwise."""
        archive = f"software_heritage: {{endpoint_url: '{self.hub.url}/_s3'}}\n"
        total = "" if "total_samples" in text else "total_samples: 600\n"
        mix = parse_mix(f"{archive}{total}{text}".encode(), Path("mix.yaml"))
        place = self.root / folder
        base = {"endpoint": self.hub.url, "backoff_factor": 0.01}
        return MixRun(mix, place, self.root / "cache", StateDir(place / ".state"), **{**base, **habits})

    def files(self, folder: str = "out") -> dict[str, bytes]:
        """The JSONL files of a place, by source."""
        return {path.stem: path.read_bytes() for path in (self.root / folder).glob("*/*.jsonl")}


@pytest.fixture
def mixes(sample_hub: SampleHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mixes:
    """As the demo's reader."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return Mixes(sample_hub, tmp_path)


def rows(made: MixResult) -> dict[str, int]:
    """Rows by source."""
    return {one.source: one.rows for one in made.files}


def test_all_twelve_sources_are_exact_closed_and_equal_with_any_number_of_workers(mixes: Mixes) -> None:
    """Quotas as shared out, every account closed, one worker or two the same bytes; the summary tells all."""
    made = make_mix(mixes.run()).check()
    assert rows(made) == {
        "openhermes": 84, "ultrachat": 84, "open_orca": 42, "the_stack_python": 90, "the_stack_javascript": 27,
        "starcoder": 36, "code_contests": 27, "gsm8k": 45, "math": 45, "numina_cot": 60, "natural_questions": 30,
        "hotpotqa": 30,
    }  # fmt: skip
    for one in made.files:
        assert one.account.read == one.rows + one.account.passed_over + one.account.refused.total()
        records = [orjson.loads(line) for line in one.path.read_bytes().splitlines()]
        assert [record["id"] for record in records] == [f"{one.source}_{n:08d}" for n in range(one.rows)]
        assert len({record["text"] for record in records}) == one.rows
    two = make_mix(mixes.run(folder="two"), workers=2).check()
    assert mixes.files("two") == mixes.files()
    assert rows(two) == rows(made)
    summary = orjson.loads(made.summary.read_bytes())
    assert (summary["total_samples"], summary["missing"], summary["short"]) == (600, [], {})
    assert summary["categories"]["math_reasoning"]["datasets"] == ["gsm8k", "math", "numina_cot"]
    assert summary["datasets"]["natural_questions"]["refused"]["unanswerable"] > 0
    assert summary["datasets"]["the_stack_python"]["refused"]["license"] > 0
    assert {one["repo"] for one in summary["datasets"].values()} >= {"EleutherAI/hendrycks_math"}


def test_code_is_that_of_the_archive_and_only_of_the_licences_allowed(mixes: Mixes) -> None:
    """Contents by their ids, in their encodings; what cannot be decoded, is not there or may not be used is counted."""
    made = make_mix(mixes.run("total_samples: 3000"), ["the_stack_python", "the_stack_javascript"]).check()
    for one in made.files:
        allowed = {"mit", "apache-2.0", "bsd-3-clause", "bsd-2-clause", "mpl-2.0"}
        for line in one.path.read_bytes().splitlines():
            metadata = orjson.loads(line)["metadata"]
            assert {name.lower() for name in metadata["license"]} <= allowed
        assert one.account.refused["undecodable"] > 0
        assert one.account.refused["content_missing"] == 1
    python = next(one for one in made.files if one.source == "the_stack_python")
    texts = {orjson.loads(line)["text"] for line in python.path.read_bytes().splitlines()}
    from hfassets.demo.hub_corpus import modules

    assert texts <= {module.source[:9000] for module in modules()}


@pytest.mark.parametrize("language", ["Python", "JavaScript"])
def test_every_row_of_the_stack_is_in_the_count_that_it_belongs_to(mixes: Mixes, language: str) -> None:
    """Licences not allowed, contents lost or not decodable, copies, lengths: as a plain reading of all finds them."""
    name = f"the_stack_{language.lower()}"
    (made,) = make_mix(mixes.run("total_samples: 9000"), [name]).check().files
    assert made.exhausted
    allowed = {"mit", "apache-2.0", "bsd-3-clause", "bsd-2-clause", *(["mpl-2.0"] if language == "Python" else [])}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    path = f"datasets/bigcode/the-stack-v2/resolve/main/data/{language}/train-00000-of-00001.parquet"
    table = pq.read_table(io.BytesIO(requests.get(f"{mixes.hub.url}/{path}", headers=headers, timeout=30).content))
    counts: Counter[str] = Counter()
    texts: set[str] = set()
    for row in table.to_pylist():
        licences = {one.lower() for one in row["detected_licenses"]}
        if not licences or not licences <= allowed:
            counts["license"] += 1
            continue
        answer = requests.get(f"{mixes.hub.url}/_s3/softwareheritage/content/{row['blob_id']}", timeout=30)
        if answer.status_code == 404:
            counts["content_missing"] += 1
            continue
        try:
            text = gzip.decompress(answer.content).decode(row["src_encoding"])
        except UnicodeDecodeError:
            counts["undecodable"] += 1
            continue
        if len(text) < 100:
            counts["too_short"] += 1
        elif len(text) > 100_000:
            counts["too_long"] += 1
        elif text in texts:
            counts["duplicate"] += 1
        else:
            texts.add(text)
    assert dict(made.account.refused) == dict(counts)
    assert min(counts["license"], counts["undecodable"], counts["content_missing"], counts["duplicate"]) > 0
    assert (made.rows, made.account.read) == (len(texts), table.num_rows)


@pytest.mark.parametrize("source", ["openhermes", "ultrachat", "open_orca", "gsm8k", "numina_cot", "hotpotqa"])
def test_every_row_is_accounted_for_as_a_set_of_texts_would(mixes: Mixes, source: str) -> None:
    """Asked for more than there is: what is written are the distinct texts, and copies are what is left of them."""
    (made,) = make_mix(mixes.run("total_samples: 90000"), [source]).check().files
    assert made.exhausted
    texts = [orjson.loads(line)["text"] for line in made.path.read_bytes().splitlines()]
    refused = made.account.refused
    assert len(set(texts)) == len(texts) == made.rows
    (again,) = (
        make_mix(mixes.run("total_samples: 90000\npreprocessing: {deduplicate: false}", folder="copies"), [source])
        .check()
        .files
    )
    everything = [orjson.loads(line)["text"] for line in again.path.read_bytes().splitlines()]
    assert refused["duplicate"] == len(everything) - len(set(everything))
    assert {name: count for name, count in refused.items() if name != "duplicate"} == dict(again.account.refused)
    assert set(everything) == set(texts)


def test_nothing_is_fetched_for_rows_that_their_licence_rules_out(mixes: Mixes) -> None:
    """As many contents as rows that may be used, and few more than are wanted."""
    (made,) = make_mix(mixes.run(), ["the_stack_python"]).check().files
    fetched = [one for one in mixes.hub.requests if "/_s3/" in one.path]
    assert len(fetched) <= made.account.read - made.account.refused["license"] + 90


def test_the_contents_of_a_damaged_archive_are_not_believed(mixes: Mixes) -> None:
    """Another hash than the id: the source fails by name, the others do not."""
    from hfassets.demo.hub_faults import Fault

    mixes.hub.set_faults(Fault("flip", path="/_s3/*", offset=-3))
    made = make_mix(mixes.run(), ["the_stack_python", "gsm8k"])
    assert [name for name, _ in made.failures] == ["the_stack_python"]
    assert "damaged" in made.failures[0][1]
    assert rows(made) == {"gsm8k": 45}


def test_a_gated_source_without_a_token_fails_by_name_and_the_others_are_made(
    mixes: Mixes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What to do is said; the failure counts."""
    monkeypatch.delenv("HF_TOKEN")
    made = make_mix(mixes.run())
    assert [name for name, _ in made.failures] == ["the_stack_python", "the_stack_javascript", "starcoder"]
    assert all("is gated: accept its conditions at" in reason for _, reason in made.failures)
    assert len(made.files) == 9
    with pytest.raises(PartialFailureError, match="3 of 12 sources failed"):
        made.check()
    assert made.document["missing"] == ["the_stack_python", "the_stack_javascript", "starcoder"]


def test_one_source_keeps_its_quota_of_the_full_mix(mixes: Mixes) -> None:
    """Several runs with a source each, and the summary is rebuilt from what is there."""
    whole = make_mix(mixes.run(folder="whole")).files
    for one in whole:
        made = make_mix(mixes.run(), [one.source])
    assert mixes.files() == mixes.files("whole")
    assert made.document["total_samples"] == 600
    with pytest.raises(UsageError, match="nowhere is not in the mix; enabled are openhermes"):
        make_mix(mixes.run(), ["nowhere"])


def test_what_a_source_cannot_give_goes_to_the_others_of_its_category(mixes: Mixes) -> None:
    """By allocation until it is filled; a second run changes nothing; without the option it is reported."""
    text = "total_samples: 2000\n"
    short = make_mix(mixes.run(text, "report"), ["the_stack_python"]).files[0]
    assert short.exhausted and short.rows < 300
    again = f"{text}on_shortfall: redistribute\n"
    made = make_mix(mixes.run(again)).check()
    of = rows(made)
    assert sum(of.values()) == 2000
    assert of["the_stack_python"] == short.rows
    assert sum(of[name] for name in ("the_stack_python", "the_stack_javascript", "starcoder", "code_contests")) == 600
    before = mixes.files()
    second = make_mix(mixes.run(again)).check()
    assert mixes.files() == before
    assert all(one.reused for one in second.files)
    failing = make_mix(mixes.run(f"{text}on_shortfall: fail", "fail"), ["the_stack_python"])
    assert "of the 300 asked for" in failing.failures[0][1]


@pytest.mark.parametrize("policy", ["report", "redistribute"])
def test_no_text_comes_twice_in_all_of_a_mix(mixes: Mixes, policy: str) -> None:
    """The first source in order wins; making one source alone makes those before it; all is kept by a second run."""
    text = f"total_samples: 1500\npreprocessing: {{dedup_scope: mix}}\non_shortfall: {policy}\n"
    make_mix(mixes.run(text)).check()
    texts = Counter(orjson.loads(line)["text"] for data in mixes.files().values() for line in data.splitlines())
    assert max(texts.values()) == 1
    assert all(one.reused for one in make_mix(mixes.run(text)).files)
    if policy == "report":
        alone = make_one(mixes.run(text, "alone"), "starcoder")
        assert alone.path.read_bytes() == mixes.files()["starcoder"]
        assert alone.account.refused["duplicate_in_mix"] > 0


def test_growing_extends_every_file(mixes: Mixes) -> None:
    """Each begins as it was."""
    make_mix(mixes.run())
    before = mixes.files()
    make_mix(mixes.run("total_samples: 900"))
    assert all(data.startswith(before[name]) for name, data in mixes.files().items())
    assert sum(len(data.splitlines()) for data in mixes.files().values()) == 900


def test_a_dry_run_fetches_no_data(mixes: Mixes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows where the card tells, bytes, licences, gated or not; a card is the most that is read."""
    found = {one.source: one for one in estimate(mixes.run())}
    assert (found["ultrachat"].rows, found["gsm8k"].rows) == (847, None)
    assert found["openhermes"].size and found["openhermes"].size > 100_000
    assert (found["starcoder"].access, found["starcoder"].granted) == ("gated", True)
    fetched = [one.path for one in mixes.hub.requests if "/resolve/" in one.path and one.path.count("README") == 0]
    assert not fetched
    assert not list((mixes.root / "out").glob("*/*.jsonl"))
    monkeypatch.delenv("HF_TOKEN")
    closed = {one.source: one for one in estimate(mixes.run(folder="closed"))}
    assert not closed["the_stack_python"].granted
    assert "is gated: accept its conditions" in closed["the_stack_python"].access


def test_missing_and_outdated_members_are_named(mixes: Mixes) -> None:
    """A summary is of all enabled sources as the mix asks for them now."""
    hub = mixes.hub
    repos = {name: one.hf_path for name, one in mixes.run().mix.enabled.items()}
    pins = {
        "commits": {name: hub.commit(repo) for name, repo in repos.items()},
        "tokenizer_commit": hub.commit("EleutherAI/pythia-70m", repo_type="model"),
    }
    run = mixes.run(**pins)
    make_mix(run, ["gsm8k"])
    with pytest.raises(DataError, match=r"distillation/instruction_chat/openhermes, .*materialise them first"):
        find_all(run)
    make_mix(run)
    assert len(find_all(run)) == 12
    with pytest.raises(DataError, match="gsm8k"):
        find_all(mixes.run("total_samples: 700", **pins))
