"""The section `distillation`: the old YAML over the built-in mix, every example of the old document, every mistake."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from hfassets.catalog.load import load_catalog, parse_mix
from hfassets.catalog.mixes import Mix
from hfassets.distillation.mix_run import MixRun
from hfassets.errors import CatalogError, DataError
from hfassets.storage.state import StateDir

pytestmark = pytest.mark.unit

OLD = """
# Overall settings
total_samples: 100000
output_dir: "/path/to/data/distillation"
category_ratios:
  instruction_chat: 0.35
  code: 0.30
  math_reasoning: 0.25
  factual_qa: 0.10
datasets:
  openhermes:
    enabled: true
    category: instruction_chat
    allocation: 0.40  # 40% of instruction_chat samples
    hf_path: "teknium/OpenHermes-2.5"
    subset: null
    split: "train"
    license: "apache-2.0"
    streaming: true
    notes: "High quality: multi-turn"
  the_stack_python:
    enabled: true
    category: code
    allocation: 0.50
    hf_path: "bigcode/the-stack-v2"
    subset: "python"
    split: train
    license: "various-permissive"
    streaming: true
    filters:
      allowed_licenses: ["mit", "apache-2.0"]
      min_length: 100
      max_length: 100000
  math:
    hf_path: "hendrycks/competition_math"
  hotpotqa:
    hf_path: "hotpot_qa"
    subset: "distractor"
preprocessing:
  deduplicate: true
  dedup_method: "md5_hash"  # or minhash
  min_text_length: 50
  max_text_length: 500000
  prompt_length_curriculum:
    enabled: true
    phase1_max_tokens: 256
    phase2_max_tokens: null
  min_words: 10
  max_consecutive_newlines: 5
teacher_config:
  enabled: false
  model_path: "meta-llama/Llama-3.2-3B-Instruct"
  batch_size: 8
  max_seq_length: 2048
  temperature: 1.0
  save_format: "parquet"
  shard_size_mb: 2048
logging:
  level: "INFO"
  save_stats: true
  stats_interval: 1000
"""


def mix(text: str) -> Mix:
    """A mix from its YAML."""
    return parse_mix(text.encode(), Path("mix.yaml"))


def run(text: str, **habits: object) -> MixRun:
    """A run of it, which is not carried out."""
    return MixRun(mix(text), Path("out"), Path("cache"), StateDir(Path("state")), **habits)  # type: ignore[arg-type]


def test_the_old_yaml_is_taken_as_it_is() -> None:
    """Each key of the old file; what it does not say is the built-in mix's; old ids lead to where repos live now."""
    found = mix(OLD)
    assert found.output_dir == Path("/path/to/data/distillation")
    assert len(found.enabled) == 12
    assert found.datasets["the_stack_python"].subset == ("python",)
    assert found.datasets["the_stack_python"].filters.allowed_licenses == ("mit", "apache-2.0")
    assert found.datasets["the_stack_javascript"].subset == ("JavaScript",)
    assert found.datasets["math"].hf_path == "EleutherAI/hendrycks_math"
    assert len(found.datasets["math"].subset or ()) == 7
    assert found.datasets["hotpotqa"].hf_path == "hotpotqa/hotpot_qa"
    assert found.preprocessing.dedup_method == "md5_hash"
    assert run(OLD).quotas().notices == ()


@pytest.mark.parametrize(
    ("text", "quotas"),
    [
        ("", {"openhermes": 14_000, "the_stack_python": 15_000, "hotpotqa": 5_000}),
        ("total_samples: 1000", {"openhermes": 140, "gsm8k": 75}),
        (
            "category_ratios: {instruction_chat: 0.25, code: 0.45, math_reasoning: 0.20, factual_qa: 0.10}",
            {"openhermes": 10_000, "starcoder": 9_000},
        ),
        ("total_samples: 500000", {"numina_cot": 50_000}),
        (
            "category_ratios: {instruction_chat: 0.20, code: 0.60, math_reasoning: 0.15, factual_qa: 0.05}",
            {"code_contests": 9_000},
        ),
        (
            "datasets:\n"
            + "".join(
                f"  {name}: {{enabled: false}}\n"
                for name in ("openhermes", "ultrachat", "open_orca", "gsm8k", "math", "numina_cot", "natural_questions",
                             "hotpotqa")
            )
            + "  the_stack_python: {enabled: true}\n  starcoder: {enabled: true}\n",
            {"the_stack_python": 50_000, "starcoder": 20_000},
        ),
    ],
)  # fmt: skip
def test_each_example_of_the_document_gives_its_quotas(text: str, quotas: dict[str, int]) -> None:
    """They add up to what is asked for."""
    shared = run(text).quotas().rows
    assert sum(shared.values()) == mix(text).total_samples
    assert {name: shared[name] for name in quotas} == quotas


def test_a_mix_with_other_sources_and_mappers() -> None:
    """A catalog entry and a function: that is all a new source needs."""
    text = """
    category_ratios: {poems: 0.5}
    datasets:
      sonnets: {category: poems, hf_path: me/sonnets, mapper: "my.module:sonnet", license: cc0-1.0}
    """
    found = mix(text)
    assert found.datasets["sonnets"].mapper == "my.module:sonnet"
    assert found.category_ratios["poems"] == Fraction(1, 2)
    shared = run(text).quotas()
    assert "category_ratios add up to 1.5, not 1; they are taken in proportion" in shared.notices
    assert shared.rows["sonnets"] == 33_333
    with pytest.raises(DataError, match=r"strict: category_ratios add up to 1\.5"):
        run(f"{text}\n    strict: true").quotas()


def test_the_commercial_policy_refuses_by_name() -> None:
    """Where nobody says, or terms have to be read; the others stay."""
    with pytest.raises(DataError) as refused:
        run("license_policy: commercial").quotas()
    assert "openhermes (not stated; commercial use: not stated)" in str(refused.value)
    assert "starcoder (other; commercial use: see terms)" in str(refused.value)
    assert "the_stack" not in str(refused.value)
    off = "license_policy: commercial\ndatasets: {openhermes: {enabled: false}, starcoder: {enabled: false}}"
    assert len(run(off).quotas().rows) == 10


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("total_sample: 3", "mix.yaml:1 total_sample: unknown key; did you mean total_samples?"),
        ("datasets: {gsm8k: {allocatoin: 1}}", "datasets.gsm8k.allocatoin: unknown key; did you mean allocation?"),
        ("datasets: {mine: {category: code}}", "datasets.mine.hf_path: is missing; it names the Hub repo"),
        ("datasets: {gsm8k: {allocation: many}}", "datasets.gsm8k.allocation: must be a share like 0.35, not 'many'"),
        ("datasets: {gsm8k: {mapper: gsm9k}}", "datasets.gsm8k.mapper: must be one of"),
        ("datasets: {'../x': {hf_path: a/b}}", "must be letters, digits, dots, dashes and underscores only"),
        ("datasets: {gsm8k: {category: maths}}", "datasets: gsm8k: the category 'maths' has no share"),
        ("preprocessing: {dedup_method: minhash}", "must be xxh3_128 or md5_hash, not 'minhash'"),
        ("total_samples: 0", "total_samples: must be at least 1, not '0'"),
        ("- 1", "must be a mapping like"),
    ],
)
def test_each_mistake_is_one_line_that_says_where(text: str, said: str) -> None:
    """File, line, key, and what would be right."""
    with pytest.raises(CatalogError) as wrong:
        mix(text)
    assert said in "\n".join(wrong.value.errors)
    assert all(line.startswith("mix.yaml:1") for line in wrong.value.errors)


def test_a_catalog_holds_several_mixes(tmp_path: Path) -> None:
    """Named, and a name once."""
    path = tmp_path / "catalog.yaml"
    path.write_text("distillation:\n- {name: small, total_samples: 100}\n- {name: large}\n")
    small, large = load_catalog(path).distillation
    assert (small.total_samples, large.total_samples) == (100, 100_000)
    assert small.place(tmp_path) == tmp_path / "distillation" / "small"
    path.write_text("distillation:\n- {name: small}\n- {name: small}\n")
    with pytest.raises(CatalogError, match="the name 'small' is taken by the entry on line 2"):
        load_catalog(path)


def test_a_filter_that_fits_no_row_is_an_error() -> None:
    """A licence list on a source whose rows name none, and whose own licence is not on it."""
    text = "datasets: {gsm8k: {filters: {allowed_licenses: [apache-2.0]}}}"
    with pytest.raises(DataError, match=r"gsm8k: its rows name no licence, and that of the data \(mit\)"):
        run(text).request("gsm8k", 1, "0" * 40, None)
    assert run(text.replace("apache-2.0", "MIT")).request("gsm8k", 1, "0" * 40, None).filters.licenses is None


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            "{strict: true, category_ratios: {code: 0.9}}",
            "distillation[0]: mix distillation is strict: category_ratios",
        ),
        ("{license_policy: commercial}", "openhermes (not stated; commercial use: not stated)"),
        ("{datasets: {gsm8k: {mapper: 'nowhere.at_all:f'}}}", "datasets.gsm8k: mapper 'nowhere.at_all:f': No module"),
        (
            "{datasets: {gsm8k: {filters: {allowed_licenses: [isc]}}}}",
            "datasets.gsm8k: gsm8k: its rows name no licence",
        ),
    ],
)
def test_a_mix_that_no_run_could_make_is_a_mistake_of_the_catalog(tmp_path: Path, entry: str, said: str) -> None:
    """Found when the catalog is checked, so that a code location never meets it."""
    path = tmp_path / "catalog.yaml"
    path.write_text(f"distillation:\n- {entry}\n")
    with pytest.raises(CatalogError) as wrong:
        load_catalog(path)
    assert said in str(wrong.value)
    assert "catalog.yaml:2 distillation[0]" in str(wrong.value)
