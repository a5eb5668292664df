"""The catalog as an asset of its own, so that an edit that is not accepted shows as a failed check."""

import dagster as dg

from hfassets.catalog.accepted import accept
from hfassets.defs.location import Location

CATALOG = dg.AssetKey("catalog")
CATALOG_CHECK = "accepted"


def catalog_spec(location: Location) -> dg.AssetSpec:
    """The external asset that stands for catalog.yaml and catalog.lock."""
    return dg.AssetSpec(
        CATALOG,
        group_name="integrity",
        kinds={"yaml"},
        description="What is wanted (catalog.yaml) and what the Hub said of it (catalog.lock, written by"
        " `hfassets catalog sync`). Everything is defined from the last accepted copy.",
        metadata={"path": dg.MetadataValue.path(str(location.path)), "accepted": location.accepted.sha},
    )


def catalog_check(location: Location) -> dg.AssetCheckResult:
    """Whether the files on disk are accepted, and whether this code location was built from them."""
    now = accept(location.path)
    if now.error is not None:
        return _result(False, f"{now.error}; the last accepted one stays in force")
    if now.sha != location.accepted.sha:
        return _result(True, f"{now.sha[:12]} is accepted; reload the code location to see its partitions")
    return _result(True, f"{now.sha[:12]} is accepted and in force")


def _result(passed: bool, description: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=passed, description=description, asset_key=CATALOG, check_name=CATALOG_CHECK)


def catalog_accepted_check(location: Location) -> dg.AssetChecksDefinition:
    """The same as a check that can be run from the UI."""

    @dg.asset_check(asset=CATALOG, name=CATALOG_CHECK, description="catalog.yaml on disk is the accepted one.")
    def accepted() -> dg.AssetCheckResult:
        return catalog_check(location)

    return accepted
