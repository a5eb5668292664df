"""A catalog of 10,000 dataset configs: loading the location, a tick of re-verification, the partition page of the UI.

    python -m benchmarks.bench_catalog [--configs 10000]

The comparison is a bare Dagster location with as many static partitions in three assets and nothing else: what anybody
would pay. Targets: a tick under 5 s, the location under 1 s beyond `import dagster`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import requests
from rich.console import Console

from hfassets.demo.home import DemoHome
from hfassets.demo.ui import services
from hfassets.report.tables import build_table
from hfassets.storage import StateDir, record_intact

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIGS_A_REPO = 100
TICK_TARGET, LOAD_TARGET = 5.0, 1.0

LOAD = """
import time, dagster
began = time.perf_counter()
import {module} as module
module.defs.resolve_asset_graph()
print(time.perf_counter() - began)
"""
BARE = """
import dagster as dg
keys = dg.StaticPartitionsDefinition([f"repo-{{n // 100}}:config-{{n % 100}}" for n in range({configs})])
@dg.asset(partitions_def=keys)
def one(): ...
@dg.asset(partitions_def=keys, deps=[one])
def two(): ...
@dg.asset(partitions_def=keys, deps=[two])
def three(): ...
defs = dg.Definitions(assets=[one, two, three])
"""
TICK = """
import time, dagster as dg
from hfassets.definitions import defs
sensor = defs.resolve_sensor_def("{sensor}")
with dg.instance_for_test() as instance:
    began = time.perf_counter()
    result = sensor(dg.build_sensor_context(instance, sensor_name="{sensor}"))
    print(time.perf_counter() - began)
"""
PAGE = """query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  partitionKeys
  partitionStats { numMaterialized numPartitions numFailed }
  assetPartitionStatuses { ... on DefaultPartitionStatuses { materializedPartitions failedPartitions } }
} } }"""


def write_catalog(home: DemoHome, configs: int) -> list[str]:
    """A catalog and its lock with as many configs as asked; returns the partition keys."""
    repos = [
        (f"org/repo-{n}", [f"config-{c}" for c in range(CONFIGS_A_REPO)]) for n in range(configs // CONFIGS_A_REPO)
    ]
    entries = "".join(f"  - {{name: repo-{n}, repo: {repo}}}\n" for n, (repo, _) in enumerate(repos))
    home.catalog.write_text(f"storage: {{hub_cache: hub, datasets_cache: datasets}}\ndatasets:\n{entries}")
    locked = [
        {
            "repo": repo,
            "revision": "main",
            "commit": COMMIT,
            "configs": names,
            "default_config": None,
            "synced_at": "2026-01-01T00:00:00Z",
        }
        for repo, names in repos
    ]
    home.catalog.with_name("catalog.lock").write_text(json.dumps({"lock_version": 1, "repos": locked}))
    return [f"{repo.removeprefix('org/')}:{name}" for repo, names in repos for name in names]


def seconds(code: str, cwd: Path, rounds: int = 3) -> float:
    """Best of `rounds` of a program that prints its own time."""
    environment = {**os.environ, "PYTHONPATH": str(cwd)}
    times = []
    for _ in range(rounds):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        times.append(float(done.stdout.splitlines()[-1]))
    return min(times)


def page_seconds(home: DemoHome, port: int) -> float:
    """Best of three answers of the web server to what the partition page of an asset asks for."""
    times = []
    with services(home, port):
        for _ in range(4):
            began = time.perf_counter()
            body = {"query": PAGE, "variables": {"key": {"path": ["verified_hub_cache"]}}}
            answer = requests.post(f"http://127.0.0.1:{port}/graphql", json=body, timeout=120).json()
            times.append(time.perf_counter() - began)
            assert answer["data"]["assetNodeOrError"]["partitionStats"]["numPartitions"] > 0, answer
    return min(times[1:])


def main() -> int:
    """Print the table; 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--configs", type=int, default=10_000)
    parser.add_argument("--port", type=int, default=3999)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = DemoHome(Path(folder))
        home.root.joinpath("bare.py").write_text(BARE.format(configs=options.configs))
        home.create("http://127.0.0.1:9")
        keys = write_catalog(home, options.configs)
        first = seconds(LOAD.format(module="hfassets.definitions"), home.root, rounds=1)
        loaded = seconds(LOAD.format(module="hfassets.definitions"), home.root)
        bare = seconds(LOAD.format(module="bare"), home.root)
        ledger = StateDir(home.root / "data" / ".hfassets").ledger("verified_hub_cache")
        for key in keys:
            record_intact(ledger, key, COMMIT, 10**9)
        tick, repair = (seconds(TICK.format(sensor=sensor), home.root) for sensor in ("reverify", "repair"))
        page = page_seconds(home, options.port)
    rows = [
        ("location load, first time (accepts the catalog)", f"{first:.2f} s", "", ""),
        ("location load", f"{loaded:.2f} s", f"bare Dagster {bare:.2f} s", f"< {LOAD_TARGET:.0f} s"),
        ("re-verification tick", f"{tick:.2f} s", "", f"< {TICK_TARGET:.0f} s"),
        ("repair tick", f"{repair:.2f} s", "", f"< {TICK_TARGET:.0f} s"),
        ("UI partition page", f"{page:.2f} s", "", ""),
    ]
    print(f"{options.configs:,} dataset configs")
    Console(width=120).print(build_table(["what", "took>", "beside", "target"], rows).rich())
    return int(tick > TICK_TARGET or repair > TICK_TARGET or loaded > LOAD_TARGET)


if __name__ == "__main__":
    sys.exit(main())
