"""One file of a mix: the rows of the plain way, whatever the format, the faults and the interruptions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import orjson
import pytest
from tokenizers import Tokenizer

from hfassets.demo.hub_faults import Fault
from hfassets.distillation import grow as module
from hfassets.distillation.request import Curriculum, Part
from hfassets.errors import DataError, HubError
from hfassets.storage.manifest import read_manifest
from hfassets_tests.distillation.conftest import REPO, Work, plainly, rows, tree, written

CONTENT = rows(600)


def counts(made: Any) -> dict[str, int]:
    """What became of the rows that were read."""
    found = {"read": made.account.read, "passed_over": made.account.passed_over, **made.account.refused}
    return {name: count for name, count in found.items() if count}


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "json", "parquet"])
@pytest.mark.parametrize("streaming", [True, False])
def test_a_file_has_the_rows_of_the_plain_way(work: Work, kind: str, streaming: bool) -> None:
    """Text, ids, spans and every count, from each format, streamed or fetched whole."""
    work.add(CONTENT, kind)
    made = work.make(200, streaming=streaming)
    texts, expected = plainly(CONTENT, 200)
    records = written(made)
    assert [one["text"] for one in records] == texts
    assert [one["id"] for one in records] == [f"qa_{number:08d}" for number in range(200)]
    assert counts(made) == {name: count for name, count in expected.items() if count}
    assert {(one["source"], one["category"]) for one in records} == {("qa", "math")}
    for one in records:
        start, end = one["metadata"]["rationale_span"]
        answer = one["text"].split("\nassistant: ", 1)[1]
        assert one["text"][start:end] == answer[: answer.rindex("####")].strip()
        assert answer.endswith(f"#### {one['metadata']['final_answer']}")
    loaded = datasets.load_dataset("json", data_files=str(made.path), split="train", cache_dir=str(work.root / "ds"))
    assert loaded["text"][:] == texts


def test_the_stats_have_the_documents_fields_and_every_count(work: Work) -> None:
    """samples to output_file as of old, then what became of each row read."""
    work.add(CONTENT)
    made = work.make(100)
    stats = orjson.loads(made.path.with_name("qa.stats.json").read_bytes())
    lengths = [len(one["text"]) for one in written(made)]
    assert stats["samples"] == 100
    assert (stats["total_chars"], stats["min_length"], stats["max_length"]) == (
        sum(lengths),
        min(lengths),
        max(lengths),
    )
    assert stats["avg_length"] == round(sum(lengths) / 100, 1)
    assert stats["size_mb"] == round(made.path.stat().st_size / 2**20, 3)
    assert stats["duplicates_removed"] == plainly(CONTENT, 100)[1]["duplicate"] > 0
    assert stats["output_file"] == str(made.path)
    assert stats["rows_read"] == 100 + sum(stats["refused"].values())
    assert stats["newlines_folded"] > 0
    assert stats["examples"]["malformed"][0] == ["data/train-0.jsonl.gz, row 11", "answer is a int, not text"]


def test_a_file_that_is_there_is_not_made_again(work: Work) -> None:
    """Nothing is asked of the Hub; a file that was changed in size is made again."""
    work.add(CONTENT)
    first = work.make(50)
    work.hub.reset_log()
    again = work.make(50)
    assert again.reused and not first.reused
    assert not [one for one in work.hub.requests if "/resolve/" in one.path and one.path.endswith(".gz")]
    before = first.path.read_bytes()
    first.path.write_bytes(before[:-10])
    assert not work.make(50).reused
    assert first.path.read_bytes() == before


@pytest.mark.parametrize("kind", ["jsonl.gz", "parquet"])
def test_a_longer_file_begins_with_the_shorter_and_equals_one_made_at_once(work: Work, kind: str) -> None:
    """Growing extends: no row twice, none read again that was read before."""
    work.add(CONTENT, kind)
    short = work.make(60).path.read_bytes()
    grown = work.make(300)
    once = work.make(300, folder="other")
    assert grown.path.read_bytes().startswith(short)
    assert grown.path.read_bytes() == once.path.read_bytes()
    assert grown.account == once.account
    assert grown.fingerprint == once.fingerprint
    less = work.make(40)
    assert less.path.read_bytes() == b"".join(once.path.read_bytes().splitlines(keepends=True)[:40])


def test_a_source_that_runs_short_is_said_and_can_be_a_failure(work: Work) -> None:
    """All there is, with a warning; or one line and nothing published."""
    work.add(CONTENT[:100])
    told: list[Any] = []
    made = work.make(500, progress=told.append)
    assert made.rows == len(plainly(CONTENT[:100], 500)[0]) < 500
    assert made.exhausted
    assert any("of the 500 asked for" in str(getattr(one, "text", "")) for one in told)
    with pytest.raises(DataError, match=r"m/math/qa: .* rows of the 500 asked for"):
        work.make(500, folder="other", on_shortfall="fail")
    assert not list((work.root / "other" / "math").glob("qa.*"))


def long_prompts(curriculum: Curriculum) -> Any:
    """What the plain way takes for a short prompt."""
    tokenizer = Tokenizer.from_file(str(curriculum.tokenizer))
    return lambda prompt: len(tokenizer.encode(prompt, add_special_tokens=False).ids) < curriculum.max_tokens


@pytest.mark.parametrize(("quota", "count"), [(60, 600), (61, 600), (200, 600), (400, 450), (1, 10), (2, 10)])
def test_short_prompts_come_first(work: Work, curriculum: Curriculum, quota: int, count: int) -> None:
    """The first half (rounded up) has short prompts, passed-over rows fill the end when the source is over."""
    work.add(CONTENT[:count])
    made = work.make(quota, curriculum=curriculum)
    texts, expected = plainly(CONTENT[:count], quota, long_prompts(curriculum), -(-quota // 2))
    assert [one["text"] for one in written(made)] == texts
    assert counts(made) == {name: number for name, number in expected.items() if number}


def test_a_curriculum_grows_step_by_step(work: Work, curriculum: Curriculum) -> None:
    """The file keeps its beginning, the new half of the new rows is short again, every row comes once."""
    work.add(CONTENT)
    short = work.make(40, curriculum=curriculum)
    begin = short.path.read_bytes()
    grown = work.make(100, curriculum=curriculum)
    assert grown.path.read_bytes().startswith(begin)
    texts = [one["text"] for one in written(grown)]
    assert len(texts) == len(set(texts)) == 100
    is_short = long_prompts(curriculum)
    assert all(is_short(text.split("\nassistant: ")[0]) for text in texts[40:70])
    assert grown.fingerprint != work.make(100, curriculum=curriculum, folder="other").fingerprint
    everything = work.make(10_000, curriculum=curriculum)
    all_texts = [one["text"] for one in written(everything)]
    assert sorted(all_texts) == sorted(plainly(CONTENT, 10_000)[0])
    assert everything.account.passed_over == 0


def test_slices_are_disjoint_by_content_and_miss_nothing(work: Work) -> None:
    """Three slices of a source with copies in it: together each text once."""
    work.add(CONTENT)
    found = [[one["text"] for one in written(work.make(1000, batch=(i, 3), folder=f"b{i}"))] for i in range(3)]
    together = [text for one in found for text in one]
    assert len(together) == len(set(together))
    assert sorted(together) == sorted(plainly(CONTENT, 1000)[0])
    assert all(len(one) > 80 for one in found)


def test_texts_of_earlier_files_of_the_mix_do_not_come_again(work: Work) -> None:
    """Counted apart from copies within the source."""
    work.add(CONTENT)
    work.add([*CONTENT[:50], *rows(700)[600:]], repo="team/second")
    first = work.make(40)
    second = work.make(
        1000, repo_id="team/second", source="second", earlier=((first.path, first.fingerprint),), folder="out"
    )
    mine = {one["text"] for one in written(first)}
    assert not mine & {one["text"] for one in written(second)}
    again = [one for one in plainly(CONTENT[:50], 1000)[0] if one in mine]
    assert second.account.refused["duplicate_in_mix"] >= len(again) > 20


def test_a_foreign_file_is_not_replaced(work: Work) -> None:
    """One line, and --force goes over it."""
    work.add(CONTENT)
    path = work.root / "out" / "math" / "qa.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("mine\n")
    with pytest.raises(DataError, match=r"qa\.jsonl is there already and was not written by hfassets"):
        work.make(10)
    assert path.read_text() == "mine\n"
    assert work.make(10, force=True).rows == 10


@pytest.mark.parametrize("kind", ["jsonl.gz", "jsonl", "json"])
def test_a_source_damaged_on_its_way_is_fetched_again(work: Work, kind: str) -> None:
    """Flipped in the second file and only seen at its end: nothing of it stays."""
    work.add(CONTENT, kind)
    clean = work.make(1000, folder="clean").path.read_bytes()
    work.hub.set_faults(Fault("flip", path=f"*train-1.{kind}", offset=60, times=1))
    made = work.make(1000)
    assert made.path.read_bytes() == clean
    work.hub.set_faults(Fault("flip", path=f"*train-1.{kind}", offset=60))
    with pytest.raises((DataError, HubError, Exception), match=r"train-1|Hub lists"):
        work.make(1000, folder="never")
    assert not (work.root / "never" / "math" / "qa.jsonl").exists()


def test_faults_of_the_hub_change_nothing(work: Work) -> None:
    """Cut bodies and refused requests, with files large enough to be cut."""
    work.add(CONTENT)
    clean = work.make(400, folder="clean").path.read_bytes()
    work.hub.set_faults(Fault("cut", path="*.gz", every=2, after=700), Fault("status", path="*.gz", every=3, wait=0.01))
    assert work.make(400).path.read_bytes() == clean


def test_parts_of_a_source_take_turns(work: Work) -> None:
    """A row of each config after the other; the longer one goes on alone; a longer file goes on in turn."""
    contents = {"a": rows(20), "b": rows(80)[20:], "c": []}
    card = "---\nconfigs:\n" + "".join(
        f"- config_name: {name}\n  data_files: [{{split: train, path: {name}/*}}]\n" for name in "ab"
    )
    files = {f"{name}/train.jsonl": b"".join(orjson.dumps(one) + b"\n" for one in contents[name]) for name in "ab"}
    work.hub.add_repo("team/parts", {"README.md": f"{card}---\n".encode(), **files})
    parts = tuple(Part(name) for name in "ab")
    turns = [one for pair in zip(contents["a"], contents["b"], strict=False) for one in pair] + contents["b"][20:]
    for quota in (7, 30, 1000):
        made = work.make(quota, repo_id="team/parts", parts=parts)
        assert [one["text"] for one in written(made)] == plainly(turns, quota)[0]


WORKER = """
import sys
from pathlib import Path
from hfassets_tests.distillation.conftest import Work
from hfassets.demo.hub_server import SampleHub
from hfassets.distillation import grow as module
import types
module._CHECK_BYTES, module._CHECK_S = 20_000, 0.01
hub = types.SimpleNamespace(url=sys.argv[1], commit=lambda repo: sys.argv[3])
from hfassets.distillation.request import Curriculum
curriculum = Curriculum(40, Path(sys.argv[4]), "EleutherAI/pythia-70m@x") if sys.argv[4] else None
Work(hub, Path(sys.argv[2])).make(int(sys.argv[5]), curriculum=curriculum)
"""


@pytest.mark.parametrize("with_curriculum", [pytest.param(False, marks=pytest.mark.drill), True])
def test_killed_again_and_again_it_ends_as_if_nothing_had_been(
    work: Work, curriculum: Curriculum, with_curriculum: bool
) -> None:
    """kill -9 at many moments: the bytes, the stats and the account of a calm run, nothing left over."""
    content = rows(6000)
    work.add(content, "jsonl.gz", files=5)
    of = replace(curriculum, identity="EleutherAI/pythia-70m@x") if with_curriculum else None
    calm = work.make(5000, curriculum=of, folder="calm")
    work.hub.set_faults(Fault("slow", path="*.gz", rate=60_000))
    tokenizer = str(curriculum.tokenizer) if with_curriculum else ""
    command = [sys.executable, "-c", WORKER, work.hub.url, str(work.root), work.hub.commit(REPO), tokenizer, "5000"]
    partial = work.root / "out" / "math" / ".qa.jsonl.partial"
    sizes = []
    for kill in range(8):
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(Path.cwd())})
        begin = partial.stat().st_size if partial.exists() else 0
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            if partial.exists() and partial.stat().st_size > begin + 3_000 * kill:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        sizes.append(partial.stat().st_size if partial.exists() else -1)
    assert len(set(sizes)) > 3
    work.hub.set_faults()
    made = work.make(5000, curriculum=of)
    assert made.path.read_bytes() == calm.path.read_bytes()
    assert made.account == calm.account
    manifest, expected = (read_manifest(one.path.with_name("qa.manifest.json")) for one in (made, calm))
    assert manifest is not None and expected is not None
    assert manifest.fingerprint == expected.fingerprint
    assert sorted(path.name for path in made.path.parent.iterdir()) == ["qa.jsonl", "qa.manifest.json", "qa.stats.json"]
    assert not list((work.root / "out" / ".state" / "work").rglob("*.received"))


def test_a_partial_file_that_was_touched_is_not_believed(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte flipped in what a killed run left: it starts over."""
    work.add(CONTENT)
    calm = work.make(300, folder="calm").path.read_bytes()
    monkeypatch.setattr(module, "_CHECK_BYTES", 1000)
    work.hub.set_faults(Fault("status", path="*train-1*", status=500))
    with pytest.raises(HubError):
        work.make(300)
    partial: Path = work.root / "out" / "math" / ".qa.jsonl.partial"
    data = bytearray(partial.read_bytes())
    assert len(data) > 1000
    data[100] ^= 1
    partial.write_bytes(data)
    work.hub.set_faults()
    assert work.make(300).path.read_bytes() == calm
    assert dict(tree(work.root / "out"))["math/qa.jsonl"] == calm
