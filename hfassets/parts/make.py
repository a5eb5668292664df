"""One part of a stored plan, made and published.

Invariant: a part's folder appears whole, its manifest in it, or not at all; one that is finished is not made again.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import shutil
import traceback
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from hfassets.errors import HfassetsError, IntegrityError
from hfassets.parts.plan import AFTER, Outcome, PartOutput, Plan, load_plan
from hfassets.storage import OutputFile, publish_directory, write_manifest
from hfassets.storage.atomic import temporary_beside
from hfassets.storage.manifest import MANIFEST_FILE

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
Worker = Callable[[dict[str, Any], Path], PartOutput | None]


def entry_point(worker: str | Worker) -> str:
    """`module:function` of a worker; raises ValueError for one that another process could not import."""
    name = worker if isinstance(worker, str) else f"{worker.__module__}:{worker.__qualname__}"
    if name.startswith("__main__:") or "<" in name:
        raise ValueError(f"{name} cannot be imported by another process; put the worker into a module")
    resolved = resolve(name)
    if not isinstance(worker, str) and resolved is not worker:
        raise ValueError(f"{name} is not the function that was given")
    return name


def resolve(name: str) -> Worker:
    """The worker behind `module:function`; raises ImportError or AttributeError when there is none."""
    function: Worker = named(name)
    return function


def named(name: str) -> Any:
    """What `module:function` names; raises ImportError or AttributeError when there is none."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def attempt(plan_file: Path, fingerprint: str, index: int) -> Outcome:
    """Make one part of the stored plan and say how it ended; never raises for what a worker does."""
    try:
        plan, worker = stored_plan(plan_file)
        if plan.fingerprint != fingerprint:
            raise IntegrityError(f"{plan_file}: the plan was changed while its parts were being made; run again")
        return Outcome(index, made=_make(plan, resolve(worker), plan_file.parent, index))
    except HfassetsError as error:
        return Outcome(index, error=str(error))
    except OSError as error:
        if error.errno not in _NO_ROOM:
            return Outcome(index, error=f"{type(error).__name__}: {error}", trace=traceback.format_exc())
        return Outcome(index, error=f"no room left on the disk of {plan_file.parent}; free some and run again")
    except Exception as error:
        return Outcome(index, error=f"{type(error).__name__}: {error}", trace=traceback.format_exc())


def stored_plan(plan_file: Path) -> tuple[Plan, str]:
    """The plan and its worker's entry point, read once a change; raises IntegrityError when there is none."""
    try:
        return _load(plan_file, plan_file.stat().st_mtime_ns)
    except FileNotFoundError:
        raise IntegrityError(f"{plan_file}: there is no plan") from None


@lru_cache(maxsize=1)
def _load(plan_file: Path, changed: int) -> tuple[Plan, str]:
    stored = load_plan(plan_file)
    if stored is None:
        raise FileNotFoundError
    return stored


def _make(plan: Plan, worker: Worker, root: Path, index: int) -> bool:
    after = plan.context.get(AFTER)
    made = plan.finished(root, index) is None and _publish(plan, worker, root, index)
    if after is not None:
        bring: Callable[[Path, Mapping[str, Any]], None] = named(after["call"])
        bring(root / plan.parts[index]["name"], after)
    return made


def _publish(plan: Plan, worker: Worker, root: Path, index: int) -> bool:
    part = {**plan.parts[index], **({"context": plan.context} if plan.context else {})}
    final = root / part["name"]
    temporary = temporary_beside(final)
    temporary.mkdir()
    try:
        output = worker(part, temporary) or PartOutput()
        write_manifest(temporary / MANIFEST_FILE, plan.part_manifest(index, _hashed(temporary), output))
        # Another writer (where locks are void) has published the same bytes meanwhile: theirs stay.
        return publish_directory(temporary, final, replace=not plan.finished(root, index))
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _hashed(folder: Path) -> tuple[OutputFile, ...]:
    files = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            continue
        if path.is_symlink() or name == MANIFEST_FILE:
            raise ValueError(f"a worker may not write {name!r}: plain files only, and no {MANIFEST_FILE}")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files.append(OutputFile(name, path.stat().st_size, digest))
    return tuple(files)
