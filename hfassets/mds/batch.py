"""The recipes of a catalog, one after the other, stage by stage, without Dagster.

Invariant: what fails costs only what needs it; every failure is named in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hfassets.catalog.load import nearest
from hfassets.catalog.lock import MixturePartition, Partition, RecipePartition
from hfassets.catalog.recipes import Mixture
from hfassets.errors import HfassetsError, PartialFailureError, UsageError
from hfassets.mds.from_catalog import Recipes
from hfassets.mds.stage import StageOutput
from hfassets.progress import Note, ProgressCallback, silent

STAGES = ("text", "tokens", "chunks", "sample")
_Make = Callable[[Any, ProgressCallback], StageOutput]


@dataclass
class Batch:
    """What was made. `made`: (entry, stage, output); `failures`: (entry, reason)."""

    made: list[tuple[str, str, StageOutput]] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    entries: int = 0

    def check(self) -> None:
        """Raise PartialFailureError naming each entry that failed."""
        if self.failures:
            raise PartialFailureError("recipes", self.failures, self.entries)


def make_all(
    recipes: Recipes,
    known: Sequence[Partition],
    names: Sequence[str] = (),
    last: str = STAGES[-1],
    progress: ProgressCallback = silent,
) -> Batch:
    """Recipes up to the stage `last`, and, if that is the last there is, mixtures and context extensions.

    `names`: only these, and what they are made of; none = all. Raises UsageError for a name that nothing has; what
    goes wrong with an entry is in the batch.
    """
    singles = {one.key: one for one in known if isinstance(one, RecipePartition)}
    sets = {one.key: one for one in known if isinstance(one, MixturePartition)}
    for name in names:
        if name not in singles and name not in sets:
            close = nearest(name, [*singles, *sets])
            hint = f"did you mean {close!r}?" if close else "hfassets catalog sync pins what is new"
            raise UsageError(f"no recipe, mixture or extension {name!r} that is pinned; {hint}")
    wanted = [sets[name] for name in (names or sets) if name in sets] if last == STAGES[-1] else []
    members = {name for one in wanted for name in one.members}
    batch = Batch()
    for key, single in singles.items():
        if not names or key in names or key in members:
            _make(batch, key, single, _stages(recipes, last), progress)
    lost = {name for name, _ in batch.failures}
    for entry in wanted:
        lacking = sorted(lost & set(entry.members))
        if lacking:
            batch.entries += 1
            batch.failures.append((entry.key, f"its members {', '.join(lacking)} failed"))
            continue
        make = recipes.make_training if isinstance(entry.entry, Mixture) else recipes.make_extension
        _make(batch, entry.key, entry, iter([("set", make)]), progress)
    return batch


def _stages(recipes: Recipes, last: str) -> Iterator[tuple[str, _Make]]:
    steps = (recipes.make_text, recipes.make_tokens, recipes.make_chunks, recipes.make_sample)
    for name, make in zip(STAGES, steps, strict=True):
        yield name, make
        if name == last:
            return


def _make(batch: Batch, key: str, of: Any, steps: Iterator[tuple[str, _Make]], progress: ProgressCallback) -> None:
    batch.entries += 1
    try:
        for name, make in steps:
            progress(Note(f"{key}: {name}"))
            batch.made.append((key, name, make(of, progress)))
    except HfassetsError as error:
        batch.failures.append((key, str(error)))
        progress(Note(f"{key}: {error}", "warning"))
