"""Assets with `slurm/mode: parts`: a light run, whose parts are the tasks of a job array."""

from __future__ import annotations

import pytest

from hfassets.tokens import read_packed
from hfassets_tests.cluster import Cluster
from hfassets_tests.dagster_service import wait_for
from hfassets_tests.slurm.deployment import SlurmService

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

KEY = "small/math_reasoning/gsm8k"
ARRAY = "slurm-status/array"


@pytest.mark.drill
def test_the_run_is_light_and_its_parts_are_tasks(slurm_service: SlurmService, cluster: Cluster) -> None:
    """The array is named on the run page and in its tags; cancelled, nothing of it is left; again, it is made."""
    assert slurm_service.outcome(slurm_service.launch(["distillation_file"], KEY)) == "SUCCESS"
    # The tasks have to wait: nobody has so much memory to spare.
    blocker = [cluster.sbatch("sleep 600", "--mem=7900M", f"--nodelist={node}") for node in ("n1", "n2")]
    for job in blocker:
        cluster.wait_state(job, "RUNNING")
    run = slurm_service.launch(["distillation_tokens"], KEY, tags={"slurm/time": "00:20:00"})
    tag = wait_for("the array in the run's tags", lambda: slurm_service.tags(run).get(ARRAY))
    job = tag.split()[2].rstrip(":")
    assert "parts in" in tag and ".slurm/run" not in slurm_service.tags(run)
    assert cluster.field(job, "TimeLimit") == "00:20:00"
    slurm_service.terminate(run)
    assert slurm_service.outcome(run) == "CANCELED"
    wait_for("the array to be gone", lambda: not any(name.startswith(job) for name in cluster.jobs("PENDING")))
    cluster.run("scancel", *blocker)
    again = slurm_service.launch(["distillation_tokens"], KEY)
    assert slurm_service.outcome(again) == "SUCCESS"
    assert any(message.startswith("job array") for message in slurm_service.messages(again))
    assert len(read_packed(slurm_service.home.root / "data/distillation_tokens/small/gsm8k")) > 0
