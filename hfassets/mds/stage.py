"""A stage's folder: parts made side by side, one index over them, and a manifest last of all.

Invariant: a folder whose manifest is there and fits holds exactly what was asked for; without it nothing counts.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from hfassets.errors import DataError, IntegrityError
from hfassets.hub.hashing import hash_file
from hfassets.mds.index import INDEX
from hfassets.parts import LocalPool, PartsResult, Plan
from hfassets.parts import run as run_parts
from hfassets.parts.make import Worker
from hfassets.parts.plan import AFTER, PLAN_FILE, elsewhere, load_plan
from hfassets.parts.pool import Backend
from hfassets.progress import Note, ProgressCallback, silent
from hfassets.storage.atomic import write_atomic
from hfassets.storage.lease import lease
from hfassets.storage.manifest import (
    ADOPTED,
    MANIFEST_FILE,
    Manifest,
    OutputFile,
    provenance,
    read_manifest,
    write_manifest,
)
from hfassets.storage.state import StateDir

STATS = "stats.json"
SIDES = ("train", "validation")


@dataclass(frozen=True)
class StageRun:
    """The habits of one run. `replaces`: a folder that holds another plan of the stage is made anew; `backend`: where
    parts are made, None = in `workers` processes here. Times in s.
    """

    state: StateDir
    workers: int = 1
    force: bool = False
    run_id: str = ""
    lease_wait: float = 0.0
    replaces: bool = False
    backend: Backend | None = None

    @property
    def pool(self) -> Backend:
        """Where parts are made."""
        return self.backend or LocalPool(self.workers)


@dataclass(frozen=True)
class Finished:
    """What the end of a stage found out: counts that close, numbers for people, and files written beside the parts."""

    account: Mapping[str, int]
    details: Mapping[str, Any]
    files: Sequence[str] = ()


@dataclass(frozen=True)
class StageOutput:
    """A finished folder. `reused`: it was there already; `seconds`: of this run."""

    root: Path
    manifest: Manifest
    reused: bool = True
    seconds: float = 0.0
    parts_made: int = 0
    parts_reused: int = 0

    @property
    def adopted(self) -> bool:
        """Whether somebody else has written it."""
        return bool(self.manifest.recorded.get("adopted"))

    @property
    def fingerprint(self) -> str:
        """Of its identity."""
        return self.manifest.fingerprint

    @property
    def account(self) -> Mapping[str, int]:
        """Its counts."""
        return self.manifest.account

    @property
    def details(self) -> Mapping[str, Any]:
        """What its stats say."""
        return self.manifest.details


@dataclass(frozen=True)
class Stage:
    """A folder that is to be made by a plan. `finish`: gets the folder and its parts when all are there;
    `made_from`: where its inputs lie, by their names.
    """

    root: Path
    plan: Plan
    worker: Worker
    finish: Callable[[Path, PartsResult], Finished]
    made_from: Mapping[str, str] = field(default_factory=dict)

    @property
    def expected(self) -> Manifest:
        """A manifest with the identity of what is asked for."""
        parameters = {**self.plan.parameters, "parts_plan": self.plan.fingerprint}
        return Manifest(self.plan.stage, self.plan.format, self.plan.inputs, parameters, ".", ())


def find_stage(root: Path) -> StageOutput | None:
    """The finished output in a folder, whatever was asked for; None when there is none or a file is missing."""
    try:
        manifest = read_stage_manifest(root)
    except IntegrityError:
        return None
    if manifest is None:
        return None
    removed = removed_files(root, manifest)
    if any(not _has_size(root / file.path, file.size) for file in manifest.files if file.path not in removed):
        return None
    return StageOutput(root, manifest)


def read_stage_manifest(root: Path) -> Manifest | None:
    """That of a finished folder, made here or adopted; raises IntegrityError for one that was edited or damaged."""
    adopted = read_manifest(root / ADOPTED)
    return adopted if adopted is not None else read_manifest(root / MANIFEST_FILE)


def removed_files(root: Path, manifest: Manifest) -> set[str]:
    """Files of an output that were brought elsewhere and are not here any more."""
    parts = {file.path.partition("/")[0] for file in manifest.files if "/" in file.path}
    return {f"{part}/{name}" for part in parts for name in elsewhere(root / part)[1]}


def make_stage(stage: Stage, run: StageRun, progress: ProgressCallback = silent) -> StageOutput:
    """Bring the folder to hold what the stage asks for; finished parts of the same plan are kept.

    Raises PartialFailureError naming each part that failed, LeaseHeldError, DataError for a folder of something else.
    """
    started = time.monotonic()
    root = stage.root
    if not run.force and (found := _done(stage)) is not None:
        return found
    with lease(
        run.state.lease(f"{stage.plan.stage}:{root.absolute()}"),
        str(root),
        run_id=run.run_id,
        wait=run.lease_wait,
        on_wait=lambda line: progress(Note(line)),
    ):
        if not run.force and (found := _done(stage)) is not None:
            return found
        if (root / ADOPTED).exists():
            raise DataError(f"{root}: adopted, written by somebody else; it is not made again, not even by force")
        replace = run.force or run.replaces
        # What is refused because the folder holds something else stays as finished as it was.
        if replace or _planned(stage):
            (root / MANIFEST_FILE).unlink(missing_ok=True)
        for part in stage.plan.parts if run.force else ():
            shutil.rmtree(root / part["name"], ignore_errors=True)
        result = run_parts(stage.plan, stage.worker, run.pool, root, replace=replace, progress=progress)
        finished = stage.finish(root, result)
        manifest = _manifest(stage, result, finished, started)
        write_manifest(root / MANIFEST_FILE, manifest)
    seconds = time.monotonic() - started
    return StageOutput(root, manifest, False, seconds, len(result.made), len(result.reused))


def write_stats(root: Path, stats: Mapping[str, Any], name: str = STATS) -> None:
    """Numbers for people and other tools, as JSON."""
    write_atomic(root / name, orjson.dumps(stats, option=orjson.OPT_INDENT_2) + b"\n")


def _planned(stage: Stage) -> bool:
    """Whether the folder is that of this plan."""
    try:
        stored = load_plan(stage.root / PLAN_FILE)
    except IntegrityError:
        return False
    return stored is not None and stored[0].fingerprint == stage.plan.fingerprint


def _done(stage: Stage) -> StageOutput | None:
    found = find_stage(stage.root)
    if found is not None and found.adopted:
        return found
    if found is None or found.fingerprint != stage.expected.fingerprint:
        return None
    brought = all(stage.plan.done(stage.root, index) for index in range(len(stage.plan.parts)))
    return found if AFTER not in stage.plan.context or brought else None


def _manifest(stage: Stage, result: PartsResult, finished: Finished, started: float) -> Manifest:
    files = [
        OutputFile(f"{part['name']}/{file.path}", file.size, file.sha256)
        for part, manifest in zip(stage.plan.parts, result.manifests, strict=True)
        for file in manifest.files
    ]
    for name in (INDEX, *finished.files):
        path = stage.root / name
        if path.exists():
            files.append(OutputFile(name, path.stat().st_size, hash_file(path, "sha256")))
    expected = stage.expected
    return Manifest(
        stage=expected.stage,
        format=expected.format,
        inputs=expected.inputs,
        parameters=expected.parameters,
        root=".",
        files=tuple(files),
        account=dict(finished.account),
        details=dict(finished.details),
        recorded=provenance() | {"made_from": dict(stage.made_from), "seconds": round(time.monotonic() - started, 3)},
    )


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False
