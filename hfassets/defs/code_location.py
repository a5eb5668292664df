"""All definitions of one code location, built from its accepted catalog."""

from __future__ import annotations

import warnings

import dagster as dg

from hfassets.defs.automation import automation_sensor
from hfassets.defs.c4 import assets as c4
from hfassets.defs.c4.partitions import GROUP as C4_GROUP
from hfassets.defs.distillation import assets as distillation
from hfassets.defs.distillation.partitions import GROUP as DISTILLATION_GROUP
from hfassets.defs.expected import expectation
from hfassets.defs.hub import assets as hub
from hfassets.defs.hub.partitions import GROUP
from hfassets.defs.hub.sensors import full_sweep
from hfassets.defs.integrity.catalog import catalog_accepted_check, catalog_spec
from hfassets.defs.integrity.housekeeping import housekeeping_schedule
from hfassets.defs.integrity.sensors import build_sensors
from hfassets.defs.location import Location
from hfassets.defs.mds import assets as mds
from hfassets.defs.mds.partitions import GROUP as MDS_GROUP
from hfassets.defs.registration import Registrable
from hfassets.defs.staging import assets as staging
from hfassets.defs.staging.partitions import GROUP as STAGING_GROUP
from hfassets.slurm.request import EXPECTS_KEY

GROUPS = (GROUP, C4_GROUP, DISTILLATION_GROUP, MDS_GROUP, STAGING_GROUP)
SYSTEMS = (hub, c4, distillation, mds, staging)


def build_definitions(location: Location) -> dg.Definitions:
    """Everything that the location's catalog asks for."""
    # Dagster warns of it when it resolves the jobs, later; here it is meant (see Location.heavy_backfill_policy).
    warnings.filterwarnings("ignore", message=r"Asset job .* materializes assets with varying BackfillPolicies")
    with warnings.catch_warnings():
        # Checks with partitions of their own are a preview; only they have one status a partition.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return dg.Definitions(
            assets=[
                *hub.build_assets(location),
                *c4.build_assets(location),
                *distillation.build_assets(location),
                *mds.build_assets(location),
                *staging.build_assets(location),
                catalog_spec(location),
            ],
            asset_checks=[catalog_accepted_check(location)],
            schedules=[full_sweep(), housekeeping_schedule],
            sensors=[
                *build_sensors(
                    location,
                    [one for system in SYSTEMS for one in system.verifiables(location)],
                ),
                automation_sensor(dg.AssetSelection.groups(*GROUPS)),
            ],
            # Parallelism belongs to the parts of a step, not to processes of steps.
            executor=dg.in_process_executor,
            metadata={
                EXPECTS_KEY: expectation(location.accepted),
                "catalog": dg.MetadataValue.path(str(location.path)),
                "accepted": location.accepted.sha,
                "not accepted because": location.accepted.error or "",
            },
        )


def all_registrables(location: Location) -> list[Registrable]:
    """All assets whose outputs can be found by their manifests, upstream ones first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return [one for system in SYSTEMS for one in system.registrables(location)]


def check_keys(location: Location) -> list[dg.AssetCheckKey]:
    """All checks of the location."""
    return sorted(build_definitions(location).resolve_asset_graph().asset_check_keys)
