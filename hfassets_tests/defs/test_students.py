"""Packed rows in Dagster: made of the files of a mix, described, damaged and repaired."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import orjson
import pytest

from hfassets.catalog import accept
from hfassets.cli.main import main
from hfassets.defs.code_location import build_definitions
from hfassets.defs.location import Location
from hfassets.demo.hub_app import TOKEN
from hfassets.slurm.request import NETWORK_KEY, REQUEST_KEY
from hfassets.tokens import read_logits, read_packed
from hfassets_tests.conftest import ClientEnvironment
from hfassets_tests.defs.conftest import Site
from hfassets_tests.packed.models import save_model

pytestmark = pytest.mark.dagster

CATALOG = """\
hub:
  endpoint: ${HF_ENDPOINT}
distillation:
  - &small
    name: small
    total_samples: 60
    category_ratios: {instruction_chat: 0, code: 0, math_reasoning: 1, factual_qa: 0}
    datasets: &two
      openhermes: {enabled: false}
      open_orca: {enabled: false}
      ultrachat: {enabled: false}
      math: {enabled: false}
      the_stack_python: {enabled: false}
      the_stack_javascript: {enabled: false}
      starcoder: {enabled: false}
      code_contests: {enabled: false}
      natural_questions: {enabled: false}
      hotpotqa: {enabled: false}
    tokens: {tokenizer: EleutherAI/pythia-70m, max_seq_length: 64, packing: best_fit, loss_mask: true}
    teacher_config: {enabled: true, model_path: EleutherAI/pythia-70m, top_k: 8}
  - name: plain
    total_samples: 10
    datasets: *two
"""
KEYS = ["small/math_reasoning/gsm8k", "small/math_reasoning/numina_cot"]


@pytest.fixture
def student_site(tmp_path: Path, hub_env: ClientEnvironment, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A mix of two sources with a student, and one without."""
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(textwrap.dedent(CATALOG))
    monkeypatch.setenv("HFASSETS_CATALOG", str(catalog))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main(["catalog", "sync"]) == 0
    with dg.instance_for_test() as instance:
        location = Location(catalog, accept(catalog))
        yield Site(catalog, instance, location, build_definitions(location))


def made(site: Site, key: str) -> None:
    """A file and its rows."""
    assert site.run(key, "distillation_file").success
    assert site.run(key, "distillation_tokens").success


def place(site: Site, asset: str, key: str) -> Path:
    """Where an output lies."""
    return Path(str(site.metadata(asset, key)["dagster/uri"]).removeprefix("file://"))


def test_the_files_of_a_mix_become_rows(student_site: Site) -> None:
    """Tokens, fill rate, lengths and the share of each source to look at; the old manifest over all; checks green."""
    assert list(student_site.location.token_files.get_partition_keys()) == KEYS
    assert "materialise distillation_file first" in refused(student_site, KEYS[0], "distillation_tokens")
    for key in KEYS:
        made(student_site, key)
        assert student_site.check("distillation_tokens", "intact", key) is True
        assert student_site.check("distillation_tokens", "account_closed", key) is True
    shown = student_site.metadata("distillation_tokens", KEYS[1])
    folder = place(student_site, "distillation_tokens", KEYS[1])
    rows = read_packed(folder)
    assert shown["dagster/row_count"] == len(rows) and rows[0]["input_ids"].shape == (64,)
    assert shown["tokens"] == int(rows["attention_mask"][:].sum())
    assert shown["fill rate"] == round(shown["tokens"] / (64 * len(rows)), 4)
    assert 0 < shown["tokens not learnt"] < shown["tokens"]
    assert int(rows["loss_mask"][:].sum()) < shown["tokens"] - shown["tokens not learnt"]
    for name, said in (
        ("tokens per source", "tokens of each source"),
        ("document lengths", "histogram of document lengths"),
        ("row contents", "histogram of the content of rows"),
    ):
        assert shown[name].startswith(f"![{said}](data:image/png;base64,")
    assert "| tokens in |" in " ".join(shown["account"].split())
    document = orjson.loads((folder.parent / "manifest.json").read_bytes())
    assert document["files_processed"] == 2 and set(document["splits"]) == {"gsm8k", "numina_cot"}
    assert document["splits"]["numina_cot"]["tokens"] == shown["tokens"]


def test_lineage_is_exact_and_only_who_asks_for_slurm_gets_jobs(student_site: Site) -> None:
    """A file to its rows; files of a mix without a student to nothing."""
    graph = student_site.definitions.resolve_asset_graph()
    node = graph.get(dg.AssetKey("distillation_tokens"))
    assert node.parent_keys == {dg.AssetKey("distillation_file")} and REQUEST_KEY not in node.metadata
    mapping = node.partition_mappings[dg.AssetKey("distillation_file")]
    found = mapping.get_upstream_mapped_partitions_result_for_partitions(
        student_site.location.token_files.subset_with_partition_keys([KEYS[0]]),
        student_site.location.token_files,
        student_site.location.mix_files,
    )
    assert set(found.partitions_subset.get_partition_keys()) == {KEYS[0]}
    text = student_site.catalog.read_text().replace("total_samples: 60", 'total_samples: 60\n    slurm: {cpus: "8"}')
    student_site.catalog.write_text(text)
    student_site.reload()
    request = student_site.definitions.resolve_asset_graph().get(dg.AssetKey("distillation_tokens")).metadata
    assert request[REQUEST_KEY] == {"default": {}, "partitions": {"small/*": {"cpus": "8"}}}


def refused(site: Site, key: str, asset: str) -> str:
    """Why a run fails."""
    failed = site.run(key, asset)
    (failure,) = [event.step_failure_data for event in failed.all_events if event.is_step_failure]
    assert failure.user_failure_data is not None
    return str(failure.user_failure_data.description)


def test_a_teacher_is_brought_and_asked(student_site: Site) -> None:
    """Rows and teacher have to be there; then how sure it is, what it takes to keep, and one value for each label."""
    assert "materialise distillation_tokens first" in refused(student_site, KEYS[0], "teacher_logits")
    made(student_site, KEYS[0])
    assert "materialise teacher_model first" in refused(student_site, KEYS[0], "teacher_logits")
    assert student_site.run("small", "teacher_model").success
    assert student_site.check("teacher_model", "same_tokens", "small") is True
    assert student_site.metadata("teacher_model", "small")["architecture"] == "GPTNeoXForCausalLM"
    assert student_site.run(KEYS[0], "teacher_logits").success
    shown = student_site.metadata("teacher_logits", KEYS[0])
    assert shown["mass beyond the top k"].startswith("![histogram of the mass beyond the top k](data:image/png;base64,")
    assert shown["perplexity"] > 1000 and shown["bytes per position"] > 0 and shown["run on"] == "cpu in float32"
    for name in ("intact", "account_closed"):
        assert student_site.check("teacher_logits", name, KEYS[0]) is True
    rows = read_packed(place(student_site, "distillation_tokens", KEYS[0]))
    found = read_logits(place(student_site, "teacher_logits", KEYS[0]))
    assert shown["positions"] == sum(len(one["positions"]) for one in found) == int(rows["loss_mask"][:].sum())
    before = shown["fingerprint"]
    assert student_site.run(KEYS[0], "teacher_logits").success
    assert student_site.metadata("teacher_logits", KEYS[0])["fingerprint"] == before


def test_a_teacher_of_other_tokens_is_red_before_anything_is_asked(student_site: Site, tmp_path: Path) -> None:
    """In one line, as a check of the teacher, and as the reason of a run that asks it all the same."""
    save_model(tmp_path / "other", vocab_size=4000)
    text = student_site.catalog.read_text().replace(
        "model_path: EleutherAI/pythia-70m", f"model_path: {tmp_path}/other"
    )
    student_site.catalog.write_text(text)
    student_site.reload()
    said = refused(student_site, "small", "teacher_model")
    assert (
        said.startswith("small: other says 4,000 tokens, the tokenizer of the mix small has 4,096") and "\n" not in said
    )
    assert student_site.check("teacher_model", "same_tokens", "small") is False
    made(student_site, KEYS[0])
    assert "a teacher must have the student's tokenizer" in refused(student_site, KEYS[0], "teacher_logits")


def test_what_teachers_say_is_heavy_and_needs_no_network(student_site: Site) -> None:
    """One GPU, unless the catalog says otherwise."""

    def metadata() -> Mapping[str, Any]:
        return student_site.definitions.resolve_asset_graph().get(dg.AssetKey("teacher_logits")).metadata

    assert metadata()[REQUEST_KEY] == {"default": {"gres": "gpu:1"}, "partitions": {}}
    assert metadata()[NETWORK_KEY] == "none"
    own = "slurm: {teacher_logits: {gres: none, cpus: 8}}\n"
    student_site.catalog.write_text(own + student_site.catalog.read_text())
    student_site.reload()
    assert metadata()[REQUEST_KEY]["default"] == {"gres": "none", "cpus": "8"}


def test_damage_goes_red_when_it_is_verified_and_the_sensor_has_it_repaired(student_site: Site) -> None:
    """A changed byte is found by re-verification; the repair makes the same shard again. A lost name comes back."""
    made(student_site, KEYS[0])
    shard = place(student_site, "distillation_tokens", KEYS[0]) / "shard_0000.parquet"
    good = shard.read_bytes()
    shard.unlink()
    assert student_site.run(KEYS[0], "distillation_tokens").success and shard.read_bytes() == good
    data = bytearray(good)
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    in_eight_days = time.time() + 8 * 86_400
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(time, "time", lambda: in_eight_days)
        requests = student_site.tick("reverify", None).run_requests or ()
    (request,) = [one for one in requests if one.asset_selection == [dg.AssetKey("distillation_tokens")]]
    assert not student_site.launch(request).success
    assert student_site.check("distillation_tokens", "intact", KEYS[0]) is False
    (repair,) = student_site.tick("repair", None).run_requests or ()
    assert student_site.launch(repair).success
    assert shard.read_bytes() == good
    assert student_site.check("distillation_tokens", "intact", KEYS[0]) is True


def test_other_rows_are_made_anew_when_the_catalog_says_so(student_site: Site) -> None:
    """Another length is another version; what is there stays until then."""
    made(student_site, KEYS[0])
    before = student_site.metadata("distillation_tokens", KEYS[0])["fingerprint"]
    assert student_site.run(KEYS[0], "distillation_tokens").success
    assert student_site.metadata("distillation_tokens", KEYS[0])["fingerprint"] == before
    text = student_site.catalog.read_text().replace("max_seq_length: 64", "max_seq_length: 32")
    student_site.catalog.write_text(text)
    student_site.reload()
    assert student_site.run(KEYS[0], "distillation_tokens").success
    shown = student_site.metadata("distillation_tokens", KEYS[0])
    assert shown["sequence length"] == 32 and shown["fingerprint"] != before
    assert read_packed(place(student_site, "distillation_tokens", KEYS[0]))[0]["labels"].shape == (32,)
