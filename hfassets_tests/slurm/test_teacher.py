"""A teacher on the cluster: its job asks for a GPU, and needs no network."""

from __future__ import annotations

import pytest

from hfassets.tokens import read_logits, read_packed
from hfassets_tests.cluster import Cluster
from hfassets_tests.slurm.deployment import SlurmService

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

KEY = "small/math_reasoning/gsm8k"


@pytest.mark.drill
def test_a_teacher_is_asked_by_a_job_with_a_gpu(slurm_service: SlurmService, cluster: Cluster) -> None:
    """Rows and teacher are brought by light runs; the job runs on the node that has a GPU, offline."""
    for asset, key in (("distillation_file", KEY), ("distillation_tokens", KEY), ("teacher_model", "small")):
        assert slurm_service.outcome(slurm_service.launch([asset], key)) == "SUCCESS"
    run = slurm_service.launch(["teacher_logits"], KEY)
    job = slurm_service.job(run)
    assert cluster.field(job, "TresPerNode") == "gres:gpu:1"
    assert slurm_service.outcome(run) == "SUCCESS"
    assert cluster.field(job, "BatchHost") == "n1"
    data = slurm_service.home.root / "data"
    rows, said = (data / name / "small/gsm8k" for name in ("distillation_tokens", "teacher_logits"))
    assert sum(len(one["positions"]) for one in read_logits(said)) == sum(
        int(row["attention_mask"].sum()) for row in read_packed(rows)
    )
