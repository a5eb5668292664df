"""Plans: what is to be made, cut into named parts, stored once.

Invariant: a part's identity contains the fingerprint of its whole plan, so a part of another plan (another sharding of
the same input) is never taken for one of this plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from hfassets.errors import IntegrityError
from hfassets.storage import Manifest, OutputFile, identity_fingerprint, provenance, read_manifest, write_atomic
from hfassets.storage.manifest import MANIFEST_FILE
from hfassets.storage.state import file_name

PLAN_FILE = "plan.json"
ELSEWHERE_FILE = "elsewhere.json"
"""Beside a part's manifest when the part was brought elsewhere: `to`, and the files that were `removed` here since."""
AFTER = "after"
"""The key of a context for what is done with each finished part: `call`, a `module:function` that gets the part's
folder and this object, and `to`, where the part is brought."""
PLAN_VERSION = 1


@dataclass(frozen=True, slots=True)
class PartOutput:
    """What a worker reports of a part besides its files: counts to be summed, and details for people."""

    account: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one part ended. `error` is one line; `trace` is there for a defect of the worker."""

    index: int
    made: bool = False
    error: str | None = None
    trace: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Stage, format, inputs and parameters (the identity of the whole) and the parts, in order.

    Each part is a JSON object with a `name` that is one plain path component; every value is kept as JSON gives it back
    (tuples become lists), so a worker sees the same in every kind of pool. `context`: what workers need to know and
    what decides about no bytes (places, an endpoint); a part gets it under the key `context`. Raises ValueError for
    what no plan can be.
    """

    stage: str
    format: int
    inputs: Mapping[str, Any]
    parameters: Mapping[str, Any]
    parts: Sequence[Mapping[str, Any]]
    context: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        for name in ("inputs", "parameters", "parts", "context"):
            object.__setattr__(self, name, orjson.loads(orjson.dumps(getattr(self, name))))
        names = [part["name"] for part in self.parts]
        bad = [name for name in names if file_name(name) != name or name in (PLAN_FILE, MANIFEST_FILE)]
        if bad:
            raise ValueError(f"a part cannot be named {bad[0]!r}")
        if len(set(names)) != len(names):
            raise ValueError(f"two parts are named {next(name for name in names if names.count(name) > 1)!r}")
        if {"part", "plan"} & set(self.parameters):
            raise ValueError("the parameters `part` and `plan` are taken")
        whole = {**self.parameters, "parts": self.parts}
        object.__setattr__(self, "fingerprint", identity_fingerprint(self.stage, self.format, self.inputs, whole))

    def part_manifest(self, index: int, files: tuple[OutputFile, ...], output: PartOutput) -> Manifest:
        """The manifest of a finished part; its paths are relative to the folder that it lies in."""
        return Manifest(
            stage=self.stage,
            format=self.format,
            inputs=self.inputs,
            parameters=self._part_parameters(index),
            root=".",
            files=files,
            account=dict(output.account),
            details=dict(output.details),
            recorded=provenance(),
        )

    def finished(self, root: Path, index: int) -> Manifest | None:
        """The manifest of a part when it is done: this plan's, and every file there in its size, or known to be where
        the part was brought; else None.
        """
        folder = root / self.parts[index]["name"]
        try:
            manifest = read_manifest(folder / MANIFEST_FILE)
        except (IntegrityError, NotADirectoryError):
            return None
        if manifest is None or manifest.fingerprint != self.part_fingerprint(index):
            return None
        removed = elsewhere(folder)[1]
        here = (file for file in manifest.files if file.path not in removed)
        return manifest if all(_has_size(folder / file.path, file.size) for file in here) else None

    def done(self, root: Path, index: int) -> bool:
        """Whether a part is finished, and was brought where the plan's context wants it."""
        if self.finished(root, index) is None:
            return False
        after = self.context.get(AFTER)
        return after is None or elsewhere(root / self.parts[index]["name"])[0] == after["to"]

    def part_fingerprint(self, index: int) -> str:
        """What identifies a part's content."""
        return identity_fingerprint(self.stage, self.format, self.inputs, self._part_parameters(index))

    def _part_parameters(self, index: int) -> dict[str, Any]:
        return {**self.parameters, "part": self.parts[index], "plan": self.fingerprint}


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def elsewhere(folder: Path) -> tuple[str | None, frozenset[str]]:
    """Where a part was brought, and which of its files are only there since."""
    try:
        found = orjson.loads((folder / ELSEWHERE_FILE).read_bytes())
        return str(found["to"]), frozenset(found["removed"])
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None, frozenset()


def store_plan(path: Path, plan: Plan, worker: str) -> None:
    """Write a plan, and the entry point (`module:function`) of its worker, for every process that makes its parts."""
    document = {
        "plan_version": PLAN_VERSION,
        "fingerprint": plan.fingerprint,
        "stage": plan.stage,
        "format": plan.format,
        "inputs": plan.inputs,
        "parameters": plan.parameters,
        "worker": worker,
        "parts": plan.parts,
        "context": plan.context,
    }
    write_atomic(path, orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n")


def load_plan(path: Path) -> tuple[Plan, str] | None:
    """The stored plan and its worker's entry point; None when there is none.

    Raises IntegrityError for one that is damaged or of another version.
    """
    try:
        document = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise IntegrityError(f"{path}: not a plan ({error}); remove it and run again") from error
    try:
        if document["plan_version"] != PLAN_VERSION:
            raise IntegrityError(f"{path}: plan version {document['plan_version']}, this hfassets reads {PLAN_VERSION}")
        stage, format_, inputs = document["stage"], document["format"], document["inputs"]
        plan = Plan(stage, format_, inputs, document["parameters"], document["parts"], document.get("context", {}))
        worker = str(document["worker"])
        claimed = document["fingerprint"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{path}: not a plan ({error}); remove it and run again") from error
    if claimed != plan.fingerprint:
        raise IntegrityError(f"{path}: it was edited or damaged; remove it and run again")
    return plan, worker
