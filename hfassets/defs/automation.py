"""The house condition: when an asset asks for itself.

`AutomationCondition.eager()` re-runs a chain after every identical re-verification; ours looks at data versions.
"""

from __future__ import annotations

import dagster as dg

AutomationCondition = dg.AutomationCondition


def house_condition() -> dg.AutomationCondition[dg.AssetKey]:
    """Missing, or a dependency's data version changed, since last requested or updated; and dependencies are ready.

    Ready = none missing, none in progress, all their blocking checks passed.
    """
    wanted = AutomationCondition.missing().newly_true() | AutomationCondition.any_deps_match(
        AutomationCondition.data_version_changed()
    )
    since_handled = wanted.since(AutomationCondition.newly_requested() | AutomationCondition.newly_updated())
    return (
        since_handled
        & ~AutomationCondition.any_deps_missing()
        & ~AutomationCondition.any_deps_in_progress()
        & ~AutomationCondition.in_progress()
        & AutomationCondition.all_deps_blocking_checks_passed()
    ).with_label("house condition")


def automation_sensor(selection: dg.AssetSelection) -> dg.AutomationConditionSensorDefinition:
    """The sensor that evaluates the condition; off until somebody turns it on."""
    return dg.AutomationConditionSensorDefinition(
        name="automation", target=selection, default_status=dg.DefaultSensorStatus.STOPPED, minimum_interval_seconds=30
    )
