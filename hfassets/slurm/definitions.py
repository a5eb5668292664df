"""The code location that keeps runs and jobs in agreement: `dagster code-server start -m hfassets.slurm.definitions`.

It knows no dataset and loads in any Dagster project whose run launcher is `hfassets.slurm.SlurmRunLauncher`.
"""

import time

import dagster as dg

from hfassets.slurm.errors import SlurmError
from hfassets.slurm.lease import Taken, exclusive
from hfassets.slurm.notices import Notice, post_notice, write_notice
from hfassets.slurm.reconciler import Memory, Reconciler
from hfassets.slurm.tags import record

INTERVAL_S = 15


def _launcher(instance: dg.DagsterInstance):  # type: ignore[no-untyped-def]
    from hfassets.slurm.launcher import SlurmRunLauncher

    launcher = instance.run_launcher
    return launcher if isinstance(launcher, SlurmRunLauncher) else None


@dg.sensor(
    name="slurm_reconciler",
    minimum_interval_seconds=INTERVAL_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Keeps runs and SLURM jobs in agreement: submits and adopts what was intended, fails runs whose job"
    " died, cancels jobs whose run is over, shows why a job waits. Keep it on.",
)
def slurm_reconciler(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """One tick of the reconciler."""
    launcher = _launcher(context.instance)
    if launcher is None:
        return dg.SensorResult(skip_reason="the instance's run launcher is not hfassets.slurm.SlurmRunLauncher")
    memory = Memory.load(context.cursor)
    now = time.time()
    if now < memory.due <= now + INTERVAL_S:
        return dg.SensorResult(skip_reason=f"the next tick is due in {memory.due - now:.0f} s")
    memory.due = now + INTERVAL_S - 1
    try:
        with exclusive(launcher.settings.folder / "reconciler.lock"):
            report = Reconciler(context.instance, launcher, memory).tick()
    except Taken:
        return dg.SensorResult(skip_reason="another reconciler of this instance is at work", cursor=memory.dump())
    for action in report.actions:
        context.log.info(action)
    return dg.SensorResult(skip_reason=str(report), cursor=memory.dump())


@dg.run_failure_sensor(
    name="failure_notices",
    monitor_all_code_locations=True,
    minimum_interval_seconds=INTERVAL_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells of every failed run: to the file and the webhook of `notices` in the launcher's config.",
)
def failure_notices(context: dg.RunFailureSensorContext) -> None:
    """One notice a failed run; a notice that cannot be delivered fails the tick and is tried again."""
    launcher = _launcher(context.instance)
    if launcher is None:
        return
    run = context.dagster_run
    found = record(run)
    notice = Notice(
        run_id=run.run_id,
        job=run.job_name,
        status=run.status.value,
        message=context.failure_event.message or "",
        assets=tuple(sorted(key.to_user_string() for key in run.asset_selection or ())),
        partition=run.tags.get("dagster/partition"),
        slurm_job=found.job_id if found else None,
        at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    errors = []
    for deliver, target in (
        (write_notice, launcher.settings.notices.file),
        (post_notice, launcher.settings.notices.webhook),
    ):
        if target is not None:
            try:
                deliver(notice, target)
            except SlurmError as error:
                errors.append(str(error))
    if errors:
        raise SlurmError("; ".join(errors))


defs = dg.Definitions(sensors=[slurm_reconciler, failure_notices])
