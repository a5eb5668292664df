"""Every split of a packed folder, told by a teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hfassets.errors import DataError, HfassetsError, PartialFailureError
from hfassets.mds.stage import Stage, StageOutput, StageRun
from hfassets.packed.logits import Logits
from hfassets.packed.shards import PATTERN, make_shards
from hfassets.packed.source import PackedRows, packed_rows
from hfassets.packed.teacher import check_torch
from hfassets.progress import Note, ProgressCallback, silent


@dataclass
class TaughtFolder:
    """What became of each split, "" for a folder that is one itself."""

    made: dict[str, StageOutput] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)

    def check(self) -> None:
        """Raise PartialFailureError naming each split that failed."""
        if self.failures:
            raise PartialFailureError("splits", self.failures, len(self.made) + len(self.failures))


def packed_splits(folder: Path) -> dict[str, Path]:
    """The packed folders in a folder by name, or itself by ""; raises DataError when there is none."""
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder")
    if any(folder.glob(PATTERN)):
        return {"": folder}
    found = {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{PATTERN}"))}
    if not found:
        raise DataError(f"{folder}: no {PATTERN} in it, nor in a folder in it; `hfassets distill tokenize` makes them")
    return found


def teach_folder(
    source: Path,
    logits: Callable[[str, PackedRows], Logits],
    run: StageRun,
    progress: ProgressCallback = silent,
) -> TaughtFolder:
    """Have each split told. `logits`: what is asked for of a split's rows.

    Raises UsageError when torch is not installed, DataError when there is nothing to read, or no split that the teacher
    can read; what goes wrong with one of them is in the result.
    """
    check_torch()
    result = TaughtFolder()
    asked: dict[str, tuple[Logits, Stage]] = {}
    for split, folder in packed_splits(source).items():
        try:
            wanted = logits(split, packed_rows(folder, run.state, progress))
            asked[split] = wanted, wanted.stage()
        except HfassetsError as error:
            result.failures.append((split or str(folder), str(error)))
    if not asked:
        # What is wrong with all of them is mostly one thing: another teacher.
        raise DataError(result.failures[0][1])
    for split, (wanted, stage) in asked.items():
        try:
            result.made[split] = _make(wanted, stage, run, progress)
        except HfassetsError as error:
            result.failures.append((split or str(wanted.rows.folder), str(error)))
    return result


def teach(wanted: Logits, run: StageRun, progress: ProgressCallback = silent) -> StageOutput:
    """Have the rows of one folder told; see Logits.stage for what is refused."""
    return _make(wanted, wanted.stage(), run, progress)


def _make(wanted: Logits, stage: Stage, run: StageRun, progress: ProgressCallback) -> StageOutput:
    if wanted.too_long:
        progress(Note(wanted.too_long, "warning"))
    return make_shards(stage, run, progress)
