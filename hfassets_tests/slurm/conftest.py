"""A cluster and a deployment on it, shared by the tests of SLURM runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hfassets_tests.cluster import Cluster, missing_commands
from hfassets_tests.slurm.deployment import SlurmService, deployment


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes, with accounting."""
    missing = missing_commands()
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (make test installs them as root)")
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def slurm_service(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmService]:
    """Dagster's servers, launcher and reconciler; 20 dataset configs of which nothing is prepared."""
    with deployment(tmp_path_factory.mktemp("deployment"), cluster) as service:
        yield service
