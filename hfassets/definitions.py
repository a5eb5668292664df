"""The code location: `dagster dev -m hfassets.definitions`, or a code server in a deployment.

It loads whatever stands in catalog.yaml: the last accepted catalog stays in force, and the check of the asset `catalog`
says what is wrong with the newer one. Only where there is no catalog at all does loading fail.
"""

from __future__ import annotations

import dagster as dg

from hfassets.defs.code_location import build_definitions
from hfassets.defs.location import load_location

location = load_location()
if location.accepted.error is not None:
    in_force = f"{location.accepted.sha[:12]} stays in force" if location.accepted.sha else "no catalog is in force"
    dg.get_dagster_logger("hfassets").warning(f"{location.accepted.error}; {in_force}")
defs = build_definitions(location)
