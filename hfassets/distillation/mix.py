"""A mix, made: quotas, a file for each source, and the summary over what is there.

Invariant: a source that fails costs no other one; with dedup over the mix the first source in the catalog's order wins,
so its file is made before those behind it. What the files hold does not depend on how many are made at once.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hfassets.distillation.make import make_source_file
from hfassets.distillation.mix_run import MixRun
from hfassets.distillation.output import SourceFile, find_enough, find_source_file
from hfassets.distillation.quotas import redistribute
from hfassets.distillation.request import Curriculum, SourceRequest
from hfassets.distillation.summary import write_summary
from hfassets.errors import DataError, HfassetsError, PartialFailureError, UsageError
from hfassets.hub.download import resolve_revision
from hfassets.hub.layout import RepoCache
from hfassets.parts import LocalPool, PartOutput, Plan
from hfassets.parts import run as run_parts
from hfassets.progress import Note, ProgressCallback, silent
from hfassets.storage.manifest import MANIFEST_FILE, read_manifest
from hfassets.storage.state import file_name

STAGE = "distillation_mix"
PATIENCE = 86_400.0


@dataclass(frozen=True, slots=True)
class MixResult:
    """The files of a run, in order, the sources that failed with the reason, and what people should hear of."""

    files: tuple[SourceFile, ...]
    failures: tuple[tuple[str, str], ...]
    notices: tuple[str, ...]
    asked: Mapping[str, int]
    summary: Path
    document: Mapping[str, Any]

    def check(self) -> MixResult:
        """Itself; raises PartialFailureError when a source failed."""
        if self.failures:
            raise PartialFailureError("sources", self.failures, len(self.files) + len(self.failures))
        return self


def make_mix(
    run: MixRun, only: Sequence[str] = (), progress: ProgressCallback = silent, workers: int | None = None
) -> MixResult:
    """Make the files of the enabled sources, or of `only`; each keeps its quota of the full mix.

    Raises UsageError for a source that is not in the mix, DataError for a mix that cannot be shared out. What fails of
    a source is in the result.
    """
    shared = run.quotas()
    for name in only:
        if name not in shared.rows:
            said = "disabled" if name in run.mix.datasets else "not in the mix"
            raise UsageError(f"{name} is {said}; enabled are {', '.join(shared.rows)}")
    for notice in shared.notices:
        progress(Note(notice, "warning"))
    wanted = {name: count for name, count in shared.rows.items() if not only or name in only}
    made, failures = _make_files(run, wanted, progress, workers or run.mix.workers)
    if run.mix.on_shortfall == "redistribute" and not failures and not only:
        first = made
        wanted = _shared_out_again(run, wanted, made, progress, workers or run.mix.workers)
        made, failures = _make_files(run, wanted, progress, workers or run.mix.workers)
        was_there = {name for name, one in made.items() if first[name].reused and one.rows == first[name].rows}
        made = {name: replace(one, reused=one.reused and name in was_there) for name, one in made.items()}
    summary, document = write_summary(run.output, run.mix, shared)
    ordered = tuple(made[name] for name in wanted if name in made)
    return MixResult(ordered, tuple(failures.items()), shared.notices, wanted, summary, document)


def make_one(run: MixRun, name: str, progress: ProgressCallback = silent) -> SourceFile:
    """The file of one source by its quota; with dedup over the mix those before it as well, if they are not there.

    Raises what `make_source_file` raises, and DataError naming an earlier source that could not be made.
    """
    shared = run.quotas()
    if name not in shared.rows:
        raise UsageError(f"{name} is not enabled in the mix {run.mix.name}")
    earlier: list[tuple[Path, str]] = []
    if run.mix.preprocessing.dedup_scope == "mix":
        names = list(shared.rows)
        # Somebody else may be making one of them: then this waits, and nobody waits for what comes later.
        patient = replace(run, lease_wait=max(run.lease_wait, PATIENCE), force=False)
        for one in names[: names.index(name)]:
            try:
                before = _make_file(patient, _prepared(patient, one, shared.rows[one], earlier, progress), progress)
            except HfassetsError as error:
                raise DataError(f"{one}, which comes before {name} in the mix: {error}") from error
            earlier.append((before.path, before.fingerprint))
    return _make_file(run, _prepared(run, name, shared.rows[name], earlier, progress), progress)


def find_one(run: MixRun, name: str) -> SourceFile | None:
    """The file of one source, if it is there as the mix asks for it now; everything has to be pinned."""
    rows = run.quotas().rows
    names = list(rows)
    earlier: list[tuple[Path, str]] = []
    if run.mix.preprocessing.dedup_scope == "mix":
        for one in names[: names.index(name)]:
            before = _there(run, run.pinned(one, rows[one], earlier))
            if before is None:
                return None
            earlier.append((before.path, before.fingerprint))
    return _there(run, run.pinned(name, rows[name], earlier))


def find_all(run: MixRun) -> dict[str, SourceFile]:
    """The files of all enabled sources; raises DataError naming those that are missing or outdated."""
    found = {name: find_one(run, name) for name in run.quotas().rows}
    missing = [f"{run.mix.name}/{run.mix.datasets[name].category}/{name}" for name, one in found.items() if one is None]
    if missing:
        raise DataError(f"missing, or not as the catalog asks for now: {', '.join(missing)}; materialise them first")
    return {name: one for name, one in found.items() if one is not None}


def _shared_out_again(
    run: MixRun, wanted: Mapping[str, int], made: Mapping[str, SourceFile], progress: ProgressCallback, workers: int
) -> dict[str, int]:
    """What each source is asked for after those that ran short gave their deficit to the others."""
    asked, now, files = dict(wanted), dict(wanted), dict(made)
    over: set[str] = set()
    while True:
        # Who was short once has nothing to give in a later round either.
        over |= {name for name in now if files[name].rows < now[name]}
        got = {name: min(files[name].rows, now[name]) for name in now}
        new = redistribute(now, got, {name: name in over for name in now}, run.shares)
        more = {name: count for name, count in new.items() if count > now[name]}
        if not more:
            return asked
        told = ", ".join(f"{name} (+{count - now[name]:,})" for name, count in more.items())
        progress(Note(f"sources ran short; their rows go to {told}"))
        asked |= more
        now = new
        # With dedup over the mix each file depends on those before it.
        again = asked if run.mix.preprocessing.dedup_scope == "mix" else more
        grown, failures = _make_files(run, again, progress, workers)
        if failures:
            raise DataError("; ".join(f"{name}: {reason}" for name, reason in failures.items()))
        files |= grown


def _make_files(
    run: MixRun, wanted: Mapping[str, int], progress: ProgressCallback, workers: int
) -> tuple[dict[str, SourceFile], dict[str, str]]:
    """The files by source, and why others could not be made."""
    in_order = run.mix.preprocessing.dedup_scope == "mix"
    made: dict[str, SourceFile] = {}
    failures: dict[str, str] = {}
    requests: dict[str, SourceRequest] = {}
    earlier: list[tuple[Path, str]] = []
    at_once = workers > 1 and len(wanted) > 1 and not in_order
    for name, quota in wanted.items():
        if in_order and failures:
            failures[name] = f"not made: {next(iter(failures))}, which comes before it, failed"
            continue
        try:
            requests[name] = _prepared(run, name, quota, earlier, progress)
            if not at_once:
                made[name] = _make_file(run, requests[name], progress)
                earlier += [(made[name].path, made[name].fingerprint)] if in_order else []
        except HfassetsError as error:
            failures[name] = str(error)
            progress(Note(f"{name}: {error}", "warning"))
    if at_once:
        more, failed = _make_in_processes(run, requests, progress, workers)
        made |= more
        failures |= failed
    return made, failures


def _prepared(
    run: MixRun, name: str, quota: int, earlier: Sequence[tuple[Path, str]], progress: ProgressCallback
) -> SourceRequest:
    source = run.mix.datasets[name]
    commit = run.commits.get(name)
    if commit is None:
        with run.client(source, progress) as client:
            commit = resolve_revision(client, RepoCache(run.hub_cache, source.hf_path), source.revision)
    return run.request(name, quota, commit, run.curriculum(source, progress), earlier)


def _make_file(run: MixRun, request: SourceRequest, progress: ProgressCallback) -> SourceFile:
    if not run.force and (found := _there(run, request)) is not None:
        return found
    with run.client(run.mix.datasets[request.source], progress) as client:
        return make_source_file(client, request, progress)


def _there(run: MixRun, request: SourceRequest) -> SourceFile | None:
    """The file, if it is there; where deficits are shared out it may have been made longer for another one's sake."""
    return find_source_file(request) or (find_enough(request) if run.mix.on_shortfall == "redistribute" else None)


def _make_in_processes(
    run: MixRun, requests: Mapping[str, SourceRequest], progress: ProgressCallback, workers: int
) -> tuple[dict[str, SourceFile], dict[str, str]]:
    """The files as parts, several at once. Every time anew: what is done, the files' own manifests tell."""
    root = run.state.work(STAGE, str(run.output.absolute()))
    shutil.rmtree(root, ignore_errors=True)
    # Several files at once: each has its share of the cores.
    of_each = replace(run, processes=max(1, run.processes // min(workers, len(requests)))).to_json()
    parts = [
        {
            "name": file_name(name),
            "source": name,
            "quota": request.quota,
            "commit": request.commit,
            "curriculum": None if request.curriculum is None else _written(request.curriculum),
            "run": of_each,
        }
        for name, request in requests.items()
    ]
    failures: dict[str, str] = {}
    try:
        run_parts(Plan(STAGE, 1, {}, {}, parts), make_part, LocalPool(workers), root, progress=progress)
    except PartialFailureError as error:
        by_part = {str(part["name"]): str(part["source"]) for part in parts}
        failures = {by_part[name]: reason for name, reason in error.failures}
    made: dict[str, SourceFile] = {}
    for name, request in requests.items():
        if name not in failures:
            found = _there(run, request)
            manifest = read_manifest(root / file_name(name) / MANIFEST_FILE)
            if found is None or manifest is None:
                failures[name] = f"{request.path} is gone again; run once more"
            else:
                made[name] = replace(found, **manifest.details)
    shutil.rmtree(root, ignore_errors=True)
    return made, failures


def make_part(part: dict[str, Any], folder: Path) -> PartOutput:
    """Worker: the file of one source."""
    run = MixRun.from_json(part["run"])
    told = part["curriculum"]
    curriculum = None if told is None else Curriculum(told[0], Path(told[1]), told[2], told[3])
    request = run.request(str(part["source"]), int(part["quota"]), str(part["commit"]), curriculum)
    made = _make_file(run, request, silent)
    return PartOutput(made.account.counts, {"reused": made.reused, "seconds": made.seconds})


def _written(curriculum: Curriculum) -> list[Any]:
    return [curriculum.max_tokens, str(curriculum.tokenizer), curriculum.identity, curriculum.then]
