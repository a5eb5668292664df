"""What a job works by was said when its run was launched: one that waited over an upgrade may find something else.

Invariant: a partition is only worked on by the entry of the catalog and the formats that were in force at the launch,
or by equal ones; anything else is refused in one line, before anything is read.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import orjson
from dagster import DagsterRun

from hfassets.catalog import Accepted
from hfassets.catalog.accepted import accepted_copy
from hfassets.catalog.lock import Partition
from hfassets.errors import CatalogError, DataError
from hfassets.slurm.tags import expected

_MODULES = (
    *("hub.acquire", "hub.prepare", "c4.request", "distillation.request", "packed.stage", "packed.logits"),
    *("mds.convert", "mds.tokenize", "mds.chunk", "mds.sample", "mds.extend"),
)


def formats() -> dict[str, int]:
    """The format of each stage's output, as this version writes it."""
    modules = [importlib.import_module(f"hfassets.{name}") for name in _MODULES]
    return {str(module.STAGE): int(module.FORMAT) for module in modules}


def expectation(accepted: Accepted) -> str:
    """What a code location says of itself, for runs to keep."""
    return orjson.dumps({"catalog": accepted.sha, "formats": formats()}, option=orjson.OPT_SORT_KEYS).decode()


def refuse_changed(run: DagsterRun, accepted: Accepted, key: str) -> None:
    """Raise DataError when a partition is not what it was when the run was launched."""
    kept = expected(run)
    if kept is None:
        return
    said = orjson.loads(kept)
    changed = sorted(stage for stage, number in formats().items() if said["formats"].get(stage, number) != number)
    if changed:
        raise DataError(
            f"hfassets was upgraded while this job waited, and writes {', '.join(changed)} in another format now;"
            " launch it again"
        )
    if said["catalog"] == accepted.sha:
        return
    try:
        before: Mapping[str, Partition] = {one.key: one for one in accepted_copy(accepted, said["catalog"])}
    except CatalogError as error:
        raise DataError(
            f"the catalog was changed while this job waited, and what it was cannot be read any more ({error}); launch"
            " it again"
        ) from None
    now = {one.key: one for one in accepted.partitions}
    if before.get(key) != now.get(key):
        raise DataError(
            f"{key} was changed in the catalog while this job waited (it was launched by {said['catalog'][:12]},"
            f" {accepted.sha[:12] or 'none'} is in force); launch it again"
        )
