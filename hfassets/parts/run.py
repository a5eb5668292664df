"""`run`: bring a folder to hold every part of a plan.

Invariant: finished parts are kept, whatever happened to the run that made them; a folder never mixes the parts of two
plans; the result is the same whatever the backend.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfassets.errors import DataError, IntegrityError, PartialFailureError
from hfassets.parts.make import Worker, entry_point
from hfassets.parts.plan import PLAN_FILE, Plan, load_plan, store_plan
from hfassets.parts.pool import Backend
from hfassets.progress import Note, Progress, ProgressCallback, silent
from hfassets.storage import Manifest, read_manifest
from hfassets.storage.atomic import TEMPORARY, fsync_directory, remove_temporaries
from hfassets.storage.manifest import MANIFEST_FILE


@dataclass(frozen=True, slots=True)
class PartsResult:
    """All parts of a plan, done: manifests in plan order, the names made now and found done, and the plan's context."""

    manifests: tuple[Manifest, ...]
    made: tuple[str, ...]
    reused: tuple[str, ...]
    context: Mapping[str, Any] = field(default_factory=dict)

    @property
    def account(self) -> Mapping[str, int]:
        """The sum of all parts' accounts."""
        total: Counter[str] = Counter()
        for manifest in self.manifests:
            total.update(manifest.account)
        return dict(total)

    @property
    def total_bytes(self) -> int:
        """Sum of the sizes of all parts' files, in bytes."""
        return sum(manifest.total_bytes for manifest in self.manifests)


def run(
    plan: Plan,
    worker: str | Worker,
    backend: Backend,
    root: Path,
    *,
    replace: bool = False,
    progress: ProgressCallback = silent,
) -> PartsResult:
    """Make every part of `plan` that `root` does not hold yet, each as the folder `root/<name>` with its manifest.

    `worker` (a function of a module, or `module:function`) gets the part and an empty folder, and writes its files
    there. The caller holds the lease of `root`. When `root` holds another plan, `replace` removes its parts first,
    without it DataError is raised. After all others were tried, PartialFailureError names each part that failed.
    """
    entry = entry_point(worker)
    root.mkdir(parents=True, exist_ok=True)
    busy = backend.busy(root / PLAN_FILE)
    _adopt(plan, entry, root, replace, progress, tidy=not busy)
    todo = [index for index in range(len(plan.parts)) if not plan.done(root, index)]
    done, total = len(plan.parts) - len(todo), len(plan.parts)
    progress(Progress(plan.stage, done, total, "parts"))
    failures: dict[int, str] = {}
    traces: list[str] = []
    for outcome in backend.map(root / PLAN_FILE, plan.fingerprint, todo):
        if outcome.error is None:
            done += 1
            progress(Progress(plan.stage, done, total, "parts"))
        else:
            failures[outcome.index] = " ".join(outcome.error.split())
            traces.extend([outcome.trace] if outcome.trace else [])
            name = plan.parts[outcome.index]["name"]
            progress(Note(f"{plan.stage}: part {name} failed: {failures[outcome.index]}", "warning"))
    remove_temporaries(root)
    manifests = [plan.finished(root, index) for index in range(total)]
    for index, manifest in enumerate(manifests):
        if manifest is None:
            failures.setdefault(index, "it was said to be done, but its folder does not hold it")
    if failures:
        named = [(str(plan.parts[index]["name"]), failures[index]) for index in sorted(failures)]
        error = PartialFailureError("parts", named, total)
        for trace in traces[:3]:
            error.add_note(trace)
        raise error
    names = [str(part["name"]) for part in plan.parts]
    made = set(todo)
    return PartsResult(
        manifests=tuple(manifest for manifest in manifests if manifest is not None),
        made=tuple(name for index, name in enumerate(names) if index in made),
        reused=tuple(name for index, name in enumerate(names) if index not in made),
        context=plan.context,
    )


def _adopt(plan: Plan, worker: str, root: Path, replace: bool, progress: ProgressCallback, *, tidy: bool) -> None:
    """Make `root` the folder of this plan and of no other."""
    plan_file = root / PLAN_FILE
    try:
        stored = load_plan(plan_file)
    except IntegrityError:
        if not replace:
            raise
        stored = None
    if stored is not None and stored[0].fingerprint != plan.fingerprint:
        held = f"{root} holds another plan ({stored[0].stage}, {len(stored[0].parts)} parts)"
        # A plan of which nothing was made is nobody's loss.
        made = any(stored[0].finished(root, index) is not None for index in range(len(stored[0].parts)))
        if not replace and made:
            raise DataError(f"{held}; replace it by force, or choose another folder")
        if made:
            progress(Note(f"{held}: its parts are replaced", "warning"))
        # Without the manifest the output as a whole does not count as done any more; then its parts may go.
        (root / MANIFEST_FILE).unlink(missing_ok=True)
        fsync_directory(root)
    if stored is None or stored != (plan, worker):
        store_plan(plan_file, plan, worker)
    if tidy:
        remove_temporaries(root)
    _remove_strays(plan, root)


def _remove_strays(plan: Plan, root: Path) -> None:
    """Delete the parts of an older plan: folders with a manifest of this stage's parts that this plan does not name."""
    names = {part["name"] for part in plan.parts}
    for folder in root.iterdir():
        # A temporary folder may be that of a worker which is about to publish it.
        if folder.name in names or TEMPORARY.match(folder.name) or folder.is_symlink() or not folder.is_dir():
            continue
        try:
            manifest = read_manifest(folder / MANIFEST_FILE)
        except IntegrityError:
            continue
        if manifest is not None and manifest.stage == plan.stage and "plan" in manifest.parameters:
            shutil.rmtree(folder)
