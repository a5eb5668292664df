"""Compute logs do not grow for ever: Dagster keeps them until somebody deletes them."""

import datetime

import dagster as dg

KEEP_DAYS = 90
ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
PAGE = 500


@dg.op
def prune_compute_logs(context: dg.OpExecutionContext) -> None:
    """Delete the captured output of runs that ended more than `KEEP_DAYS` days ago; the runs themselves stay."""
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=KEEP_DAYS)
    filters = dg.RunsFilter(statuses=ENDED, updated_before=before)
    cursor, pruned = None, 0
    while runs := context.instance.get_runs(filters=filters, cursor=cursor, limit=PAGE):
        for run in runs:
            context.instance.compute_log_manager.delete_logs(prefix=[run.run_id])
        cursor, pruned = runs[-1].run_id, pruned + len(runs)
    context.log.info(f"deleted the compute logs of {pruned} runs that ended before {before:%Y-%m-%d}")


@dg.job(description="Deletes compute logs of runs that ended long ago.")
def housekeeping() -> None:
    """The job of the `housekeeping` schedule."""
    prune_compute_logs()


housekeeping_schedule = dg.ScheduleDefinition(
    name="housekeeping",
    job=housekeeping,
    cron_schedule="30 4 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
