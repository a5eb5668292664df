"""What a job runs on its node: its exit code, and what becomes of a run whose processes are signalled."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.utils import make_new_run_id
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget

from hfassets.slurm.job import EXIT_FAILED, EXIT_UNFINISHED

pytestmark = [pytest.mark.unit, pytest.mark.dagster]

JOB = """
import os, sys
os.environ["WORKER_PID"] = str(os.getpid())
from hfassets.slurm.job import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    """An instance whose runs may be resumed."""
    folder = tmp_path_factory.mktemp("instance")
    monitoring = {"enabled": True, "start_timeout_seconds": 10**9, "max_resume_run_attempts": 5}
    launcher = {"module": "hfassets.slurm", "class": "SlurmRunLauncher", "config": {}}
    document = {"run_launcher": launcher, "run_monitoring": monitoring}
    (folder / "dagster.yaml").write_text(yaml.safe_dump(document))
    environment = {"DAGSTER_HOME": str(folder), "TRIAL_FOLDER": str(folder)}
    with patch.dict(os.environ, environment), DagsterInstance.get() as found:
        yield found


@pytest.fixture(scope="module")
def origins(instance: DagsterInstance) -> Iterator[tuple[Any, Any]]:
    """Where the trial location's job is."""
    target = ModuleTarget("hfassets_tests.slurm.location", None, None, location_name="trial")
    with WorkspaceProcessContext(instance, target) as context:
        location = context.create_request_context().get_code_location("trial")
        job = location.get_repository("__repository__").get_full_job("__ASSET_JOB")
        yield job.get_remote_origin(), job.get_python_origin()


def work(
    instance: DagsterInstance, origins: tuple[Any, Any], asset: str, status: str = "STARTING", **config: Any
) -> tuple[int, DagsterRun, str]:
    """(exit code, the run afterwards, stderr) of a job for one asset."""
    from dagster import AssetKey

    run = DagsterRun(
        "__ASSET_JOB",
        make_new_run_id(),
        status=DagsterRunStatus(status),
        run_config={"ops": {asset: {"config": config}}} if config else {},
        asset_selection=frozenset({AssetKey(asset)}),
        remote_job_origin=origins[0],
        job_code_origin=origins[1],
    )
    instance.add_run(run)
    folder = Path(instance.root_directory) / "slurm"
    done = subprocess.run(
        [sys.executable, "-c", JOB, str(folder), run.run_id, "1"], capture_output=True, text=True, check=False
    )
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return done.returncode, found, done.stderr


def test_the_exit_code_is_0_only_when_the_run_has_succeeded(
    instance: DagsterInstance, origins: tuple[Any, Any]
) -> None:
    code, run, stderr = work(instance, origins, "light")
    assert (code, run.status) == (0, DagsterRunStatus.SUCCESS), stderr
    code, run, _ = work(instance, origins, "broken")
    assert (code, run.status) == (EXIT_FAILED, DagsterRunStatus.FAILURE)


@pytest.mark.parametrize(
    "signals",
    [
        {"step": 0.1, "worker": 0.5},
        pytest.param({"step": 0.3, "worker": 0.3}, marks=pytest.mark.drill),
        pytest.param({"worker": 0.1}, marks=pytest.mark.drill),
    ],
)
def test_a_job_that_slurm_stops_has_not_failed_whichever_process_dies_first(
    instance: DagsterInstance, origins: tuple[Any, Any], signals: dict[str, float]
) -> None:
    code, run, stderr = work(instance, origins, "stopped", **signals)
    assert (code, run.status) == (EXIT_UNFINISHED, DagsterRunStatus.STARTED), stderr


def test_a_step_that_dies_alone_has_failed(instance: DagsterInstance, origins: tuple[Any, Any]) -> None:
    code, run, _ = work(instance, origins, "stopped", step=0.1)
    assert (code, run.status) == (EXIT_FAILED, DagsterRunStatus.FAILURE)


@pytest.mark.parametrize(
    ("status", "code", "after"),
    [("SUCCESS", 0, "SUCCESS"), ("CANCELED", EXIT_FAILED, "CANCELED"), ("CANCELING", EXIT_FAILED, "CANCELED")],
)
def test_a_run_that_is_over_or_cancelled_is_not_begun(
    instance: DagsterInstance, origins: tuple[Any, Any], status: str, code: int, after: str
) -> None:
    found, run, _ = work(instance, origins, "light", status)
    assert (found, run.status.value) == (code, after)


def test_a_job_without_run_home_or_database_says_so_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hfassets.slurm.job", str(tmp_path), "0d5c8a1e", "1"]
    bare = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    done = subprocess.run(command, env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_FAILED and "DAGSTER_HOME is not set in the job" in done.stderr
    env = {**bare, "DAGSTER_HOME": str(tmp_path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_FAILED and "there is no run 0d5c8a1e" in done.stderr
    assert "Traceback" not in done.stderr
