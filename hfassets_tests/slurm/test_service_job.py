"""The service in a row of SLURM jobs, for sites that forbid daemons on login nodes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from hfassets_tests.cluster import Cluster
from hfassets_tests.dagster_service import wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


@pytest.mark.drill
def test_the_service_goes_on_in_the_next_job_until_it_is_told_to_end(cluster: Cluster, tmp_path: Path) -> None:
    """Told to stop for its time, the job is followed by the next; `hfassets down` ends the row."""
    home = tmp_path / "dagster"
    home.mkdir()
    # As root there can be no Postgres: this dagster.yaml keeps its state in SQLite.
    shutil.copy(ROOT / "dagster.yaml", home)
    environment = {
        **os.environ,
        **cluster.environment,
        "DAGSTER_HOME": str(home),
        "HFASSETS_CATALOG": str(tmp_path / "catalog.yaml"),
        "HFASSETS": str(Path(sys.executable).with_name("hfassets")),
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(tmp_path),
    }

    def hfassets(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hfassets.cli.main", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)

    def status() -> dict[str, Any]:
        return dict(orjson.loads(hfassets("status", "--json").stdout))

    def runs_in(job: str) -> bool:
        found = status()
        return bool(found["running"] and found["healthy"] and found["job"] == job)

    assert hfassets("catalog", "init").returncode == 0
    options = [f"--chdir={tmp_path}", "--mem=3000M", "--cpus-per-task=1", "--time=30"]
    command = ["sbatch", "--parsable", *options, str(ROOT / "slurm/service.sbatch")]
    first = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    wait_for("the service", lambda: runs_in(first), 120)
    shown = hfassets("status").stdout
    assert f"job {first}" in shown and "ssh -N -J " in shown
    (second,) = cluster.jobs("PENDING")
    cluster.run("scancel", "--signal=TERM", "--batch", first)
    wait_for("the service in the next job", lambda: runs_in(second), 180)
    assert cluster.field(first, "ExitCode") == "75:0"
    done = hfassets("down")
    assert done.returncode == 0, done.stderr
    wait_for("an empty queue", lambda: not cluster.jobs("PENDING", "RUNNING", "COMPLETING"), 60)
    assert cluster.field(second, "ExitCode") == "0:0" and hfassets("status").returncode == 3
