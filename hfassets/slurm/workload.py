"""A run's assets, partitions and tags, found in the workspace that launches it. Dagster's by nature.

Invariant: what a run will do is resolved wholly, or the run is refused: one whose assets cannot be seen might be heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster import AssetKey, DagsterRun
from dagster._core.definitions.selector import JobSubsetSelector
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)
from dagster._core.workspace.context import BaseWorkspaceRequestContext

from hfassets.slurm.errors import ResourceError
from hfassets.slurm.request import EXPECTS_KEY, MODE_KEY, NETWORK_KEY, NO_NETWORK, REQUEST_KEY, AssetRequest, Workload


def workload(run: DagsterRun, workspace: BaseWorkspaceRequestContext | None) -> Workload:
    """The run as the launcher needs it. Raises ResourceError for what cannot be resolved."""
    if workspace is None:
        raise ResourceError("the run was launched without a workspace, so what it asks for cannot be seen")
    keys = _asset_keys(run, workspace)
    graph = workspace.asset_graph
    unknown = sorted(key.to_user_string() for key in keys if not graph.has(key))
    if unknown:
        raise ResourceError(f"{', '.join(unknown)} is not in any loaded code location; reload the definitions")
    assets = tuple(_asset_request(key, graph.get(key).metadata) for key in sorted(keys))
    return Workload(assets, _partitions(run, workspace, keys), run.tags)


def expectation(run: DagsterRun, workspace: BaseWorkspaceRequestContext | None) -> str | None:
    """What the run's code location says of itself under `slurm/expects`; None when it says nothing."""
    origin = run.remote_job_origin
    if workspace is None or origin is None:
        return None
    repository = origin.repository_origin
    location = repository.code_location_origin.location_name
    if not workspace.has_code_location(location):
        return None
    found = workspace.get_code_location(location).get_repository(repository.repository_name)
    value = (found.repository_snap.metadata or {}).get(EXPECTS_KEY)
    return None if value is None else str(value.value)


def _asset_keys(run: DagsterRun, workspace: BaseWorkspaceRequestContext) -> frozenset[AssetKey]:
    """The selected assets, else those of the selected checks, else all of the job: checks count as their asset."""
    checked = {key.asset_key for key in run.asset_check_selection or ()}
    if run.asset_selection or run.asset_check_selection:
        return frozenset(run.asset_selection or ()) | checked
    origin = run.remote_job_origin
    if origin is None:
        raise ResourceError(f"run {run.run_id} does not say which job it is of")
    repository = origin.repository_origin
    location = repository.code_location_origin.location_name
    selector = JobSubsetSelector(
        location_name=location,
        repository_name=repository.repository_name,
        job_name=run.job_name,
        op_selection=None,
    )
    if not workspace.has_code_location(location) or not workspace.has_job(selector):
        raise ResourceError(f"job {run.job_name} is not in code location {location}, or that location is not loaded")
    found = workspace.get_code_location(location).get_repository(repository.repository_name)
    checks = {
        snap.asset_key for snap in found.repository_snap.asset_check_nodes or () if run.job_name in snap.job_names
    }
    return frozenset(found.get_asset_keys_in_job(run.job_name)) | checks


def _asset_request(key: AssetKey, metadata: Mapping[str, Any]) -> AssetRequest:
    values = {name: getattr(metadata.get(name), "value", metadata.get(name)) for name in _KEYS}
    return AssetRequest(
        key.to_user_string(),
        request=values[REQUEST_KEY],
        mode=str(values[MODE_KEY] or "run"),
        network=str(values[NETWORK_KEY] or NO_NETWORK),
    )


_KEYS = (REQUEST_KEY, MODE_KEY, NETWORK_KEY)


def _partitions(run: DagsterRun, workspace: BaseWorkspaceRequestContext, keys: frozenset[AssetKey]) -> tuple[str, ...]:
    if PARTITION_NAME_TAG in run.tags:
        return (run.tags[PARTITION_NAME_TAG],)
    first, last = run.tags.get(ASSET_PARTITION_RANGE_START_TAG), run.tags.get(ASSET_PARTITION_RANGE_END_TAG)
    if first is None or last is None:
        return ()
    definitions = [workspace.asset_graph.get(key).partitions_def for key in sorted(keys)]
    definition = next((found for found in definitions if found is not None), None)
    if definition is None:
        raise ResourceError(f"the run has the partition range {first}...{last} and none of its assets has partitions")
    partitions = list(definition.get_partition_keys())
    if first not in partitions or last not in partitions:
        raise ResourceError(f"the partition range {first}...{last} is not in the loaded code location; reload it")
    return tuple(partitions[partitions.index(first) : partitions.index(last) + 1])
