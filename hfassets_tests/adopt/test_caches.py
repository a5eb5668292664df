"""Caches that the unmodified clients have filled, as partitions of the catalog."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from hfassets.cli.main import main
from hfassets.defs.code_location import all_registrables
from hfassets.defs.location import load_location
from hfassets.defs.registration import register
from hfassets.progress import silent
from hfassets.storage.state import StateDir
from hfassets_tests.adopt.test_folder import write_foreign_mds
from hfassets_tests.conftest import ClientEnvironment

CATALOG = """\
storage: {hub_cache: hub, datasets_cache: datasets, state_dir: state, output_root: data}
hub: {endpoint: '${HF_ENDPOINT}', backoff_factor: 0.05}
datasets:
- {name: beans, repo: AI-Lab-Makerere/beans}
- {name: duorc, repo: ibm-research/duorc}
"""
RECIPES = """\
mds:
- name: foreign
  source: {files: /nowhere}
  tokenizer: EleutherAI/pythia-70m
  chunks: {size: 200, minimum: 200}
"""
_FILL = """
import sys
from datasets import load_dataset
load_dataset("AI-Lab-Makerere/beans", revision=sys.argv[1], cache_dir="datasets")
"""


@pytest.fixture
def catalog(tmp_path: Path, hub_env: ClientEnvironment, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two datasets, nothing of them fetched; the working folder is the catalog's."""
    path = tmp_path / "catalog.yaml"
    path.write_text(CATALOG)
    monkeypatch.setenv("HFASSETS_CATALOG", str(path))
    monkeypatch.chdir(tmp_path)
    assert main(["catalog", "sync"]) == 0
    return path


def fill(hub_env: ClientEnvironment, catalog: Path) -> None:
    """What a user's own script leaves behind."""
    commit = hub_env.hub.commit("AI-Lab-Makerere/beans")
    hub_env.python(_FILL, commit, HF_HUB_CACHE=str(catalog.parent / "hub"), PWD=str(catalog.parent))


def test_what_the_clients_left_counts_as_done(
    catalog: Path, hub_env: ClientEnvironment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both caches: proven, recorded, and found by Dagster; not a byte is fetched, and what is not there is named."""
    fill(hub_env, catalog)
    hub_env.hub.reset()
    assert main(["adopt", "hub"]) == 0
    printed = capsys.readouterr().out
    assert "adopted" in printed and "duorc" in printed and "not there" in printed
    assert main(["adopt", "hub", "--offline"]) == 0
    assert "known already" in capsys.readouterr().out
    assert main(["adopt", "datasets"]) == 0
    assert not [line for line in hub_env.hub.requests if "/resolve/" in str(line) and "duorc" not in str(line)]
    with dg.instance_for_test() as instance:
        register(instance, all_registrables(load_location()), silent)
        for asset in ("hub_snapshot", "prepared_dataset"):
            assert len(instance.get_materialized_partitions(dg.AssetKey(asset))) == 1


def test_a_damaged_cache_is_not_adopted(
    catalog: Path, hub_env: ClientEnvironment, capsys: pytest.CaptureFixture[str]
) -> None:
    """A blob with another content than its hash: named, and no manifest."""
    fill(hub_env, catalog)
    blob = max((catalog.parent / "hub").rglob("blobs/*"), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[100] ^= 1
    blob.write_bytes(bytes(data))
    assert main(["adopt", "hub"]) == 1
    captured = capsys.readouterr()
    assert "not intact" in captured.out and "none of the catalog's partitions" in captured.err
    assert not list(StateDir(catalog.parent / "state").root.glob("manifests/hub_snapshot/*"))


def test_another_cache_than_the_catalogs_is_refused(catalog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, with what to write into the catalog."""
    (catalog.parent / "elsewhere/datasets--a--b").mkdir(parents=True)
    assert main(["adopt", "elsewhere"]) == 2
    assert "storage: hub_cache" in capsys.readouterr().err


def test_an_adopted_mds_is_a_partition_that_is_done(
    catalog: Path, streaming: object, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It stands where the recipe's chunks belong; they are not made anew, and Dagster is told of it."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source/a.jsonl").write_text('{"text": "a"}\n')
    catalog.write_text(CATALOG + RECIPES.replace("/nowhere", str(tmp_path / "source")))
    assert main(["catalog", "sync"]) == 0
    folder = tmp_path / "foreign"
    write_foreign_mds(streaming, folder, 30)
    capsys.readouterr()
    assert main(["adopt", str(folder), "--as", "chunked_mds:nothing"]) == 2
    assert main(["adopt", str(folder), "--as", "text_mds:foreign"]) == 1
    assert "no column text" in capsys.readouterr().err
    assert main(["adopt", str(folder), "--as", "chunked_mds:foreign"]) == 0
    with dg.instance_for_test() as instance:
        register(instance, all_registrables(load_location()), silent)
        assert instance.get_materialized_partitions(dg.AssetKey("chunked_mds")) == {"foreign"}
    assert main(["adopt", str(folder), "--as", "chunked_mds:foreign"]) == 0
