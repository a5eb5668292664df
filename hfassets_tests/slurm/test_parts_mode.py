"""Assets with `slurm/mode: parts`: a light run, whose parts are the tasks of a job array."""

from __future__ import annotations

import pytest
from datasets import load_from_disk
from tokenizers import Tokenizer

from hfassets.staging.saved import verify_folder
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
    assert "parts in" in tag and '"route":"local"' in slurm_service.tags(run)[".slurm/run"]
    assert cluster.field(job, "TimeLimit") == "00:20:00"
    slurm_service.terminate(run)
    assert slurm_service.outcome(run) == "CANCELED"
    wait_for("the array to be gone", lambda: not any(name.startswith(job) for name in cluster.jobs("PENDING")))
    cluster.run("scancel", *blocker)
    again = slurm_service.launch(["distillation_tokens"], KEY)
    assert slurm_service.outcome(again) == "SUCCESS"
    assert any(message.startswith("job array") for message in slurm_service.messages(again))
    assert len(read_packed(slurm_service.home.root / "data/distillation_tokens/small/gsm8k")) > 0


@pytest.mark.drill
def test_a_staging_recipe_is_made_by_tasks(slurm_service: SlurmService) -> None:
    """The run is light, its parts are tasks; the rows are those of a plain loop, and proven."""
    assert slurm_service.outcome(slurm_service.launch(["prepared_dataset"], "many:c00")) == "SUCCESS"
    run = slurm_service.launch(["preprocessed_dataset"], "blocks")
    assert slurm_service.outcome(run) == "SUCCESS", slurm_service.messages(run)
    assert any(message.startswith("job array") for message in slurm_service.messages(run))
    root = slurm_service.home.root
    assert verify_folder(root / "data/staging/blocks").faults == ()
    (file,) = root.glob("hub/models--EleutherAI--pythia-70m/snapshots/*/tokenizer.json")
    tokenizer = Tokenizer.from_file(str(file))
    tokens = [token for row in range(200) for token in tokenizer.encode(f"0 {row}").ids]
    made = load_from_disk(str(root / "data/staging/blocks"))["train"]
    assert list(made["input_ids"]) == [tokens[at : at + 8] for at in range(0, len(tokens) - 7, 8)]


@pytest.mark.drill
def test_a_job_that_waited_while_its_entry_was_changed_refuses(slurm_service: SlurmService, cluster: Cluster) -> None:
    """In one line on its page; launched again, it works by what is wanted now. A change of another entry is none."""
    blocker = [cluster.sbatch("sleep 600", "--mem=7900M", f"--nodelist={node}") for node in ("n1", "n2")]
    for job in blocker:
        cluster.wait_state(job, "RUNNING")
    run = slurm_service.launch(["prepared_dataset"], "many:c07")
    waiting = slurm_service.job(run)
    cluster.wait_state(waiting, "PENDING")
    catalog = slurm_service.home.root / "catalog.yaml"
    before = catalog.read_text()
    try:
        catalog.write_text(before.replace("name: many}", "name: many, num_proc: 2}"))
        cluster.run("scancel", *blocker)
        assert slurm_service.outcome(run) == "FAILURE"
        slurm_service.wait_message(run, "many:c07 was changed in the catalog while this job waited")
    finally:
        catalog.write_text(before.replace("num_samples: 200", "num_samples: 201"))
    assert slurm_service.outcome(slurm_service.launch(["prepared_dataset"], "many:c07")) == "SUCCESS"
    catalog.write_text(before)
