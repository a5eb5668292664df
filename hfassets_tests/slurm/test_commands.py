"""`hfassets slurm`, `hfassets doctor` and the plain sbatch scripts, against a cluster and a deployment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from hfassets_tests.cluster import Cluster
from hfassets_tests.dagster_service import flip_byte, wait_for
from hfassets_tests.slurm.deployment import ROOT, SlurmService

pytestmark = [pytest.mark.slurm, pytest.mark.dagster, pytest.mark.drill]

SCRIPTS = ROOT / "slurm"


def call(
    service: SlurmService, *words: str, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """`hfassets …` as somebody of the deployment calls it."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("hfassets")), *words],
        env={**service.env, **variables},
        cwd=cwd or service.home.root,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_submitted_command_gives_its_exit_code_and_its_output(slurm_service: SlurmService, tmp_path: Path) -> None:
    words = ("slurm", "submit", "--time", "5", "--log", str(tmp_path / "log"), "--wait", "--json", "--")
    done = call(slurm_service, *words, "bash", "-c", "echo said; echo $0 $1; exit 7", "one", "two words", cwd=tmp_path)
    assert done.returncode == 7
    assert (tmp_path / "log").read_text() == "said\none two words\n"
    document = orjson.loads(done.stdout)
    assert (document["state"], document["exit_code"]) == ("FAILED", 7)
    assert "exit code 7" in done.stderr


def test_a_submitted_command_has_the_secrets_that_its_script_has_not(
    slurm_service: SlurmService, tmp_path: Path
) -> None:
    words = ("slurm", "submit", "--log", str(tmp_path / "log"))
    script = call(slurm_service, *words, "--dry-run", "--", "printenv", "HF_TOKEN").stdout
    assert "run_command" in script and not any(secret in script for secret in slurm_service.secrets)
    assert call(slurm_service, *words, "--wait", "--", "printenv", "HF_TOKEN").returncode == 0
    assert (tmp_path / "log").read_text().strip() == slurm_service.secrets[0]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--memory", "lots", "--", "ls"], 2, "--memory"),
        (["--profile", "huge", "--", "ls"], 2, "no profile 'huge'"),
        (["--", "no-such-program"], 2, "no-such-program"),
        (["--partition", "nowhere", "--", "ls"], 1, "Invalid partition name"),
        (["--", "curl", "--password", "secret"], 1, "looks like a secret"),
    ],
)
def test_a_command_that_cannot_be_submitted_is_one_line(
    slurm_service: SlurmService, words: list[str], code: int, said: str
) -> None:
    done = call(slurm_service, "slurm", "submit", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr and len(done.stderr.splitlines()) == 1


def test_jobs_are_listed_with_what_they_wait_for_and_what_they_are(
    slurm_service: SlurmService, cluster: Cluster
) -> None:
    cluster.sbatch("sleep 60", "--job-name=foreign", "--hold")
    run = slurm_service.launch_trial("slow_parts", name="listed", parts=3)
    job = slurm_service.job(run)
    listed = orjson.loads(call(slurm_service, "slurm", "jobs", "--all", "--json").stdout)
    ours = next(row for row in listed if row["job"] == job)
    assert (ours["what"], ours["attempt"]) == (f"run {run}", "1")
    assert not any("foreign" in row["what"] for row in listed)
    assert job in call(slurm_service, "slurm", "jobs", "--all").stdout
    assert slurm_service.outcome(run) == "SUCCESS"
    cluster.cancel_all()


def test_a_drained_queue_starts_nothing_and_goes_on_where_it_stood(slurm_service: SlurmService) -> None:
    done = call(slurm_service, "slurm", "drain", "--timeout", "60")
    assert done.returncode == 0, done.stderr
    try:
        run = slurm_service.launch_trial("light")
        assert "drained" in call(slurm_service, "doctor", "--wait", "0").stdout
        assert slurm_service.run_status(run) == "QUEUED"
    finally:
        assert call(slurm_service, "slurm", "drain", "--end").returncode == 0
    assert slurm_service.outcome(run) == "SUCCESS"


def test_the_doctor_puts_right_what_can_be_and_looks_from_a_compute_node(slurm_service: SlurmService) -> None:
    secrets = slurm_service.home.root / "secrets.env"
    secrets.chmod(0o644)
    sick = call(slurm_service, "doctor", "--wait", "0", "--json")
    assert sick.returncode == 1
    problems = [found["topic"] for found in orjson.loads(sick.stdout)["findings"] if found["level"] == "problem"]
    assert f"secrets_file {secrets}" in problems
    healed = call(slurm_service, "doctor", "--fix", "--wait", "90")
    assert healed.returncode == 0, healed.stdout
    assert secrets.stat().st_mode & 0o777 == 0o600
    assert "accounting: sacct answers" in healed.stdout
    assert "database (from n" in healed.stdout and "clock: n" in healed.stdout
    assert not any(secret in healed.stdout + healed.stderr for secret in slurm_service.secrets)
    assert call(slurm_service, "doctor", "--wait", "0").returncode == 0


def test_a_second_daemon_is_a_problem(slurm_service: SlurmService) -> None:
    command = slurm_service.servers["daemon"].args
    other = subprocess.Popen(
        command,
        env=slurm_service.env,
        cwd=slurm_service.home.root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:

        def refused() -> bool:
            done = call(slurm_service, "doctor", "--wait", "0")
            return done.returncode == 1 and "daemon: 2 run on this host" in done.stdout

        wait_for("the doctor to see both", refused, 60)
    finally:
        other.kill()
        other.wait()


def run_script(
    service: SlurmService, cluster: Cluster, folder: Path, script: str, *words: str, **variables: str
) -> tuple[str, str, str]:
    """(state, exit code, log) of the job of one of the plain scripts, submitted as its users do."""
    environment = {"CLUSTER_REPO_HOME": str(ROOT), "HF_HUB_CACHE": str(folder / "hub"), "BACKOFF_FACTOR": "0.01"}
    done = subprocess.run(
        ["sbatch", "--wait", "--parsable", "--time=10", str(SCRIPTS / script), *words],
        env={**os.environ, **cluster.environment, "HF_ENDPOINT": service.hub.url, **environment, **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    job = done.stdout.strip()
    assert job, done.stderr
    (log,) = folder.glob(f"*-{job}.log")
    assert (done.returncode == 0) == (cluster.field(job, "JobState") == "COMPLETED")
    return cluster.field(job, "JobState"), cluster.field(job, "ExitCode"), log.read_text()


def test_the_plain_scripts_download_verify_and_end_as_their_work_did(
    slurm_service: SlurmService, cluster: Cluster, tmp_path: Path
) -> None:
    arrow = tmp_path / "arrow cache"
    given = {"DATASET_NAME": "team/many", "CACHE_DIR": str(arrow), "NUM_PROC": "1"}
    state, code, log = run_script(
        slurm_service, cluster, tmp_path, "download_hf_dataset.slurm", SUBSET_NAME="c00,c01", **given
    )
    assert (state, code) == ("COMPLETED", "0:0"), log
    assert "2 configs ok" in log and str(arrow) in log
    state, _, log = run_script(slurm_service, cluster, tmp_path, "download_and_verify.slurm", "c02", **given)
    assert state == "COMPLETED" and "1 config ok" in log and "no faults" in log
    blob = max((tmp_path / "hub").glob("datasets--team--many/blobs/*"), key=lambda path: path.stat().st_size)
    flip_byte(blob)
    state, code, log = run_script(
        slurm_service, cluster, tmp_path, "hf_hub_cache_check.slurm", "--full", DATASET_NAME="team/many"
    )
    assert (state, code) == ("FAILED", "1:0") and blob.name in log
    state, code, log = run_script(
        slurm_service, cluster, tmp_path, "download_hf_dataset.slurm", DATASET_NAME="team/nothing", MAX_RETRIES="0"
    )
    assert (state, code) == ("FAILED", "1:0") and "team/nothing" in log


def test_the_plain_script_asks_for_everything_again_when_told(
    slurm_service: SlurmService, cluster: Cluster, tmp_path: Path
) -> None:
    given = {"DATASET_NAME": "team/many", "SUBSET_NAME": "c03", "CACHE_DIR": str(tmp_path / "arrow")}
    for _ in range(2):
        run_script(slurm_service, cluster, tmp_path, "download_hf_dataset.slurm", **given)
    *_, log = run_script(
        slurm_service, cluster, tmp_path, "download_hf_dataset.slurm", FORCE_REDOWNLOAD="true", **given
    )
    assert "Generating train split" in log
