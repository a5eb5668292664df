"""Old runs go, and no partition loses what is known of it."""

import datetime

import dagster as dg
import pytest

from hfassets.cli.main import main
from hfassets.defs.pruning import prune_runs

pytestmark = pytest.mark.dagster

KEYS = dg.StaticPartitionsDefinition(["a", "b"])


@dg.asset(partitions_def=KEYS, check_specs=[dg.AssetCheckSpec("fine", asset="thing")])
def thing(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]
    """A partition that is made now and then."""
    yield dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=True, check_name="fine")])


@dg.asset(partitions_def=KEYS)
def broken(context: dg.AssetExecutionContext) -> None:
    """One that fails."""
    raise dg.Failure("no")


@dg.asset
def whole(context: dg.AssetExecutionContext) -> None:
    """One without partitions."""


def run(instance: dg.DagsterInstance, asset: dg.AssetsDefinition, key: str | None = None) -> str:
    """The id of a run."""
    return dg.materialize([asset], instance=instance, partition_key=key, raise_on_error=False).run_id


def test_a_run_stays_while_it_holds_the_latest_of_a_partition() -> None:
    """Earlier runs of the same partition and failed ones go, also their events; nothing that ended lately does."""
    check = dg.AssetCheckKey(dg.AssetKey("thing"), "fine")
    with dg.instance_for_test() as instance:
        first_a, failed, first_whole = run(instance, thing, "a"), run(instance, broken, "a"), run(instance, whole)
        only_b, second_a, second_whole = run(instance, thing, "b"), run(instance, thing, "a"), run(instance, whole)
        past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
        assert prune_runs(instance, past, [check]).deleted == ()
        now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1)
        planned = prune_runs(instance, now, [check], dry_run=True)
        assert len(instance.get_runs()) == 6
        found = prune_runs(instance, now, [check])
        assert found == planned
        assert set(found.deleted) == {first_a, failed, first_whole}
        assert set(found.kept) == {only_b, second_a, second_whole}
        assert {one.run_id for one in instance.get_runs()} == set(found.kept)
        assert instance.get_materialized_partitions(dg.AssetKey("thing")) == {"a", "b"}
        assert instance.get_latest_materialization_event(dg.AssetKey("whole")) is not None
        assert not instance.all_logs(first_a)


@pytest.mark.parametrize("age", ["30", "d", "-3d", "0d", "3 days"])
def test_an_age_that_is_none_is_one_line(age: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With what would be right."""
    assert main(["prune", f"--older-than={age}"]) == 2
    assert "like 30d" in capsys.readouterr().err
