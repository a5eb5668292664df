"""The public face of all assets, held by a golden file: a change here is a change for users.

To accept one: HFASSETS_UPDATE_GOLDEN=1 python -m pytest hfassets_tests/defs/test_asset_specs.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from hfassets.catalog import accept
from hfassets.defs.code_location import build_definitions
from hfassets.defs.location import Location

pytestmark = pytest.mark.dagster

GOLDEN = Path(__file__).with_name("asset_specs.json")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def definitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dg.Definitions:
    """A fixed small catalog that was synchronised once."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(
        "datasets:\n"
        "  - {name: duorc, repo: ibm-research/duorc, partitions_per_run: 2}\n"
        "  - {repo: google/docci, configs: [default]}\n"
        "c4:\n"
        "  - {num_samples: 5000}\n"
        "  - {name: sample, num_samples: 100, seed: 7, destination: s3://bucket/c4}\n"
    )
    locked = [("allenai/c4", ["en"]), ("google/docci", ["default"]), ("ibm-research/duorc", ["ParaphraseRC", "SelfRC"])]
    repos = [
        {
            "repo": repo,
            "revision": "main",
            "commit": COMMIT,
            "configs": configs,
            "default_config": None,
            "synced_at": "2026-01-01T00:00:00Z",
        }
        for repo, configs in locked
    ]
    (tmp_path / "catalog.lock").write_text(json.dumps({"lock_version": 1, "repos": repos}))
    accepted = accept(catalog)
    assert not accepted.errors
    return build_definitions(Location(catalog, accepted))


def face(definitions: dg.Definitions) -> dict[str, Any]:
    """What users see of each asset, sensor and schedule."""
    graph = definitions.resolve_asset_graph()
    assets = {}
    for key in sorted(graph.get_all_asset_keys()):
        node = graph.get(key)
        checks = sorted(check.name for check in node.check_keys)
        assets[key.to_user_string()] = {
            "group": node.group_name,
            "owners": list(node.owners),
            "kinds": sorted(node.kinds),
            "description": node.description,
            "deps": sorted(parent.to_user_string() for parent in node.parent_keys),
            "partitions": list(node.partitions_def.get_partition_keys()) if node.partitions_def else None,
            "checks": {
                name: {
                    "partitioned": graph.get(dg.AssetCheckKey(key, name)).partitions_def is not None,
                    "blocking": graph.get(dg.AssetCheckKey(key, name)).blocking,
                }
                for name in checks
            },
            "pools": sorted(node.pools or ()),
            "partitions per run": node.backfill_policy.max_partitions_per_run if node.backfill_policy else None,
            "automated": node.automation_condition is not None,
        }
    sensors = {sensor.name: sensor.default_status.value for sensor in definitions.sensors or ()}
    schedules = {one.name: one.cron_schedule for one in definitions.schedules or () if hasattr(one, "cron_schedule")}
    return {"assets": assets, "sensors": sensors, "schedules": schedules}


def test_public_face_is_as_recorded(definitions: dg.Definitions) -> None:
    """Groups, kinds, dependencies, partitions, checks, pools and clocks are those of the golden file."""
    found = face(definitions)
    if os.environ.get("HFASSETS_UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=2) + "\n")
    assert found == json.loads(GOLDEN.read_text())


def test_repos_whose_names_are_alike_are_two_sources(tmp_path: Path) -> None:
    """A location with shard sets of both loads."""
    catalog, repos = tmp_path / "catalog.yaml", ("a-b/c.d", "a_b/c-d")
    catalog.write_text("c4:\n" + "".join(f"  - {{name: s{n}, repo: {repo}}}\n" for n, repo in enumerate(repos)))
    pinned = {"revision": "main", "commit": COMMIT, "configs": ["default"], "default_config": None, "synced_at": ""}
    (tmp_path / "catalog.lock").write_text(
        json.dumps({"lock_version": 1, "repos": [{"repo": repo, **pinned} for repo in repos]})
    )
    accepted = accept(catalog)
    assert not accepted.errors
    keys = build_definitions(Location(catalog, accepted)).resolve_asset_graph().get_all_asset_keys()
    assert {dg.AssetKey(["c4_source", *repo.split("/")]) for repo in repos} < keys


def test_loading_imports_nothing_heavy(tmp_path: Path, definitions: dg.Definitions) -> None:
    """The code location loads without datasets, torch, transformers, boto3, pandas, matplotlib or pyarrow."""
    code = (
        "import sys, hfassets.definitions; heavy = {'datasets', 'torch', 'transformers', 'boto3', 'pandas', "
        "'matplotlib', 'pyarrow', 'huggingface_hub'}; print(sorted(heavy & set(sys.modules)))"
    )
    env = {**os.environ, "HFASSETS_CATALOG": str(tmp_path / "catalog.yaml")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_catalog_at_all_is_one_clear_line(tmp_path: Path) -> None:
    """Without a catalog the location does not load, and says how to get one."""
    env = {name: value for name, value in os.environ.items() if name != "HFASSETS_CATALOG"}
    done = subprocess.run(
        [sys.executable, "-c", "import hfassets.definitions"], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "hfassets catalog init" in done.stderr.splitlines()[-1]
