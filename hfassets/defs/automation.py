"""The house condition: when an asset asks for itself.

`dg.AutomationCondition.eager()` re-runs a chain after every identical re-verification; ours looks at data versions.
"""

from __future__ import annotations

from typing import Any

import dagster as dg


def house_condition() -> dg.AutomationCondition[Any]:
    """Missing, or a dependency's data version changed, since last requested or updated; and dependencies are ready.

    Ready = none missing, none in progress, all their blocking checks passed.
    """
    wanted = dg.AutomationCondition.missing().newly_true() | dg.AutomationCondition.any_deps_match(
        dg.AutomationCondition.data_version_changed()
    )
    since_handled = wanted.since(dg.AutomationCondition.newly_requested() | dg.AutomationCondition.newly_updated())
    return (
        since_handled
        & ~dg.AutomationCondition.any_deps_missing()
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress()
        & dg.AutomationCondition.all_deps_blocking_checks_passed()
    ).with_label("house condition")


def automation_sensor(selection: dg.AssetSelection) -> dg.AutomationConditionSensorDefinition:
    """The sensor that evaluates the condition; off until somebody turns it on."""
    return dg.AutomationConditionSensorDefinition(
        name="automation", target=selection, default_status=dg.DefaultSensorStatus.STOPPED, minimum_interval_seconds=30
    )
