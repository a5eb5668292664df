"""The house condition asks for what is missing or outdated, once, and never because of an identical re-verification."""

from __future__ import annotations

import dagster as dg
import pytest

from hfassets.defs.automation import house_condition

pytestmark = pytest.mark.dagster

UP, DOWN = dg.AssetKey("up"), dg.AssetKey("down")


def chain() -> dg.Definitions:
    """Two partitioned assets, the second on the house condition."""
    partitions = dg.StaticPartitionsDefinition(["a", "b"])

    @dg.asset(key=UP, partitions_def=partitions)
    def up() -> None: ...

    @dg.asset(key=DOWN, deps=[UP], partitions_def=partitions, automation_condition=house_condition())
    def down() -> None: ...

    return dg.Definitions(assets=[up, down])


class Automation:
    """Ticks of the automation sensor with its memory."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance, self.definitions, self.cursor = instance, chain(), None

    def requested(self) -> set[str]:
        """Partitions of `down` that this tick asks for."""
        result = dg.evaluate_automation_conditions(self.definitions, self.instance, cursor=self.cursor)
        self.cursor = result.cursor
        return set(result.get_requested_partitions(DOWN))

    def made(self, key: dg.AssetKey, partition: str, version: str) -> None:
        """Record a materialisation with a data version."""
        tags = {"dagster/data_version": version}
        self.instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=partition, tags=tags))


def test_missing_with_ready_dependencies_is_asked_for_once() -> None:
    """Nothing while the dependency is missing; one request when it is there."""
    with dg.instance_for_test() as instance:
        automation = Automation(instance)
        assert automation.requested() == set()
        automation.made(UP, "a", "1")
        assert automation.requested() == {"a"}
        assert automation.requested() == set()


def test_missing_before_the_sensor_was_turned_on_is_asked_for() -> None:
    """Turning the sensor on catches up with what is ready."""
    with dg.instance_for_test() as instance:
        automation = Automation(instance)
        automation.made(UP, "a", "1")
        assert automation.requested() == {"a"}


def test_identical_reverification_asks_for_nothing_and_a_new_version_does() -> None:
    """The same data version again leaves downstream alone; another one makes it due."""
    with dg.instance_for_test() as instance:
        automation = Automation(instance)
        automation.made(UP, "a", "1")
        assert automation.requested() == {"a"}
        automation.made(DOWN, "a", "x")
        assert automation.requested() == set()
        automation.made(UP, "a", "1")
        assert automation.requested() == set()
        automation.made(UP, "a", "2")
        assert automation.requested() == {"a"}
        automation.made(DOWN, "a", "y")
        assert automation.requested() == set()
