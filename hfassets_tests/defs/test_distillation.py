"""Mixes in Dagster: files made, described, damaged and repaired; the summary takes exactly its members."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import orjson
import pytest

from hfassets.catalog import accept
from hfassets.cli.main import main
from hfassets.defs.code_location import build_definitions
from hfassets.defs.location import Location
from hfassets.demo.hub_app import TOKEN
from hfassets.slurm.request import REQUEST_KEY
from hfassets_tests.conftest import ClientEnvironment
from hfassets_tests.defs.conftest import Site

pytestmark = pytest.mark.dagster

CHECKS = ("rows_as_asked", "intact", "records_are_json", "account_closed")
MIX = """
  - name: small
    total_samples: 60
    on_shortfall: redistribute
    category_ratios: {instruction_chat: 0.5, code: 0, math_reasoning: 0.5, factual_qa: 0}
    datasets:
      open_orca: {enabled: false}
      ultrachat: {enabled: false}
      math: {enabled: false}
      the_stack_python: {enabled: false}
      the_stack_javascript: {enabled: false}
      starcoder: {enabled: false}
      code_contests: {enabled: false}
      natural_questions: {enabled: false}
      hotpotqa: {enabled: false}
"""
KEYS = ["small/instruction_chat/openhermes", "small/math_reasoning/gsm8k", "small/math_reasoning/numina_cot"]


@pytest.fixture
def mix_site(tmp_path: Path, hub_env: ClientEnvironment, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """One mix of three sources."""
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(textwrap.dedent("hub:\n  endpoint: ${HF_ENDPOINT}\ndistillation:") + MIX)
    monkeypatch.setenv("HFASSETS_CATALOG", str(catalog))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main(["catalog", "sync"]) == 0
    with dg.instance_for_test() as instance:
        location = Location(catalog, accept(catalog))
        yield Site(catalog, instance, location, build_definitions(location))


def test_a_file_is_made_checked_and_described(mix_site: Site) -> None:
    """A partition a source; rows, lengths as a picture, what became of every row, the first ones as a table."""
    assert list(mix_site.location.mix_files.get_partition_keys()) == KEYS
    assert mix_site.run(KEYS[0], "distillation_file").success
    shown = mix_site.metadata("distillation_file", KEYS[0])
    assert (shown["dagster/row_count"], shown["asked for"]) == (30, 30)
    assert shown["text lengths"].startswith("![histogram of text lengths](data:image/png;base64,")
    assert "| written | 30 |" in " ".join(shown["rows"].split())
    assert "openhermes\\_00000000" in shown["first rows"]
    assert shown["licence of the data"] == "not stated; commercial use: not stated"
    assert [mix_site.check("distillation_file", name, KEYS[0]) for name in CHECKS] == [True] * 4


def test_the_summary_waits_for_all_and_shows_what_was_asked_and_got(mix_site: Site) -> None:
    """A missing member is named; then the picture, the table and the file."""
    assert mix_site.run(KEYS[0], "distillation_file").success
    failed = mix_site.run("small", "distillation_summary")
    assert not failed.success
    (failure,) = [event.step_failure_data for event in failed.all_events if event.is_step_failure]
    assert failure.user_failure_data is not None
    assert f"{KEYS[1]}, {KEYS[2]}; materialise them first" in str(failure.user_failure_data.description)
    for key in KEYS[1:]:
        assert mix_site.run(key, "distillation_file").success
    assert mix_site.run("small", "distillation_summary").success
    shown = mix_site.metadata("distillation_summary", "small")
    assert shown["dagster/row_count"] == 60
    assert shown["asked and got"].startswith("![rows asked for and got, by source](data:image/png;base64,")
    assert "numina\\_cot | 17 | 17 |" in shown["sources"]
    assert mix_site.check("distillation_summary", "members_are_current", "small") is True
    summary = orjson.loads((mix_site.catalog.parent / "data/distillation/small/download_summary.json").read_bytes())
    assert summary["total_samples"] == 60


def test_a_deficit_is_shared_out_by_the_summary_and_the_extended_file_is_a_new_version(mix_site: Site) -> None:
    """numina_cot has 790 rows of the 800 it is asked for; gsm8k gets the ten, and Dagster hears of it."""
    text = mix_site.catalog.read_text().replace("total_samples: 60", "total_samples: 2800")
    mix_site.catalog.write_text(text)
    mix_site.reload()
    for key in KEYS:
        assert mix_site.run(key, "distillation_file").success
    assert mix_site.metadata("distillation_file", KEYS[1])["dagster/row_count"] == 600
    assert mix_site.run("small", "distillation_summary").success
    assert mix_site.metadata("distillation_file", KEYS[1])["dagster/row_count"] == 610
    assert mix_site.run(KEYS[1], "distillation_file").success
    assert mix_site.metadata("distillation_file", KEYS[1])["dagster/row_count"] == 610


def test_damage_goes_red_when_it_is_verified_and_the_sensor_has_it_repaired(mix_site: Site) -> None:
    """A changed byte is found by re-verification; the repair makes the same file again."""
    assert mix_site.run(KEYS[1], "distillation_file").success
    path = Path(str(mix_site.metadata("distillation_file", KEYS[1])["dagster/uri"]).removeprefix("file://"))
    good = path.read_bytes()
    path.write_bytes(good.replace(b"e", b"i", 1))
    in_eight_days = time.time() + 8 * 86_400
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(time, "time", lambda: in_eight_days)
        (request,) = mix_site.tick("reverify", None).run_requests or ()
    assert request.asset_selection == [dg.AssetKey("distillation_file")] and request.partition_key == KEYS[1]
    assert not mix_site.launch(request).success
    assert mix_site.check("distillation_file", "intact", KEYS[1]) is False
    (repair,) = mix_site.tick("repair", None).run_requests or ()
    assert mix_site.launch(repair).success
    assert path.read_bytes() == good
    assert mix_site.check("distillation_file", "intact", KEYS[1]) is True


def test_a_larger_mix_extends_and_a_removed_source_is_retired(mix_site: Site) -> None:
    """The file begins as it was; the key of a source that is switched off can still be made."""
    assert mix_site.run(KEYS[2], "distillation_file").success
    path = Path(str(mix_site.metadata("distillation_file", KEYS[2])["dagster/uri"]).removeprefix("file://"))
    before = path.read_bytes()
    text = mix_site.catalog.read_text().replace("total_samples: 60", "total_samples: 120")
    mix_site.catalog.write_text(text.replace("open_orca:", "gsm8k: {enabled: false}\n      open_orca:"))
    mix_site.reload()
    assert mix_site.run(KEYS[2], "distillation_file").success
    assert path.read_bytes().startswith(before)
    assert mix_site.metadata("distillation_file", KEYS[2])["dagster/row_count"] == 60
    assert mix_site.location.accepted.retired == (KEYS[1],)
    assert mix_site.run(KEYS[1], "distillation_file").success


def test_only_who_asks_for_slurm_gets_jobs(mix_site: Site) -> None:
    """A pattern a mix."""
    key = dg.AssetKey("distillation_file")
    assert REQUEST_KEY not in mix_site.definitions.resolve_asset_graph().get(key).metadata
    text = mix_site.catalog.read_text()
    mix_site.catalog.write_text(text.replace("total_samples: 60", 'total_samples: 60\n    slurm: {time: "01:00:00"}'))
    mix_site.reload()
    request = mix_site.definitions.resolve_asset_graph().get(key).metadata[REQUEST_KEY]
    assert request == {"default": {}, "partitions": {"small/*": {"time": "01:00:00"}}}
