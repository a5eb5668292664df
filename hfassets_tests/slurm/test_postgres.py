"""The deployment as a cluster has it: Postgres, secrets from a file, no accounting; and where those secrets are not."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import orjson
import pytest

from hfassets_tests.cluster import Cluster, Postgres, missing_commands, postgres_command
from hfassets_tests.dagster_service import wait_for
from hfassets_tests.slurm.deployment import SlurmService, deployment

pytestmark = [pytest.mark.slurm, pytest.mark.dagster, pytest.mark.drill]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes, without accounting."""
    missing = missing_commands(accounting=False)
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (make test installs them as root)")
    with Cluster(tmp_path_factory.mktemp("plain"), accounting=False) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def service(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmService]:
    """Servers on Postgres; the password of the database and a token of the Hub are in the secrets file of the jobs."""
    if postgres_command("initdb") is None:
        pytest.skip("needs postgresql (make test installs it as root)")
    folder = tmp_path_factory.mktemp("postgres")
    with Postgres(folder / "db") as postgres, deployment(folder, cluster, postgres=postgres, configs=2) as service:
        yield service


def test_everything_works_on_postgres_without_accounting(service: SlurmService, cluster: Cluster) -> None:
    keys = service.keys("prepared_dataset")
    backfill = service.backfill(["prepared_dataset"], keys)
    assert service.backfill_outcome(backfill) == "COMPLETED_SUCCESS"
    assert len(service.runs(backfill=backfill)) == len(keys)


def test_too_much_memory_is_said_without_accounting_too(service: SlurmService) -> None:
    failed = service.launch_trial("hungry", megabytes=900)
    assert service.outcome(failed) == "FAILURE"
    assert "slurm/memory" in service.wait_message(failed, "memory")


def test_a_secret_is_nowhere_where_others_could_read_it(service: SlurmService, cluster: Cluster) -> None:
    secrets = service.secrets
    run = service.launch_trial("slow_parts", name="secretive", parts=4, seconds=1.0)
    job = service.job(run)
    wait_for("the work to begin", lambda: service.run_status(run) == "STARTED")
    script = service.home.root / "written.sh"
    cluster.run("scontrol", "write", "batch_script", job, str(script))
    seen = {
        "the script": script.read_text(),
        "scontrol show job": cluster.run("scontrol", "show", "job", "-dd", job),
        "squeue": cluster.run("squeue", "-h", "-t", "all", "-o", "%all"),
        "ps": subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout,
    }
    assert "hfassets.slurm.job" in seen["the script"] and "hfassets.slurm.job" in seen["ps"]
    assert service.outcome(run) == "SUCCESS"
    seen["the run page"] = orjson.dumps(service.run(run)).decode() + service.printed(run)
    for folder in ("dagster/slurm", "logs", "compute-logs"):
        for file in (service.home.root / folder).rglob("*"):
            if file.is_file():
                seen[str(file)] = file.read_text(errors="replace")
    for name, text in seen.items():
        for secret in secrets:
            assert secret not in text, f"a secret is in {name}"


def test_the_worker_has_the_secrets_that_others_do_not_see(service: SlurmService) -> None:
    run = service.launch_trial("trusted", tags={"slurm/cpus": "1"})
    assert service.outcome(run) == "SUCCESS"
    assert service.worked("trusted")[-1].split()[1] == "yes"
