"""The clocks of integrity: re-verify what is old, repair what is damaged, say when the catalog on disk is not accepted.

No sensor touches the network; each decides from the ledger and its cursor and leaves the work to runs.
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import dagster as dg
import orjson

from hfassets.defs.integrity.catalog import CATALOG, CATALOG_CHECK, catalog_check
from hfassets.defs.integrity.plan import DailyBudget, Incident, due_for_verification, plan_repairs
from hfassets.defs.integrity.registry import Verifiable
from hfassets.defs.location import DAY, Location
from hfassets.storage import read_entries

RUN_KEY_TAG = "dagster/run_key"


def _today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())


def integrity_jobs(verifiables: Sequence[Verifiable]) -> list[Any]:
    """One job a system: a job's assets have one partitions definition, and sensors ask for runs of several."""
    selected: dict[str, set[dg.AssetKey]] = defaultdict(set)
    for verifiable in verifiables:
        selected[verifiable.job] |= {verifiable.asset, *verifiable.repair}
    return [
        dg.define_asset_job(
            name,
            selection=dg.AssetSelection.assets(*sorted(keys, key=str)),
            description="What the sensors `reverify` and `repair` run.",
        )
        for name, keys in selected.items()
    ]


def reverification_sensor(
    location: Location, verifiables: Sequence[Verifiable], jobs: Sequence[Any]
) -> dg.SensorDefinition:
    """Asks for a run of each partition whose last proof is older than `verify.reverify_every_days`.

    The run key holds the day, so that a run that ended without a verdict is asked for again on the next day, and
    neither a restarted daemon nor a slow run makes a second request.
    """
    settings = location.verify

    @dg.sensor(
        name="reverify",
        jobs=jobs,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Re-verifies partitions whose last proof has aged. Reads the ledger only.",
    )
    def reverify(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        requests = []
        for verifiable in verifiables:
            due = due_for_verification(
                read_entries(verifiable.ledger, verifiable.versions),
                now=time.time(),
                every=settings.reverify_every_days * DAY,
                most=settings.reverify_max_partitions_per_tick,
            )
            name = verifiable.asset.to_user_string()
            requests += [
                dg.RunRequest(
                    run_key=f"reverify:{name}:{key}:{_today()}",
                    job_name=verifiable.job,
                    partition_key=key,
                    asset_selection=[verifiable.asset],
                    run_config=verifiable.run_config,
                )
                for key in due
            ]
        return dg.SensorResult(requests, skip_reason=None if requests else "every proof is recent")

    return reverify


def repair_sensor(location: Location, verifiables: Sequence[Verifiable], jobs: Sequence[Any]) -> dg.SensorDefinition:
    """Asks for the repair of damaged partitions: at most three runs an incident, within the daily byte budget."""
    limit = location.verify.repair_max_bytes_per_day

    @dg.sensor(
        name="repair",
        jobs=jobs,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Fetches damaged files anew, at the pinned commit, and proves them. Stops after three attempts.",
    )
    def repair(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        cursor = orjson.loads(context.cursor) if context.cursor else {}
        budget = DailyBudget(limit, **cursor.get("budget", {})).on(_today())
        requests: list[dg.RunRequest] = []
        messages: list[str] = []
        remembered: dict[str, dict[str, Any]] = {}
        for verifiable in verifiables:
            name = verifiable.asset.to_user_string()
            known = {key: Incident(**value) for key, value in cursor.get(name, {}).items()}
            plan = plan_repairs(
                read_entries(verifiable.ledger, verifiable.versions),
                known,
                _unfinished(context.instance, known),
                budget,
            )
            budget = plan.budget
            messages += plan.messages
            remembered[name] = {key: asdict(incident) for key, incident in plan.incidents.items()}
            requests += [
                dg.RunRequest(
                    run_key=_repair_key(key, incident),
                    job_name=verifiable.job,
                    partition_key=key,
                    asset_selection=list(verifiable.repair),
                )
                for key, incident in plan.requests.items()
            ]
        for message in messages:
            context.log.warning(message)
        spent = {"day": budget.day, "spent": budget.spent}
        return dg.SensorResult(
            requests,
            cursor=orjson.dumps({"budget": spent, **remembered}).decode(),
            skip_reason=None if requests else ("; ".join(messages) or "nothing is damaged"),
        )

    return repair


def _repair_key(partition: str, incident: Incident) -> str:
    return f"repair:{partition}:{incident.damage_hash}:{incident.attempts}"


def _unfinished(instance: dg.DagsterInstance, known: Mapping[str, Incident]) -> frozenset[str]:
    """Partitions whose last requested repair run is still to end (or was never launched because the daemon died)."""
    keys = {_repair_key(partition, incident): partition for partition, incident in known.items() if incident.attempts}
    if not keys:
        return frozenset()
    runs = instance.get_runs(filters=dg.RunsFilter(tags={RUN_KEY_TAG: list(keys)}))
    return frozenset(keys[run.tags[RUN_KEY_TAG]] for run in runs if not run.is_finished)


def catalog_sensor(location: Location) -> dg.SensorDefinition:
    """Evaluates the check of the catalog whenever the file on disk, or what was accepted of it, has changed."""

    @dg.sensor(
        name="catalog_watch",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Says when catalog.yaml on disk is not the accepted one, and why.",
    )
    def catalog_watch(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        result = catalog_check(location)
        seen = orjson.dumps([result.passed, result.description]).decode()
        if seen == context.cursor:
            return dg.SensorResult(skip_reason=result.description)
        evaluation = dg.AssetCheckEvaluation(
            asset_key=CATALOG, check_name=CATALOG_CHECK, passed=result.passed, description=result.description
        )
        return dg.SensorResult(asset_events=[evaluation], cursor=seen)

    return catalog_watch


def build_sensors(location: Location, verifiables: Sequence[Verifiable]) -> list[dg.SensorDefinition]:
    """All sensors of this folder."""
    jobs = integrity_jobs(verifiables)
    return [
        reverification_sensor(location, verifiables, jobs),
        repair_sensor(location, verifiables, jobs),
        catalog_sensor(location),
    ]
