"""What Dagster knows after a run over one or many partitions."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecordStatus,
    AssetCheckExecutionResolvedStatus,
)

from hfassets.catalog import Accepted
from hfassets.catalog.load import empty_catalog
from hfassets.catalog.lock import Lock
from hfassets.defs.automation import house_condition
from hfassets.defs.partition_run import Check, DamageFoundError, Outcome, RunEvents, run_partitions
from hfassets.errors import HubError

pytestmark = pytest.mark.dagster

ACCEPTED = Accepted("abc", empty_catalog(Path("catalog.yaml")), Lock(), (), Path("catalog.yaml"))
KEYS = [f"org/name:{letter}" for letter in "abcdef"]
ASSET = dg.AssetKey("toy")
CHECK = dg.AssetCheckKey(ASSET, "intact")


def toy_definitions(partitions_per_run: int) -> dg.Definitions:
    """An asset that fails for keys ending in e (damage) and f (network)."""
    partitions = dg.StaticPartitionsDefinition(KEYS)

    def make(key: str) -> Outcome:
        if key.endswith("e"):
            raise DamageFoundError("one blob is corrupt", [Check("intact", False, "one blob is corrupt")])
        if key.endswith("f"):
            raise HubError("the Hub is away")
        return Outcome(f"version-{key}", {"dagster/row_count": KEYS.index(key)}, [Check("intact", True)])

    def check(key: str) -> list[Check]:
        return [Check("intact", True, "looked again")]

    @dg.multi_asset(
        specs=[dg.AssetSpec(ASSET, skippable=True, partitions_def=partitions)],
        check_specs=[dg.AssetCheckSpec("intact", asset=ASSET, partitions_def=partitions, blocking=True)],
        backfill_policy=dg.BackfillPolicy.multi_run(partitions_per_run),
        can_subset=True,
    )
    def toy(context: dg.AssetExecutionContext) -> RunEvents:
        yield from run_partitions(context, ASSET, accepted=ACCEPTED, umask=None, make=make, check=check)

    return dg.Definitions(assets=[toy])


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


def run(instance: dg.DagsterInstance, first: str, last: str) -> bool:
    job = toy_definitions(3).resolve_implicit_global_asset_job_def()
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    if first == last:
        tags = {"dagster/partition": first}
    return job.execute_in_process(instance=instance, tags=tags, raise_on_error=False).success


def latest(instance: dg.DagsterInstance, key: str) -> tuple[str, int] | None:
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=ASSET, asset_partitions=[key]), limit=1
    ).records
    if not records or records[0].asset_materialization is None:
        return None
    event = records[0].asset_materialization
    return event.tags["dagster/data_version"], event.metadata["dagster/row_count"].value


def latest_check(instance: dg.DagsterInstance, key: str) -> bool | None:
    for record in instance.event_log_storage.get_asset_check_execution_history(CHECK, limit=50):
        if record.partition == key and record.status != AssetCheckExecutionRecordStatus.PLANNED:
            return record.status == AssetCheckExecutionRecordStatus.SUCCEEDED
    return None


def checked(instance: dg.DagsterInstance, status: AssetCheckExecutionResolvedStatus) -> set[str]:
    """The partitions whose check has this status for their latest materialisation, as UI and automation see them."""
    partitions = dg.StaticPartitionsDefinition(KEYS)
    subset = instance.event_log_storage.get_asset_check_state([(CHECK, partitions)])[CHECK].subsets[status]
    return set(subset.subset_value.get_partition_keys())


def test_latest_event_of_each_partition_is_its_own(instance: dg.DagsterInstance) -> None:
    """A run over three partitions leaves each with its own data version, metadata and check."""
    assert run(instance, KEYS[0], KEYS[2])
    for index, key in enumerate(KEYS[:3]):
        assert latest(instance, key) == (f"version-{key}", index)
        assert latest_check(instance, key) is True
    assert checked(instance, AssetCheckExecutionResolvedStatus.SUCCEEDED) == set(KEYS[:3])


def test_single_partition_has_version_metadata_and_check(instance: dg.DagsterInstance) -> None:
    """A run over one partition says the same as one over many."""
    assert run(instance, KEYS[1], KEYS[1])
    assert latest(instance, KEYS[1]) == (f"version-{KEYS[1]}", 1)
    assert latest_check(instance, KEYS[1]) is True
    assert checked(instance, AssetCheckExecutionResolvedStatus.SUCCEEDED) == {KEYS[1]}


def test_failed_partitions_leave_the_others_done(instance: dg.DagsterInstance) -> None:
    """When some partitions of a run fail, the run fails, the rest is recorded, and damage turns its check red."""
    assert not run(instance, KEYS[3], KEYS[5])
    assert latest(instance, KEYS[3]) == (f"version-{KEYS[3]}", 3)
    assert latest(instance, KEYS[4]) is None
    assert latest_check(instance, KEYS[4]) is False
    assert latest(instance, KEYS[5]) is None
    assert latest_check(instance, KEYS[5]) is None
    assert checked(instance, AssetCheckExecutionResolvedStatus.SUCCEEDED) == {KEYS[3]}
    assert checked(instance, AssetCheckExecutionResolvedStatus.FAILED) == {KEYS[4]}


def test_run_of_checks_alone_makes_nothing(instance: dg.DagsterInstance) -> None:
    """A run that selects only the check evaluates it and materialises nothing."""
    definitions = toy_definitions(1)
    job = definitions.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection=set(), asset_check_selection={CHECK}
    )
    result = job.execute_in_process(instance=instance, tags={"dagster/partition": KEYS[0]}, raise_on_error=False)
    assert result.success
    assert latest(instance, KEYS[0]) is None
    assert latest_check(instance, KEYS[0]) is True


def test_downstream_is_asked_for_where_the_checks_passed(instance: dg.DagsterInstance) -> None:
    """The house condition asks for what hangs on partitions whose blocking check passed, and on no others."""

    @dg.asset(deps=[ASSET], partitions_def=dg.StaticPartitionsDefinition(KEYS), automation_condition=house_condition())
    def below() -> None: ...

    assert run(instance, KEYS[0], KEYS[1])
    assert run(instance, KEYS[2], KEYS[2])
    assert not run(instance, KEYS[3], KEYS[5])
    definitions = dg.Definitions.merge(toy_definitions(3), dg.Definitions(assets=[below]))
    result = dg.evaluate_automation_conditions(definitions, instance)
    assert result.get_requested_partitions(dg.AssetKey("below")) == set(KEYS[:4])
