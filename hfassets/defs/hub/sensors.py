"""The clocks of the hub group that are not the ledger's: a full sweep over the whole cache."""

import dagster as dg

from hfassets.defs.hub.partitions import INVENTORY

SWEEP_CONFIG = {"ops": {INVENTORY.to_python_identifier(): {"config": {"verify": True, "full": True}}}}


def full_sweep() -> dg.ScheduleDefinition:
    """Every first of the month at 3:00: read every byte of the cache, also of repos that are not in the catalog."""
    job = dg.define_asset_job(
        "hub_cache_sweep",
        selection=dg.AssetSelection.assets(INVENTORY),
        config=SWEEP_CONFIG,
        description="Reads every byte of the Hub cache and takes its inventory.",
    )
    return dg.ScheduleDefinition(
        name="hub_cache_sweep",
        job=job,
        cron_schedule="0 3 1 * *",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
