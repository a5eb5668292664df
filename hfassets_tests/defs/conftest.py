"""A code location on a catalog of its own, against the sample Hub."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from hfassets.catalog import accept
from hfassets.cli.main import main
from hfassets.defs.code_location import build_definitions
from hfassets.defs.location import Location
from hfassets_tests.conftest import ClientEnvironment

PLANNED = AssetCheckExecutionRecordStatus.PLANNED


@dataclass
class Site:
    """A catalog on disk, its definitions, and a Dagster instance that remembers."""

    catalog: Path
    instance: dg.DagsterInstance
    location: Location
    definitions: dg.Definitions

    def reload(self) -> None:
        """Load the location again, as a code server does."""
        self.location = Location(self.catalog, accept(self.catalog))
        self.definitions = build_definitions(self.location)

    def run(
        self, partition: str | None, *assets: str, tags: dict[str, str] | None = None, **config: Any
    ) -> dg.ExecuteInProcessResult:
        """Materialise assets of a partition in this process; config by asset name."""
        job = self.definitions.resolve_implicit_global_asset_job_def()
        return job.execute_in_process(
            instance=self.instance,
            asset_selection=[dg.AssetKey(name) for name in assets],
            partition_key=partition,
            run_config={"ops": {name: {"config": value} for name, value in config.items()}},
            tags=tags,
            raise_on_error=False,
        )

    def launch(self, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        """What the daemon does with a sensor's request, in this process."""
        names = [key.to_user_string() for key in request.asset_selection or ()]
        config = {name: value["config"] for name, value in request.run_config.get("ops", {}).items()}
        assert request.run_key is not None
        return self.run(request.partition_key, *names, tags={"dagster/run_key": request.run_key}, **config)

    def tick(self, sensor: str, cursor: str | None) -> dg.SensorResult:
        """One evaluation of a sensor."""
        definition = self.definitions.resolve_sensor_def(sensor)
        context = dg.build_sensor_context(self.instance, cursor=cursor, sensor_name=sensor)
        result = definition(context)
        assert isinstance(result, dg.SensorResult)
        return result

    def check(self, asset: str, name: str, partition: str | None) -> bool | None:
        """Whether the latest evaluation of a check passed; None = never evaluated."""
        key = dg.AssetCheckKey(dg.AssetKey(asset), name)
        for record in self.instance.event_log_storage.get_asset_check_execution_history(key, limit=200):
            if record.partition == partition and record.status != PLANNED:
                return record.status == AssetCheckExecutionRecordStatus.SUCCEEDED
        return None

    def metadata(self, asset: str, partition: str | None) -> dict[str, Any]:
        """Metadata of the latest materialisation."""
        partitions: Sequence[str] | None = [partition] if partition else None
        wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=partitions)
        event = self.instance.fetch_materializations(wanted, limit=1).records[0].asset_materialization
        assert event is not None
        return {name: value.value for name, value in event.metadata.items()}


@pytest.fixture
def site(tmp_path: Path, hub_env: ClientEnvironment, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A location with two datasets, one of them with two configs."""
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(
        textwrap.dedent("""\
        storage:
          hub_cache: hub
          datasets_cache: datasets
        hub:
          endpoint: ${HF_ENDPOINT}
          backoff_factor: 0.05
        datasets:
          - name: duorc
            repo: ibm-research/duorc
          - name: beans
            repo: AI-Lab-Makerere/beans
        """)
    )
    monkeypatch.setenv("HFASSETS_CATALOG", str(catalog))
    assert main(["catalog", "sync"]) == 0
    with dg.instance_for_test() as instance:
        location = Location(catalog, accept(catalog))
        yield Site(catalog, instance, location, build_definitions(location))
