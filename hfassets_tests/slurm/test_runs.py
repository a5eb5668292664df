"""Heavy runs on a real cluster, as people launch, cancel and re-execute them, and what they see of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml
from dagster import DagsterInstance

from hfassets.slurm.launcher import SlurmRunLauncher
from hfassets.slurm.reconciler import Memory, Reconciler
from hfassets_tests.cluster import Cluster
from hfassets_tests.dagster_service import wait_for
from hfassets_tests.slurm.deployment import CONFIGS, SlurmService, tick_passes

pytestmark = [pytest.mark.slurm, pytest.mark.dagster]

# Two ticks of the reconciler, and the time to see it.
TWO_TICKS = 2 * 15.0 + 20.0
DAGSTERS_START_TIMEOUT = 180.0


def comments(cluster: Cluster, run_id: str) -> list[str]:
    """The job ids that SLURM knows for a run."""
    lines = cluster.run("squeue", "-h", "-t", "all", "-o", "%i %k").splitlines()
    return [line.split()[0] for line in lines if f":{run_id}:" in line]


@contextmanager
def no_room(cluster: Cluster) -> Iterator[None]:
    """No job starts in the body: both nodes are drained."""
    cluster.run("scontrol", "update", "nodename=n1,n2", "state=drain", "reason=test")
    try:
        yield
    finally:
        cluster.run("scontrol", "update", "nodename=n1,n2", "state=resume")


def in_queue(cluster: Cluster, job: str) -> bool:
    """Whether a job waits or runs."""
    return job in cluster.run("squeue", "-h", "-o", "%i").split()


@pytest.mark.parametrize("configs", [2, pytest.param(CONFIGS, marks=pytest.mark.drill)])
def test_a_backfill_of_many_configs_is_as_many_jobs_and_materialises_all(
    slurm_service: SlurmService, cluster: Cluster, configs: int
) -> None:
    keys = slurm_service.keys("prepared_dataset")[:configs]
    assert len(keys) == configs
    backfill = slurm_service.backfill(["prepared_dataset"], keys)
    assert slurm_service.backfill_outcome(backfill) == "COMPLETED_SUCCESS"
    runs = slurm_service.runs(backfill=backfill)
    assert len(runs) == configs and {run["status"] for run in runs} == {"SUCCESS"}
    jobs = [comments(cluster, run["runId"]) for run in runs]
    assert [len(of_run) for of_run in jobs] == [1] * configs
    assert len({job for of_run in jobs for job in of_run}) == configs
    assert set(slurm_service.partitions("prepared_dataset")["materialized"]) >= set(keys)
    for run in runs:
        slurm_service.wait_tag(run["runId"], "state", "COMPLETED")


@pytest.mark.drill
@pytest.mark.timeout(900)
def test_a_backfill_of_the_whole_chain_keeps_light_runs_local_and_makes_heavy_ones_jobs(
    slurm_service: SlurmService, cluster: Cluster
) -> None:
    keys = slurm_service.keys("prepared_dataset")
    backfill = slurm_service.backfill(["hub_snapshot", "verified_hub_cache", "prepared_dataset"], keys)
    query = "query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"

    def ended() -> bool:
        status = slurm_service.graphql(query, id=backfill)["partitionBackfillOrError"]["status"]
        return status not in ("REQUESTED", "FAILING")

    wait_for("the backfill to end", ended, 800)
    assert slurm_service.backfill_outcome(backfill) == "COMPLETED_SUCCESS"
    runs = slurm_service.runs(backfill=backfill)
    assert len(runs) == 2 * CONFIGS
    for run in runs:
        heavy = {"path": ["prepared_dataset"]} in run["assetSelection"]
        assert len(run["assetSelection"]) == (1 if heavy else 2)
        assert len(comments(cluster, run["runId"])) == (1 if heavy else 0)


def test_what_a_job_prints_is_on_the_run_page(slurm_service: SlurmService) -> None:
    run = slurm_service.launch_trial("slow_parts", name="printed", parts=1, seconds=0.1)
    assert slurm_service.outcome(run) == "SUCCESS"
    assert "making printed" in slurm_service.printed(run)
    assert any("offline: 1" in message for message in slurm_service.messages(run))


@pytest.mark.drill
def test_a_check_without_its_asset_is_a_job_too(slurm_service: SlurmService, cluster: Cluster) -> None:
    key = slurm_service.keys("prepared_dataset")[0]
    assert slurm_service.outcome(slurm_service.launch(["prepared_dataset"], key)) == "SUCCESS"
    run = slurm_service.check_only("prepared_dataset", "files_intact", key)
    assert slurm_service.outcome(run) == "SUCCESS"
    assert len(comments(cluster, run)) == 1


def test_a_shard_set_that_asks_for_it_is_made_by_a_job(slurm_service: SlurmService, cluster: Cluster) -> None:
    """A job that reaches the Hub reads it there; its parts are where the catalog says."""
    run = slurm_service.launch(["c4_shards"], "rows")
    assert slurm_service.outcome(run) == "SUCCESS"
    assert len(comments(cluster, run)) == 1
    folder = slurm_service.home.root / "data" / "c4" / "rows"
    assert len(list(folder.glob("c4_train_200_part*.jsonl"))) == 4


@pytest.mark.drill
def test_the_run_of_a_schedule_is_a_job_too(slurm_service: SlurmService, cluster: Cluster) -> None:
    slurm_service.switch_on("every_minute")
    run = wait_for("the schedule to launch a run", lambda: slurm_service.runs(schedule_name="every_minute"))[0]["runId"]
    assert slurm_service.outcome(run) == "SUCCESS"
    assert len(comments(cluster, run)) == 1


def test_a_light_run_stays_with_dagsters_own_launcher(slurm_service: SlurmService, cluster: Cluster) -> None:
    run = slurm_service.launch_trial("light")
    assert slurm_service.outcome(run) == "SUCCESS"
    assert comments(cluster, run) == []
    assert slurm_service.worked("light")[-1].split()[1] == "-"


def test_a_run_tag_makes_a_light_run_a_job_with_what_it_asks_for(slurm_service: SlurmService, cluster: Cluster) -> None:
    run = slurm_service.launch_trial("light", tags={"slurm/cpus": "2", "slurm/time": "00:05:00"})
    assert slurm_service.outcome(run) == "SUCCESS"
    (job,) = comments(cluster, run)
    assert (cluster.field(job, "NumCPUs"), cluster.field(job, "TimeLimit")) == ("2", "00:05:00")


def test_a_request_that_makes_no_sense_fails_the_run_with_the_field(slurm_service: SlurmService) -> None:
    run = slurm_service.launch_trial("light", tags={"slurm/memory": "a lot"})
    assert slurm_service.outcome(run) == "FAILURE"
    assert any("slurm/memory" in message and "a lot" in message for message in slurm_service.messages(run))


def test_what_the_cluster_refuses_is_said_in_its_words_and_with_advice(
    slurm_service: SlurmService, cluster: Cluster
) -> None:
    run = slurm_service.launch_trial("light", tags={"slurm/partition": "nowhere"})
    assert slurm_service.outcome(run) == "FAILURE"
    said = next(message for message in slurm_service.messages(run) if "nvalid partition" in message)
    assert "sinfo" in said
    assert comments(cluster, run) == []


@pytest.mark.drill
def test_a_job_cancelled_while_it_waits_fails_its_run_with_the_reason(
    slurm_service: SlurmService, cluster: Cluster
) -> None:
    with no_room(cluster):
        run = slurm_service.launch_trial("slow_parts", name="waiting", parts=1)
        job = slurm_service.job(run)
        wait_for("the reason", lambda: "Nodes required" in slurm_service.tags(run).get("slurm-status/reason", ""))
        assert slurm_service.run_status(run) == "STARTING"
        cluster.run("scancel", job)
        cancelled = time.monotonic()
        said = slurm_service.wait_message(run, "CANCELLED", TWO_TICKS)
        assert time.monotonic() - cancelled < TWO_TICKS
        assert slurm_service.outcome(run) == "FAILURE"
        assert job in said and "CANCELLED by root" in said


@pytest.mark.parametrize("waiting", [False, pytest.param(True, marks=pytest.mark.drill)])
def test_a_forced_cancel_ends_the_job_within_two_ticks(
    slurm_service: SlurmService, cluster: Cluster, waiting: bool
) -> None:
    with no_room(cluster) if waiting else nullcontext():
        run = slurm_service.launch_trial("slow_parts", name=f"forced-{waiting}", parts=100)
        job = slurm_service.job(run)
        if not waiting:
            wait_for("the work to begin", lambda: slurm_service.run_status(run) == "STARTED")
        slurm_service.terminate(run, force=True)
        assert slurm_service.run_status(run) == "CANCELED"
        wait_for("the job to end", lambda: not in_queue(cluster, job), TWO_TICKS)
        assert slurm_service.run_status(run) == "CANCELED"


def test_a_cancelled_run_ends_its_worker_and_leaves_no_half_written_part(
    slurm_service: SlurmService, cluster: Cluster
) -> None:
    run = slurm_service.launch_trial("slow_parts", name="ended", parts=100)
    job, parts = slurm_service.job(run), slurm_service.home.root / "ended"
    wait_for("a part to be done", lambda: (parts / "part-1" / "manifest.json").exists())
    slurm_service.terminate(run)
    assert slurm_service.outcome(run) == "CANCELED"
    wait_for("the job to end", lambda: not in_queue(cluster, job), TWO_TICKS)
    assert all((part / "data.bin").stat().st_size == 2000 for part in parts.glob("part-*") if part.is_dir())


@pytest.mark.drill
def test_a_job_that_takes_too_much_memory_says_so_and_a_new_execution_is_a_job_of_its_own(
    slurm_service: SlurmService, cluster: Cluster
) -> None:
    first = slurm_service.launch_trial("hungry", megabytes=900)
    assert slurm_service.outcome(first) == "FAILURE"
    said = slurm_service.wait_message(first, "memory")
    assert "slurm/memory" in said and "300" in said
    notices = slurm_service.home.root / "notices.jsonl"
    wait_for("the notice", lambda: notices.exists() and first in notices.read_text())
    second = slurm_service.reexecute(first)
    slurm_service.job(second)
    assert len(comments(cluster, first)) == len(comments(cluster, second)) == 1
    assert comments(cluster, first) != comments(cluster, second)


@pytest.mark.drill
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_daemon_killed_around_its_submission_leaves_one_job_and_the_run_goes_on(
    slurm_service: SlurmService, cluster: Cluster, moment: str
) -> None:
    flag = slurm_service.home.root / f"kill-{moment}"
    flag.touch()
    daemon = slurm_service.servers["daemon"]
    run = slurm_service.launch_trial("slow_parts", name=f"killed-{moment}", parts=25, seconds=1)
    wait_for("the daemon to be killed", lambda: daemon.poll() is not None)
    assert not flag.exists()
    assert len(comments(cluster, run)) == (0 if moment == "before" else 1)
    slurm_service.restart_daemon()
    assert slurm_service.outcome(run) == "SUCCESS"
    assert len(comments(cluster, run)) == 1
    assert any(("Adopted" if moment == "after" else "Submitted") in message for message in slurm_service.messages(run))


@pytest.mark.drill
def test_two_instances_of_one_user_leave_each_others_jobs_alone(
    slurm_service: SlurmService, cluster: Cluster, tmp_path: Path
) -> None:
    with no_room(cluster):
        run = slurm_service.launch_trial("slow_parts", name="ours", parts=1, seconds=0.1)
        job = slurm_service.job(run)
        foreign = cluster.sbatch("sleep 60", f"--comment=dagster:{'0' * 32}:{run}:1")
        with other_instance(tmp_path, cluster) as instance:
            launcher = instance.run_launcher
            assert isinstance(launcher, SlurmRunLauncher)
            memory = Memory()
            for _ in range(3):
                assert Reconciler(instance, launcher, memory).tick().actions == []
        tick_passes(slurm_service)
        assert in_queue(cluster, job) and in_queue(cluster, foreign)
    assert slurm_service.outcome(run) == "SUCCESS"
    cluster.run("scancel", foreign)


@contextmanager
def other_instance(folder: Path, cluster: Cluster) -> Iterator[DagsterInstance]:
    """Another Dagster instance with the same launcher, of the same user."""
    monitoring = {"enabled": True, "start_timeout_seconds": 10**9, "max_resume_run_attempts": 5}
    launcher = {"module": "hfassets.slurm", "class": "SlurmRunLauncher", "config": {}}
    (folder / "dagster.yaml").write_text(yaml.safe_dump({"run_launcher": launcher, "run_monitoring": monitoring}))
    with patch.dict(os.environ, cluster.environment), DagsterInstance.from_config(str(folder)) as instance:
        yield instance


@pytest.mark.drill
def test_a_requeued_job_resumes_its_run_and_does_no_part_twice(slurm_service: SlurmService, cluster: Cluster) -> None:
    run = slurm_service.launch_trial("slow_parts", name="requeued", parts=6, seconds=1.5)
    job = slurm_service.job(run)
    wait_for("two parts", lambda: len(list((slurm_service.home.root / "requeued").glob("part-*/manifest.json"))) >= 2)
    cluster.run("scontrol", "requeue", job)
    cluster.start_now(job)
    assert slurm_service.outcome(run) == "SUCCESS"
    assert slurm_service.job(run) == job
    done = [line.split()[1] for line in slurm_service.worked(f" {job} ") if line.startswith("done")]
    assert sorted(done) == [f"part-{number}" for number in range(6)]
    assert any("resumes the run" in message for message in slurm_service.messages(run))


@pytest.mark.drill
def test_a_run_whose_node_dies_goes_on_elsewhere(slurm_service: SlurmService, cluster: Cluster) -> None:
    run = slurm_service.launch_trial("slow_parts", name="lost", parts=6, seconds=1.5)
    job = slurm_service.job(run)
    wait_for("two parts", lambda: len(list((slurm_service.home.root / "lost").glob("part-*/manifest.json"))) >= 2)
    node = cluster.run("squeue", "-h", "-j", job, "-o", "%N").strip()
    cluster.kill_node(node)
    try:
        said = slurm_service.wait_message(run, "requeued")
        assert node in said
        cluster.start_now(job)
        assert slurm_service.outcome(run) == "SUCCESS"
        done = [line.split()[1] for line in slurm_service.worked(f" {job} ") if line.startswith("done")]
        assert sorted(done) == [f"part-{number}" for number in range(6)]
        slurm_service.wait_tag(run, "node", "n2" if node == "n1" else "n1")
    finally:
        cluster.start_node(node)


@pytest.mark.drill
def test_a_run_outlives_the_controller(slurm_service: SlurmService, cluster: Cluster) -> None:
    run = slurm_service.launch_trial("slow_parts", name="alone", parts=12, seconds=1.5)
    slurm_service.job(run)
    wait_for("the work to begin", lambda: slurm_service.run_status(run) == "STARTED")
    cluster.stop_controller()
    try:
        deferred = slurm_service.launch_trial("slow_parts", name="deferred", parts=1, seconds=0.1)
        slurm_service.wait_message(deferred, "not submitted yet")
        tick_passes(slurm_service, 2)
        assert slurm_service.run_status(run) in ("STARTED", "SUCCESS")
        assert slurm_service.run_status(deferred) == "STARTING"
    finally:
        cluster.start_controller()
    assert slurm_service.outcome(run) == "SUCCESS"
    assert slurm_service.outcome(deferred) == "SUCCESS"
    assert len(comments(cluster, deferred)) == 1


@pytest.mark.drill
def test_a_run_goes_on_in_a_new_job_after_its_time_limit(slurm_service: SlurmService, cluster: Cluster) -> None:
    run = slurm_service.launch_trial("slow_parts", name="long", parts=9, seconds=10, tags={"slurm/time": "1"})
    first = slurm_service.job(run)
    said = slurm_service.wait_message(run, "time limit")
    assert first in said
    assert slurm_service.outcome(run) == "SUCCESS"
    assert len(comments(cluster, run)) == 2
    done = [line.split()[1] for job in comments(cluster, run) for line in slurm_service.worked(f" {job} ")
            if line.startswith("done")]  # fmt: skip
    assert sorted(done) == [f"part-{number}" for number in range(9)]


@pytest.mark.drill
@pytest.mark.timeout(1200)
def test_a_run_is_resumed_five_times_and_no_more(slurm_service: SlurmService, cluster: Cluster) -> None:
    run = slurm_service.launch_trial("slow_parts", name="endless", parts=1, seconds=600, tags={"slurm/time": "1"})
    wait_for("the run to end", lambda: slurm_service.run_status(run) == "FAILURE", 1100)
    # SLURM has forgotten the first ones by now.
    submitted = [message for message in slurm_service.messages(run) if message.startswith("Submitted SLURM job")]
    assert len(submitted) == 6
    assert sum("time limit" in message for message in slurm_service.messages(run)) >= 5


@pytest.mark.drill
@pytest.mark.timeout(600)
def test_a_job_may_wait_longer_than_dagsters_start_timeout(slurm_service: SlurmService, cluster: Cluster) -> None:
    with no_room(cluster):
        run = slurm_service.launch_trial("slow_parts", name="patient", parts=1, seconds=0.1)
        slurm_service.job(run)
        wait_for("the reason", lambda: "Nodes required" in slurm_service.tags(run).get("slurm-status/reason", ""))
        until = time.monotonic() + DAGSTERS_START_TIMEOUT + 30
        wait_for("more than Dagster's start timeout to pass", lambda: time.monotonic() > until, 300)
        assert slurm_service.run_status(run) == "STARTING"
    assert slurm_service.outcome(run) == "SUCCESS"


@pytest.mark.drill
def test_the_job_of_a_deleted_run_is_cancelled(slurm_service: SlurmService, cluster: Cluster) -> None:
    with no_room(cluster):
        run = slurm_service.launch_trial("slow_parts", name="deleted", parts=1)
        job = slurm_service.job(run)
        slurm_service.delete(run)
        wait_for("the job to end", lambda: not in_queue(cluster, job), TWO_TICKS + 15)


@pytest.mark.drill
def test_a_job_cancelled_by_somebody_fails_its_run_and_is_not_resumed(
    slurm_service: SlurmService, cluster: Cluster
) -> None:
    run = slurm_service.launch_trial("slow_parts", name="stopped", parts=100)
    job = slurm_service.job(run)
    wait_for("the work to begin", lambda: slurm_service.run_status(run) == "STARTED")
    cluster.run("scancel", job)
    assert slurm_service.outcome(run) == "FAILURE"
    assert "CANCELLED by root" in slurm_service.wait_message(run, "CANCELLED")
    tick_passes(slurm_service, 2)
    assert len(comments(cluster, run)) == 1


@pytest.mark.drill
def test_without_requeue_a_lost_node_is_left_out_of_the_next_job(slurm_service: SlurmService, cluster: Cluster) -> None:
    tags = {"slurm/requeue": "false"}
    run = slurm_service.launch_trial("slow_parts", name="not-requeued", parts=6, seconds=1.5, tags=tags)
    job = slurm_service.job(run)
    folder = slurm_service.home.root / "not-requeued"
    wait_for("two parts", lambda: len(list(folder.glob("part-*/manifest.json"))) >= 2)
    node = cluster.run("squeue", "-h", "-j", job, "-o", "%N").strip()
    cluster.kill_node(node)
    try:
        assert node in slurm_service.wait_message(run, "NODE_FAIL")
        assert slurm_service.outcome(run) == "SUCCESS"
        second = slurm_service.job(run)
        assert second != job and cluster.field(second, "ExcNodeList") == node
        done = [line.split()[1] for each in (job, second) for line in slurm_service.worked(f" {each} ")
                if line.startswith("done")]  # fmt: skip
        assert sorted(done) == [f"part-{number}" for number in range(6)]
    finally:
        cluster.start_node(node)
