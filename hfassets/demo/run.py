"""`make demo`: the whole lineage materialised through Dagster against the embedded sample Hub.

    python -m hfassets.demo.run --home DIR [--definitions-only]

What is made already is recognised by its manifest, so a second run takes seconds.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.status import Status
from rich.text import Text

from hfassets.demo.home import DemoHome
from hfassets.demo.hub_server import SampleHub
from hfassets.report.tables import build_table
from hfassets.report.units import format_seconds
from hfassets.storage import StateDir, read_manifest

if TYPE_CHECKING:
    import dagster as dg

    from hfassets.defs.location import Location
    from hfassets.defs.stage_asset import StageAsset

# The runs' events are in Dagster; on the terminal they would bury the table.
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
_COMMIT = re.compile(r"([0-9a-f]{8})[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Made:
    """One row of the table: what Dagster has recorded of one partition (or of an asset without any)."""

    asset: str
    partition: str
    rows: str
    size: str
    checks: str
    where: str


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; 0 only if everything was materialised."""
    parser = argparse.ArgumentParser(prog="make demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, default=Path(".demo"), help="folder of the demo (default: .demo)")
    parser.add_argument("--definitions-only", action="store_true", help="stop before anything is materialised")
    options = parser.parse_args(arguments)
    home = DemoHome(options.home.absolute())
    with SampleHub(home.hub) as hub:
        home.create(hub.url)
        home.synchronise()
        return 0 if options.definitions_only else materialise_all(home)


def materialise_all(home: DemoHome) -> int:
    """Materialise every asset and partition, then print what Dagster knows of each; 0 only if all succeeded."""
    import dagster as dg

    from hfassets.definitions import defs, location

    started = time.monotonic()
    job = defs.resolve_implicit_global_asset_job_def()
    console = Console(width=None if sys.stdout.isatty() else 160)
    failed: dict[str, str] = {}

    def materialise(step: Step, key: str | None, status: Status) -> None:
        line = f"materialising {step.name} {key}" if key else f"materialising {step.name}"
        status.update(line)
        if not console.is_terminal:
            console.print(line)
        result = job.execute_in_process(
            instance=instance,
            asset_selection=step.assets,
            partition_key=key,
            run_config={**QUIET, **step.run_config},
            raise_on_error=False,
        )
        failed.update(_failure(f"{step.name} {key or ''}".strip(), result))

    with dg.DagsterInstance.get() as instance:
        steps = _steps(location, instance)
        with console.status("") as status:
            for step in steps:
                for key in step.keys:
                    if not step.has(key):
                        materialise(step, key, status)
        rows = [row for step in steps for asset in step.assets for row in _rows(home, instance, asset, step.keys)]
    columns = ["asset", "partition", "rows>", "size>", "checks", "where"]
    console.print(
        build_table(columns, [(r.asset, r.partition, r.rows, r.size, r.checks, r.where) for r in rows]).rich()
    )
    console.print(f"\nmade in {format_seconds(time.monotonic() - started)}, in {home.root}; `make ui` shows it")
    for name, reason in failed.items():
        console.print(Text(f"failed: {name}: {reason}", style="red"))
    return 1 if failed else 0


@dataclass(frozen=True)
class Step:
    """Assets that are materialised together, partition by partition. `has`: whether a partition is as it is on disk."""

    name: str
    assets: Sequence[dg.AssetKey]
    keys: Sequence[str | None]
    has: Callable[[Any], bool]
    run_config: Mapping[str, Any] = field(default_factory=dict)


def _steps(location: Location, instance: dg.DagsterInstance) -> list[Step]:
    """All assets, upstream ones first."""
    from hfassets.defs.c4.partitions import SHARDS
    from hfassets.defs.distillation.partitions import FILE, SUMMARY, TEACHER
    from hfassets.defs.distillation.students import student_assets
    from hfassets.defs.hub.partitions import INVENTORY, PREPARED, SNAPSHOT, VERIFIED
    from hfassets.defs.mds.assets import mds_assets
    from hfassets.defs.staging.assets import staging_assets

    state = location.state

    def of_mix(asset: dg.AssetKey, keys: Sequence[str]) -> Step:
        return Step(asset.to_user_string(), [asset], keys, lambda key: _mix_has(instance, location, asset, key))

    def of_stage(one: StageAsset) -> Step:
        keys = one.spec.partitions_def.get_partition_keys() if one.spec.partitions_def else []
        return Step(one.name, [one.spec.key], keys, lambda key: _stage_has(instance, one, key))

    shards = SHARDS.to_user_string()
    sweep = {"ops": {INVENTORY.to_python_identifier(): {"config": {"verify": True}}}}
    return [
        Step("dataset", [SNAPSHOT, VERIFIED, PREPARED], location.keys, lambda key: _is_made(instance, state, key)),
        Step(
            shards,
            [SHARDS],
            location.shard_sets.get_partition_keys(),
            lambda key: _has(instance, state, SHARDS, shards, key),
        ),
        of_mix(FILE, location.mix_files.get_partition_keys()),
        of_mix(SUMMARY, location.mixes.get_partition_keys()),
        Step(
            TEACHER.to_user_string(),
            [TEACHER],
            location.teacher_mixes.get_partition_keys(),
            lambda key: _latest(instance, TEACHER, key) is not None,
        ),
        *(of_stage(one) for one in (*student_assets(location), *mds_assets(location), *staging_assets(location))),
        Step(INVENTORY.to_user_string(), [INVENTORY], [None], lambda _: False, sweep),
    ]


def _failure(name: str, result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """The reason by name when the run failed, else nothing."""
    failures = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    reasons = [
        data.user_failure_data.description if data.user_failure_data else data.error_display_string for data in failures
    ]
    return {} if result.success else {name: str(reasons[0] if reasons else "the run failed before its first step")}


def _is_made(instance: dg.DagsterInstance, state: StateDir, key: str) -> bool:
    """Whether Dagster has the whole chain of a partition as its manifests say, and their files are there."""
    from hfassets.defs.hub.partitions import PREPARED, SNAPSHOT, VERIFIED

    stages = ((SNAPSHOT, SNAPSHOT), (VERIFIED, SNAPSHOT), (PREPARED, PREPARED))
    return all(_has(instance, state, asset, stage.to_user_string(), key) for asset, stage in stages)


def _has(instance: dg.DagsterInstance, state: StateDir, asset: dg.AssetKey, stage: str, key: str) -> bool:
    """Whether Dagster has a partition as its manifest says, and the files are there."""
    manifest = read_manifest(state.manifest(stage, key))
    latest = _latest(instance, asset, key)
    if manifest is None or latest is None or latest.metadata["fingerprint"].value != manifest.fingerprint:
        return False
    places = ((Path(manifest.root) / file.path, file.size) for file in manifest.files)
    return all(place.is_file() and place.stat().st_size == size for place, size in places)


def _mix_has(instance: dg.DagsterInstance, location: Location, asset: dg.AssetKey, key: str) -> bool:
    """Whether Dagster has a file of a mix, or its summary, as it is on disk."""
    from hfassets.defs.distillation.partitions import FILE
    from hfassets.distillation.from_catalog import mix_run
    from hfassets.distillation.mix import find_one
    from hfassets.distillation.summary import mix_fingerprint

    latest = _latest(instance, asset, key)
    if latest is None:
        return False
    files = [one for one in location.mix_files.get_partition_keys() if asset == FILE or location.mix_of[one] == key]
    told = latest.metadata["fingerprint"].value
    found = []
    for one in [key] if asset == FILE else files:
        part = location.mix_file(one)
        there = find_one(mix_run(location.catalog, part.mix, part.commits, part.tokenizer_commit), part.source)
        found.append("" if there is None else there.fingerprint)
    return told == (found[0] if asset == FILE else mix_fingerprint(found))


def _stage_has(instance: dg.DagsterInstance, asset: StageAsset, key: str) -> bool:
    """Whether Dagster has a folder of parts as it is on disk."""
    latest, there = _latest(instance, asset.spec.key, key), asset.find(key)
    return latest is not None and there is not None and latest.metadata["fingerprint"].value == there.fingerprint


def _latest(instance: dg.DagsterInstance, asset: dg.AssetKey, key: str | None) -> dg.AssetMaterialization | None:
    import dagster as dg

    wanted = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[key] if key else None)
    records = instance.fetch_materializations(wanted, limit=1).records
    return records[0].asset_materialization if records else None


def _rows(
    home: DemoHome, instance: dg.DagsterInstance, asset: dg.AssetKey, keys: Sequence[str | None]
) -> Iterator[Made]:
    for key in keys:
        materialization = _latest(instance, asset, key)
        name = asset.to_user_string()
        if materialization is None:
            yield Made(name, key or "-", "", "", "", "not materialised")
            continue
        metadata = {name: value.value for name, value in materialization.metadata.items()}
        folder = Path(str(metadata.get("folder") or metadata.get("dagster/uri", "")).removeprefix("file://"))
        yield Made(
            name,
            key or "-",
            f"{metadata['dagster/row_count']:,}" if "dagster/row_count" in metadata else "",
            str(metadata.get("size", "")),
            _checks(instance, asset, key),
            _COMMIT.sub(r"\1…", str(folder.relative_to(home.root) if folder.is_relative_to(home.root) else folder)),
        )


def _checks(instance: dg.DagsterInstance, asset: dg.AssetKey, key: str | None) -> str:
    """`2 of 2 passed`: the latest evaluation of each check of a partition."""
    import dagster as dg

    from hfassets.defs.c4 import checks as c4
    from hfassets.defs.distillation import checks as distillation
    from hfassets.defs.hub import checks as hub
    from hfassets.defs.mds import checks as mds
    from hfassets.defs.staging import checks as staging

    groups = (hub.CHECKS_OF, c4.CHECKS_OF, distillation.CHECKS_OF, mds.CHECKS_OF, staging.CHECKS_OF)
    names = next(of[asset] for of in groups if asset in of)
    passed = 0
    for name in names:
        history = instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(asset, name), limit=1000
        )
        latest = next((record for record in history if key is None or record.partition == key), None)
        passed += latest is not None and latest.status.value == "SUCCEEDED"
    return f"{passed} of {len(names)} passed"


if __name__ == "__main__":
    sys.exit(main())
