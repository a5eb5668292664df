"""`catalog.yaml` and `catalog.lock`: what the user wants, and what the network said."""

from hfassets.catalog.accepted import Accepted, accept, prune
from hfassets.catalog.load import catalog_path, configured_path, load_catalog
from hfassets.catalog.lock import (
    DatasetPartition,
    Lock,
    MixPartition,
    MixturePartition,
    Partition,
    RecipePartition,
    RepoLock,
    ShardSetPartition,
    StagingPartition,
    lock_path,
    partitions,
    read_lock,
    unsynced,
)
from hfassets.catalog.mixes import Mix
from hfassets.catalog.models import Catalog, Dataset, HubSettings, Storage, VerifySettings
from hfassets.catalog.shard_sets import ShardSet

__all__ = [
    "Accepted",
    "Catalog",
    "Dataset",
    "DatasetPartition",
    "HubSettings",
    "Lock",
    "Mix",
    "MixPartition",
    "MixturePartition",
    "Partition",
    "RecipePartition",
    "RepoLock",
    "ShardSet",
    "ShardSetPartition",
    "StagingPartition",
    "Storage",
    "VerifySettings",
    "accept",
    "catalog_path",
    "configured_path",
    "load_catalog",
    "lock_path",
    "partitions",
    "prune",
    "read_lock",
    "unsynced",
]
