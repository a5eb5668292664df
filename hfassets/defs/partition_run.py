"""One run over one or many partitions of an asset, told to Dagster partition by partition.

Invariant: the latest materialisation and the latest evaluation of each check that Dagster knows of a partition are that
partition's own, and the evaluation names the materialisation it is about: one that does not counts as missing. In a run
over several partitions Dagster adds, for every key, one materialisation that carries the run's single data version and
no metadata; so the step yields its result first and the true events afterwards, and a run in which a partition failed
yields no result at all: it logs what succeeded and then fails, naming the rest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

from hfassets.catalog import Accepted
from hfassets.defs.expected import refuse_changed
from hfassets.errors import HfassetsError

# The tags under which Dagster keeps a materialisation's data version.
DATA_VERSION_TAG = "dagster/data_version"
DATA_VERSION_IS_USER_PROVIDED_TAG = "dagster/data_version_is_user_provided"

RunEvents = Iterator[dg.MaterializeResult[Any] | dg.AssetMaterialization | dg.AssetCheckResult]


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one asset check for one partition."""

    name: str
    passed: bool
    description: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one partition's work gives to Dagster; `data_version` is the manifest's fingerprint."""

    data_version: str
    metadata: Mapping[str, Any]
    checks: Sequence[Check] = ()


class DamageFoundError(HfassetsError):
    """A partition is damaged: its checks go red before the run fails."""

    def __init__(self, message: str, checks: Sequence[Check]) -> None:
        super().__init__(message)
        self.checks = tuple(checks)


def run_partitions(
    context: dg.AssetExecutionContext,
    asset: dg.AssetKey,
    *,
    accepted: Accepted,
    umask: int | None,
    make: Callable[[str], Outcome],
    check: Callable[[str], Sequence[Check]],
) -> RunEvents:
    """Make every partition of the run, or, in a run of checks alone, only look at what is there.

    Raises dagster.Failure naming each partition that failed; the others are done and recorded.
    """
    if umask is not None:
        os.umask(umask)
    context.instance.add_run_tags(context.run.run_id, {"hfassets/catalog": accepted.sha})
    if not context.has_partition_key and not context.has_partition_key_range:
        raise dg.Failure(f"{asset.to_user_string()} is partitioned; choose the partitions to work on")
    keys = list(context.partition_keys)
    made: dict[str, Outcome] = {}
    failures: dict[str, HfassetsError] = {}
    only_checks = asset not in context.op_execution_context.selected_asset_keys
    for key in keys:
        try:
            refuse_changed(context.run, accepted, key)
            if only_checks:
                yield from _checks(context, asset, key, check(key))
            else:
                made[key] = make(key)
        except HfassetsError as error:
            failures[key] = error
            if isinstance(error, DamageFoundError):
                yield from _checks(context, asset, key, error.checks)
            context.log.error(f"{key}: {error}")
    if made and not failures:
        yield _result(asset, made)
    if len(keys) > 1:
        for key, outcome in made.items():
            context.log_event(materialization(asset, key, outcome))
    for key, outcome in made.items():
        yield from _checks(context, asset, key, outcome.checks)
    if failures:
        raise _failure(failures, len(keys))


def _result(asset: dg.AssetKey, made: Mapping[str, Outcome]) -> dg.MaterializeResult[Any]:
    if len(made) > 1:
        return dg.MaterializeResult(asset_key=asset)
    (outcome,) = made.values()
    return dg.MaterializeResult(
        asset_key=asset, metadata=outcome.metadata, data_version=dg.DataVersion(outcome.data_version)
    )


def materialization(asset: dg.AssetKey, key: str, outcome: Outcome) -> dg.AssetMaterialization:
    """A partition's own event."""
    tags = {DATA_VERSION_TAG: outcome.data_version, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"}
    return dg.AssetMaterialization(asset, partition=key, metadata=outcome.metadata, tags=tags)


def _checks(
    context: dg.AssetExecutionContext, asset: dg.AssetKey, key: str, checks: Sequence[Check]
) -> Iterator[dg.AssetCheckResult]:
    """Tell what the checks of one partition gave; a result that is yielded can only speak for a run's one partition."""
    for check in checks:
        if context.has_partition_key and dg.AssetCheckKey(asset, check.name) in context.selected_asset_check_keys:
            yield dg.AssetCheckResult(
                asset_key=asset,
                check_name=check.name,
                passed=check.passed,
                description=check.description or None,
                metadata=check.metadata,
            )
        else:
            context.log_event(evaluation(context.instance, asset, key, check))


def evaluation(instance: dg.DagsterInstance, asset: dg.AssetKey, key: str, check: Check) -> dg.AssetCheckEvaluation:
    """What a check gave for a partition, of its latest materialisation."""
    wanted = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[key])
    records = instance.fetch_materializations(wanted, limit=1).records
    target = AssetCheckEvaluationTargetMaterializationData(
        storage_id=records[0].storage_id, run_id=records[0].run_id, timestamp=records[0].timestamp
    ) if records else None  # fmt: skip
    return dg.AssetCheckEvaluation(
        asset_key=asset,
        check_name=check.name,
        passed=check.passed,
        description=check.description or None,
        metadata=check.metadata,
        target_materialization_data=target,
        partition=key,
        blocking=True,
    )


def _failure(failures: Mapping[str, HfassetsError], total: int) -> dg.Failure:
    damaged = any(isinstance(error, DamageFoundError) for error in failures.values())
    if total == 1:
        (error,) = failures.values()
        return dg.Failure(str(error), allow_retries=not damaged)
    listing = "; ".join(f"{key}: {error}" for key, error in failures.items())
    return dg.Failure(f"{len(failures)} of {total} partitions failed: {listing}", allow_retries=not damaged)
