"""The real service over HTTP: backfill, damage and repair, a killed daemon, a catalog that becomes nonsense.

One story, told in the order of the tests: the catalog is spoilt, a file is damaged and repaired, the daemon is killed
in the middle of that.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from hfassets.demo.hub_faults import Fault
from hfassets_tests.dagster_service import CHAIN, Service, flip_byte, wait_for

pytestmark = [pytest.mark.dagster, pytest.mark.timeout(600)]

VERIFIED = "verified_hub_cache"
CHECKS = (("hub_snapshot", "complete"), (VERIFIED, "blobs_intact"), ("prepared_dataset", "files_intact"))
NONSENSE = "datasets: [not: what, it should be"
KEYS = [
    *("duorc:ParaphraseRC", "duorc:SelfRC", "gsm8k:main", "c4:en", "slimpajama:default", "docci:default"),
    *("beans:default", "fineweb-edu:sample-10BT", "apps:default"),
]
DAMAGED = "beans:default"


@dataclass
class Incident:
    """What was seen of a damaged partition until its repair run had ended."""

    verification: str
    failed: list[str]
    check: tuple[bool, str] | None
    red: list[str]
    repair: dict[str, Any]
    restarted: float
    runs: list[str]
    outcome: str


@pytest.fixture(scope="module")
def spoilt_catalog(service: Service) -> Iterator[str]:
    """catalog.yaml overwritten with nonsense while the service runs; gives the text it had."""
    good = service.home.catalog.read_text()
    service.home.catalog.write_text(NONSENSE)
    yield good
    service.home.catalog.write_text(good)


@pytest.fixture(scope="module")
def incident(service: Service, spoilt_catalog: str) -> Incident:
    """A bit flips in a blob, a verification finds it, and the daemon is killed as soon as the repair is under way."""
    flip_byte(service.files(DAMAGED)[0])
    verification = service.outcome(service.launch([VERIFIED], DAMAGED))
    failed, check = service.partitions(VERIFIED)["failed"], service.check(VERIFIED, "blobs_intact", DAMAGED)
    red = service.check_partitions(VERIFIED, "blobs_intact")["failed"]
    repair = wait_for("the repair sensor", lambda: service.runs(sensor_name="repair"))[0]
    service.restart_daemon()
    restarted, runs = time.time(), [run["runId"] for run in service.runs()]
    return Incident(verification, failed, check, red, repair, restarted, runs, service.outcome(repair["runId"]))


def test_location_loads_whatever_the_catalog(service: Service, spoilt_catalog: str) -> None:
    """With nonsense in catalog.yaml the location reloads, with the partitions of the last accepted catalog."""
    assert service.reload() == {"loadStatus": "LOADED", "locationOrLoadError": {"__typename": "RepositoryLocation"}}
    assert service.keys() == KEYS


def test_damage_turns_partition_and_check_red(incident: Incident) -> None:
    """A flipped bit fails the verification, the partition and its check, with the reason."""
    assert incident.verification == "FAILURE"
    assert incident.failed == incident.red == [DAMAGED]
    assert incident.check is not None
    passed, reason = incident.check
    assert not passed
    assert "1 of 94 files are damaged, 1 moved aside" in reason
    assert "corrupt" in reason


def test_repair_sensor_makes_it_green(service: Service, incident: Incident) -> None:
    """The repair sensor, on by default, has the file fetched and proven again; killing the daemon does not stop it."""
    assert sorted(asset["path"][0] for asset in incident.repair["assetSelection"]) == ["hub_snapshot", VERIFIED]
    assert incident.outcome == "SUCCESS"
    assert service.partitions(VERIFIED)["failed"] == []
    assert sorted(service.check_partitions(VERIFIED, "blobs_intact")["succeeded"]) == sorted(KEYS)


@pytest.mark.drill
def test_catalog_check_is_red_until_it_is_repaired(service: Service, spoilt_catalog: str) -> None:
    """The sensor of the catalog turns its check red with the reason, and green once the file is good again."""

    def red() -> str:
        passed, reason = service.check("catalog", "accepted") or (True, "")
        return "" if passed else reason

    reason = wait_for("the catalog's check to fail", red)
    assert reason.startswith("catalog.yaml:2: not YAML")
    assert reason.endswith("the last accepted one stays in force")
    service.home.catalog.write_text(spoilt_catalog)
    wait_for("the catalog's check to pass", lambda: not red())


@pytest.mark.drill
def test_restarted_daemon_does_nothing_again(service: Service, incident: Incident) -> None:
    """After `kill -9` and a new start every sensor looks again, and no run is made a second time."""
    for sensor in ("repair", "catalog_watch", "reverify"):
        assert service.wait_for_tick(sensor, incident.restarted)["runIds"] == []
    assert [run["runId"] for run in service.runs()] == incident.runs


def test_backfill_makes_every_partition(service: Service) -> None:
    """A backfill over all partitions, five to a run, leaves each with its own result and checks."""
    assert service.backfill_outcome(service.first_backfill) == "COMPLETED_SUCCESS"
    # The heavy asset has runs of its own, so that what talks to the Hub never becomes a SLURM job with it.
    runs = service.runs(backfill=service.first_backfill)
    assert [run["status"] for run in runs] == ["SUCCESS"] * 5
    heavy = [run for run in runs if {"path": ["prepared_dataset"]} in run["assetSelection"]]
    assert [run["assetSelection"] for run in heavy] == [[{"path": ["prepared_dataset"]}]] * 3
    for asset in CHAIN:
        states = service.partitions(asset)
        assert sorted(states["materialized"]) == sorted(KEYS)
        assert not (states["failed"] or states["unmaterialized"] or states["materializing"])
    for asset, name in CHECKS:
        assert sorted(service.check_partitions(asset, name)["succeeded"]) == sorted(KEYS)


@pytest.mark.drill
@pytest.mark.timeout(1200)
def test_no_fourth_repair_when_the_hub_serves_wrong_bytes(service: Service) -> None:
    """Three repair runs that fail, one line that says so, no fourth; by hand it is made good once the Hub is."""
    key, before = "gsm8k:main", {run["runId"] for run in service.runs(sensor_name="repair")}

    def repairs() -> list[dict[str, Any]]:
        return [run for run in service.runs(sensor_name="repair") if run["runId"] not in before]

    blob = service.files(key)[0]
    service.hub.set_faults(Fault("flip", path=f"openai/gsm8k/*{blob.suffix}"))
    try:
        flip_byte(blob)
        began = time.time()
        assert service.outcome(service.launch([VERIFIED], key)) == "FAILURE"
        wait_for("three repairs to end", lambda: [r["status"] for r in repairs()] == ["FAILURE"] * 3, timeout=600)
        last = time.time()
        for _ in range(3):
            last = service.wait_for_tick("repair", last)["timestamp"]
        lines = [tick["skipReason"] for tick in service.ticks("repair") if tick["timestamp"] > began]
        said = [line for line in lines if line and "no further attempt is made" in line]
        assert len(said) == 1
        assert f"{key}: still damaged after 3 repairs" in said[0]
        assert len(repairs()) == 3
        assert key in service.partitions(VERIFIED)["failed"]
    finally:
        service.hub.set_faults()
    assert service.outcome(service.launch(["hub_snapshot", VERIFIED], key)) == "SUCCESS"
    passed, _ = service.check(VERIFIED, "blobs_intact", key) or (False, "")
    assert passed
