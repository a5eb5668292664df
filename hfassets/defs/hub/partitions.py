"""Keys and names of the hub chain: `hub_snapshot` → `verified_hub_cache` → `prepared_dataset`."""

import dagster as dg

GROUP = "hub"
OWNERS = ["team:data-preparation"]

SNAPSHOT = dg.AssetKey("hub_snapshot")
VERIFIED = dg.AssetKey("verified_hub_cache")
PREPARED = dg.AssetKey("prepared_dataset")
INVENTORY = dg.AssetKey("hub_cache_inventory")

# Runs that talk to the Hub, those that read or write much on this host, and those that become SLURM jobs if they can.
HUB_POOL = "hub"
LOCAL_POOL = "local"
HEAVY_POOL = "heavy"
