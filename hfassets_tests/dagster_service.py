"""The demo as a real deployment (code server, web server, daemon), and what its users do over GraphQL."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import pytest
import requests

from hfassets.demo.home import DemoHome
from hfassets.demo.hub_server import SampleHub
from hfassets.demo.ui import services

CHAIN = ("hub_snapshot", "verified_hub_cache", "prepared_dataset")
LOCATION = "hfassets"
# Machines that run tests are busy: a wait this long has failed.
PATIENCE = 180.0

T = TypeVar("T")


@dataclass
class Service:
    """A deployment in `home`, reached at `url`; its processes have the environment `env`.

    `first_backfill` is the id of the backfill that made everything.
    """

    url: str
    home: DemoHome
    hub: SampleHub
    env: dict[str, str] = field(repr=False)
    servers: dict[str, subprocess.Popen[bytes]] = field(repr=False)
    exits: ExitStack = field(repr=False)
    first_backfill: str = ""

    def graphql(self, query: str, **variables: Any) -> Any:
        """The `data` of an answer; a GraphQL error fails the test."""
        answer = requests.post(
            f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=PATIENCE
        ).json()
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def launch(
        self,
        assets: Sequence[str],
        partition: str | None = None,
        *,
        location: str = LOCATION,
        tags: Mapping[str, str] | None = None,
        **config: Any,
    ) -> str:
        """Materialise assets of one partition, as «Launch run» does, with config by asset; returns the run id."""
        tags = {**(tags or {}), **({"dagster/partition": partition} if partition else {})}
        outcome = self.graphql(
            """mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) {
                 __typename ... on LaunchRunSuccess { run { runId } } ... on Error { message } } }""",
            params={
                "selector": {**_repository(location), "jobName": "__ASSET_JOB", "assetSelection": _keys(assets)},
                "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
                "runConfigData": {"ops": {asset: {"config": value} for asset, value in config.items()}},
            },
        )["launchRun"]
        assert outcome["__typename"] == "LaunchRunSuccess", outcome
        return str(outcome["run"]["runId"])

    def backfill(self, assets: Sequence[str], partitions: Sequence[str]) -> str:
        """Materialise many partitions, as «Launch backfill» does; returns the backfill id."""
        started = self.graphql(
            """mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
                 __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }""",
            params={"assetSelection": _keys(assets), "partitionNames": list(partitions)},
        )["launchPartitionBackfill"]
        assert started["__typename"] == "LaunchBackfillSuccess", started
        return str(started["backfillId"])

    def backfill_outcome(self, backfill_id: str) -> str:
        """How a backfill ends; waits for it."""
        query = """query ($id: String!) { partitionBackfillOrError(backfillId: $id) {
                     ... on PartitionBackfill { status } } }"""

        def ended() -> str | None:
            status = self.graphql(query, id=backfill_id)["partitionBackfillOrError"]["status"]
            return None if status in ("REQUESTED", "CANCELING", "FAILING") else str(status)

        return wait_for("the backfill to end", ended)

    def run_status(self, run_id: str) -> str:
        """Dagster's word for where a run is."""
        query = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
        return str(self.graphql(query, id=run_id)["runOrError"]["status"])

    def outcome(self, run_id: str) -> str:
        """How a run ends; waits for it."""

        def ended() -> str | None:
            status = self.run_status(run_id)
            return status if status in ("SUCCESS", "FAILURE", "CANCELED") else None

        return wait_for(f"run {run_id} to end", ended)

    def runs(self, **tags: str) -> list[dict[str, Any]]:
        """All runs with these tags of Dagster (`sensor_name`, `backfill` …), newest first."""
        wanted = [{"key": f"dagster/{name}", "value": value} for name, value in tags.items()]
        return list(
            self.graphql(
                """query ($filter: RunsFilter) { runsOrError(filter: $filter) { ... on Runs { results {
                     runId status tags { key value } assetSelection { path } } } } }""",
                filter={"tags": wanted},
            )["runsOrError"]["results"]
        )

    def partitions(self, asset: str) -> dict[str, list[str]]:
        """The partition keys of an asset by state: materialized, failed, materializing, unmaterialized."""
        node = self.graphql(
            """query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
                 assetPartitionStatuses { ... on DefaultPartitionStatuses { materializedPartitions failedPartitions
                   materializingPartitions unmaterializedPartitions } } } } }""",
            key={"path": [asset]},
        )["assetNodeOrError"]
        return {name.removesuffix("Partitions"): keys for name, keys in node["assetPartitionStatuses"].items()}

    def keys(self, asset: str = "hub_snapshot") -> list[str]:
        """The partition keys of an asset."""
        query = """query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) {
                     ... on AssetNode { partitionKeys } } }"""
        return list(self.graphql(query, key={"path": [asset]})["assetNodeOrError"]["partitionKeys"])

    def check(self, asset: str, name: str, partition: str | None = None) -> tuple[bool, str] | None:
        """Whether the latest evaluation of a check passed, and its description; None = never evaluated."""
        executions = self.graphql(
            """query ($key: AssetKeyInput!, $name: String!) {
                 assetCheckExecutions(assetKey: $key, checkName: $name, limit: 500) {
                   partition evaluation { success description } } }""",
            key={"path": [asset]},
            name=name,
        )["assetCheckExecutions"]
        for execution in executions:
            if execution["partition"] == partition and execution["evaluation"]:
                return execution["evaluation"]["success"], execution["evaluation"]["description"] or ""
        return None

    def check_partitions(self, asset: str, name: str) -> dict[str, list[str]]:
        """The partitions of a check by the state that its page shows: succeeded, failed, inProgress …"""
        checks = self.graphql(
            """query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
                 assetChecksOrError { ... on AssetChecks { checks { name partitionStatuses {
                   ... on AssetCheckDefaultPartitionStatuses { succeededPartitions failedPartitions
                     inProgressPartitions skippedPartitions executionFailedPartitions } } } } } } } }""",
            key={"path": [asset]},
        )["assetNodeOrError"]["assetChecksOrError"]["checks"]
        states = next(check["partitionStatuses"] for check in checks if check["name"] == name)
        return {state.removesuffix("Partitions"): keys for state, keys in states.items()}

    def ticks(self, sensor: str, location: str = LOCATION) -> list[dict[str, Any]]:
        """The evaluations of a sensor that have ended, newest first."""
        state = self.graphql(
            """query ($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) { ... on Sensor {
                 sensorState { status ticks(limit: 100) { timestamp status skipReason runIds error { message } } } } }
               }""",
            selector={**_repository(location), "sensorName": sensor},
        )["sensorOrError"]["sensorState"]
        assert state["status"] == "RUNNING", f"sensor {sensor} is off"
        failed = [tick for tick in state["ticks"] if tick["status"] == "FAILURE"]
        assert not failed, failed
        return [tick for tick in state["ticks"] if tick["status"] != "STARTED"]

    def wait_for_tick(self, sensor: str, after: float, location: str = LOCATION) -> dict[str, Any]:
        """The newest evaluation of a sensor that began later than `after` (Unix time, s)."""
        return wait_for(
            f"sensor {sensor} to be evaluated",
            lambda: next((tick for tick in self.ticks(sensor, location) if tick["timestamp"] > after), None),
        )

    def restart_daemon(self) -> None:
        """`kill -9` the daemon and start another one, as a service manager would."""
        daemon = self.servers["daemon"]
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
        log = self.exits.enter_context((self.home.root / "logs" / f"daemon-{time.time():.0f}.log").open("wb"))
        started = subprocess.Popen(daemon.args, env=self.env, cwd=self.home.root, stdout=log, stderr=subprocess.STDOUT)
        self.exits.callback(started.wait, 30)
        self.exits.callback(started.send_signal, signal.SIGINT)
        self.servers["daemon"] = started

    def reload(self) -> dict[str, Any]:
        """«Reload definitions»; what the location is then."""
        location = self.graphql(
            """mutation { reloadRepositoryLocation(repositoryLocationName: "hfassets") {
                 ... on WorkspaceLocationEntry { loadStatus locationOrLoadError { __typename
                   ... on PythonError { message } } } } }"""
        )["reloadRepositoryLocation"]
        return dict(location)

    def files(self, partition: str) -> list[Path]:
        """The files of a partition's snapshot, by size, largest first."""
        query = """query ($key: AssetKeyInput!, $partitions: [String!]) { assetNodeOrError(assetKey: $key) {
                     ... on AssetNode { assetMaterializations(partitions: $partitions, limit: 1) { metadataEntries {
                       label ... on PathMetadataEntry { path } } } } } }"""
        node = self.graphql(query, key={"path": ["hub_snapshot"]}, partitions=[partition])["assetNodeOrError"]
        entries = node["assetMaterializations"][0]["metadataEntries"]
        folder = Path(next(entry["path"] for entry in entries if entry["label"] == "folder"))
        files = [path for path in folder.rglob("*") if path.is_file()]
        return sorted(files, key=lambda path: path.stat().st_size, reverse=True)


def wait_for(what: str, ready: Callable[[], T | None], timeout: float = PATIENCE) -> T:
    """The first true answer of `ready`, asked twice a second; fails the test after `timeout` s."""
    deadline = time.monotonic() + timeout
    while not (found := ready()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout:.0f} s in vain for {what}")
        time.sleep(0.5)
    return found


def flip_byte(blob: Path) -> None:
    """Damage a file as a bad disk does: same size, one bit different, in the middle."""
    with blob.open("r+b") as file:
        file.seek(blob.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def _repository(location: str) -> dict[str, str]:
    return {"repositoryName": "__repository__", "repositoryLocationName": location}


def _keys(assets: Sequence[str]) -> list[dict[str, list[str]]]:
    return [{"path": [asset]} for asset in assets]


def _catalog() -> str:
    """The demo's catalog, but with five partitions to a run, and short waits."""
    text = (resources.files("hfassets.demo") / "catalog.yaml").read_text()
    endpoint, dataset = "  endpoint: ${HF_ENDPOINT}\n", "    repo: ibm-research/duorc\n"
    assert text.count(endpoint) == text.count(dataset) == 1
    text = text.replace(endpoint, f"{endpoint}  backoff_factor: 0.05\n")
    return text.replace(dataset, f"{dataset}    partitions_per_run: 5\n")


@pytest.fixture(scope="session")
def service(sample_hub_server: SampleHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One deployment for the session, with every partition of the chain made by one backfill."""
    home = DemoHome(tmp_path_factory.mktemp("service"))
    home.catalog.write_text(_catalog())
    with ExitStack() as exits:
        with patch.dict(os.environ):
            home.create(sample_hub_server.url)
            env = dict(os.environ)
            home.synchronise()
            deployment = exits.enter_context(services(home))
        service = Service(deployment.url, home, sample_hub_server, env, deployment.processes, exits)
        keys = service.keys()
        service.first_backfill = service.backfill(CHAIN, keys)

        def complete() -> bool:
            return all(len(service.partitions(asset)["materialized"]) == len(keys) for asset in CHAIN)

        wait_for("every partition to be materialised", complete)
        yield service
