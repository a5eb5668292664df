"""How many hosts share one token's quota of Hub requests at a time."""

import os

import dagster as dg

from hfassets.defs.hub.partitions import HUB_POOL


def quota_share(instance: dg.DagsterInstance) -> int:
    """How many hosts may use the token at once: on one host runs share a budget file, SLURM jobs only the pool."""
    if "SLURM_JOB_ID" not in os.environ:
        return 1
    limits = {limit.name: limit.limit for limit in instance.event_log_storage.get_pool_limits()}
    return max(1, limits.get(HUB_POOL, 1))
