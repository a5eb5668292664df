"""Staging recipes in Dagster: made of a prepared dataset, described with the command that stages them, repaired."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import datasets
import pytest

from hfassets.catalog import accept
from hfassets.cli.main import main
from hfassets.defs.code_location import build_definitions
from hfassets.defs.location import Location
from hfassets.slurm.request import REQUEST_KEY
from hfassets_tests.conftest import ClientEnvironment
from hfassets_tests.defs.conftest import Site

pytestmark = pytest.mark.dagster

ASSET = "preprocessed_dataset"
CATALOG = """\
storage: {hub_cache: hub, datasets_cache: datasets}
hub:
  endpoint: ${HF_ENDPOINT}
datasets:
  - name: gsm8k
    repo: openai/gsm8k
    configs: [main]
  - name: beans
    repo: AI-Lab-Makerere/beans
staging:
  - name: questions
    source: {dataset: gsm8k}
    tokenizer: EleutherAI/pythia-70m
    column: question
    block_size: 64
    missing: {validation: 0.1}
  - name: leaves
    source: {dataset: beans}
"""


@pytest.fixture
def staging_site(tmp_path: Path, hub_env: ClientEnvironment, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Two recipes of two datasets."""
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(textwrap.dedent(CATALOG))
    monkeypatch.setenv("HFASSETS_CATALOG", str(catalog))
    assert main(["catalog", "sync"]) == 0
    with dg.instance_for_test() as instance:
        location = Location(catalog, accept(catalog))
        yield Site(catalog, instance, location, build_definitions(location))


def prepared(site: Site, key: str) -> None:
    """A dataset as Arrow."""
    assert site.run(key, "hub_snapshot", "verified_hub_cache", "prepared_dataset").success


def test_a_recipe_is_made_and_says_how_it_is_staged(
    staging_site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files, bytes, tokens and the exact command, which works as it stands; its dataset has to be prepared."""
    site = staging_site
    failed = site.run("questions", ASSET)
    (failure,) = [event.step_failure_data for event in failed.all_events if event.is_step_failure]
    assert failure.user_failure_data is not None
    assert "materialise prepared_dataset first" in str(failure.user_failure_data.description)
    assert main(["stage", "questions", "--to", str(tmp_path / "to")]) == 1
    assert "not made yet" in capsys.readouterr().err
    prepared(site, "gsm8k:main")
    assert site.run("questions", ASSET).success
    for check in ("intact", "account_closed"):
        assert site.check(ASSET, check, "questions") is True
    shown = site.metadata(ASSET, "questions")
    folder = Path(str(shown["dagster/uri"]).removeprefix("file://"))
    data = datasets.load_from_disk(str(folder))
    assert set(data) == {"train", "validation", "test"}
    assert shown["tokens"] == sum(len(row) for split in data.values() for row in split["input_ids"])
    assert shown["dagster/row_count"] == sum(len(split) for split in data.values())
    there = [path for path in folder.rglob("*") if path.is_file()]
    assert shown["files"] == len(there)
    assert shown["bytes"] == sum(path.stat().st_size for path in there if path.name != "manifest.json")
    assert shown["per split"].startswith("![tokens of each split](data:image/png;base64,")
    command = shlex.split(shown["to stage"])
    assert command == ["hfassets", "stage", "questions", "--to", "$SLURM_TMPDIR/data"]
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path / "node"))
    assert main(command[1:]) == 0
    assert {path: len(split) for path, split in datasets.load_from_disk(str(tmp_path / "node/data")).items()} == {
        name: len(split) for name, split in data.items()
    }


def test_a_damaged_folder_is_red_and_is_made_again(staging_site: Site) -> None:
    """By the check and by the repair that the sensor asks for; an identical run makes nothing."""
    site = staging_site
    prepared(site, "beans:default")
    assert site.run("leaves", ASSET).success
    before = site.metadata(ASSET, "leaves")
    folder = Path(str(before["dagster/uri"]).removeprefix("file://"))
    damaged = folder / "train" / "data-00000-of-00001.arrow"
    good = damaged.read_bytes()
    damaged.write_bytes(good[:-1] + b"x")
    assert not site.run("leaves", ASSET, **{ASSET: {"verify": True}}).success
    assert site.check(ASSET, "intact", "leaves") is False
    (request,) = site.tick("repair", None).run_requests or ()
    assert site.launch(request).success
    assert damaged.read_bytes() == good
    assert site.check(ASSET, "intact", "leaves") is True
    assert site.metadata(ASSET, "leaves")["fingerprint"] == before["fingerprint"]


def test_lineage_is_exact_and_only_who_asks_for_slurm_gets_jobs(staging_site: Site) -> None:
    """A recipe hangs on its dataset's config and on no other."""
    site = staging_site
    node = site.definitions.resolve_asset_graph().get(dg.AssetKey(ASSET))
    assert node.parent_keys == {dg.AssetKey("prepared_dataset")} and REQUEST_KEY not in node.metadata
    found = node.partition_mappings[dg.AssetKey("prepared_dataset")]
    upstream = found.get_upstream_mapped_partitions_result_for_partitions(
        site.location.staging.subset_with_partition_keys(["leaves"]),
        site.location.staging,
        site.location.dataset_configs,
    )
    assert set(upstream.partitions_subset.get_partition_keys()) == {"beans:default"}
    site.catalog.write_text(site.catalog.read_text() + '    slurm: {cpus: "8"}\n')
    site.reload()
    request = site.definitions.resolve_asset_graph().get(dg.AssetKey(ASSET)).metadata
    assert request[REQUEST_KEY] == {"default": {}, "partitions": {"leaves": {"cpus": "8"}}}


def test_the_command_line_makes_a_recipe_from_nothing(
    staging_site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Downloaded, prepared, made and staged by one command; the second time all is there."""
    for said in ("made in", "made before"):
        assert main(["stage", "questions", "--prepare", "--to", str(tmp_path / "to"), "--workers", "1"]) == 0
        assert said in capsys.readouterr().err
    assert len(datasets.load_from_disk(str(tmp_path / "to"))["train"]) > 0
    assert main(["register"]) == 0
