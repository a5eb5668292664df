"""Looking at rows: blocks in their order, each with what its rows become, here or in processes of their own.

Invariant: what comes out does not depend on where it was looked at.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfassets.distillation.candidates import Candidate, Filters, Outcome, Refused, Selection
from hfassets.distillation.digests import Method, digest_of
from hfassets.distillation.looked import Lines, Looked, pack
from hfassets.distillation.registry import load_mapper
from hfassets.errors import DataError
from hfassets.parts.calls import Answer, CallProcesses, ProcessKilledError
from hfassets.sources.packed import PackedGroup, PackedLines, PackedRows, packed_lines

if TYPE_CHECKING:
    from hfassets.distillation.rows import Block, SourceRows

WORTH_IT = 20_000
"""Fewer rows than so many are read before a process has begun."""
_WAITING = 3
"""Blocks on their way for each process: one that it works on, one that waits, and one that is being written."""

Outcomes = list[Outcome]
Found = Looked | Outcomes


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a Selection is made of, and the lines of a source, fit for another process."""

    mapper: str
    filters: Filters
    method: Method
    notes: str | None
    prompts: bool
    lines: Lines

    def selection(self) -> Selection:
        """The selection; raises UsageError for a mapper that is not there."""
        notes = None if self.notes is None else load_mapper(self.notes)
        return Selection(load_mapper(self.mapper), self.filters, digest_of(self.method), notes, self.prompts)


class LookingProcesses:
    """Processes that look at packed rows; use as a context manager."""

    def __init__(self, recipe: Recipe, processes: int) -> None:
        self._recipe = recipe
        self._selection = recipe.selection()
        self._processes = processes

    def __enter__(self) -> LookingProcesses:
        self._calls = CallProcesses(self._processes)
        # They begin while the first rows are on their way.
        for _ in range(self._processes):
            self._calls.submit(_looked_at, self._recipe, packed_lines([])).add_done_callback(_released)
        return self

    def __exit__(self, *error: object) -> None:
        # Rows beyond the last one that is needed may still be in work: they are nobody's.
        self._calls.__exit__(*error)

    def over(self, blocks: Iterable[Block], rows: SourceRows) -> Generator[tuple[Block, Found], None, None]:
        """Each block with its outcomes, packed unless somebody asks for prompts; they are good until the next block's.

        Raises DataError for rows that cannot be read, or when a process was killed.
        """
        waiting: deque[tuple[Block, Future[Answer]]] = deque()
        for block in blocks:
            waiting.append((block, self._submitted(block)))
            if len(waiting) == self._processes * _WAITING:
                yield from self._ended(*waiting.popleft(), rows)
        for first, future in waiting:
            yield from self._ended(first, future, rows)

    def _submitted(self, block: Block) -> Future[Answer]:
        packed = block.rows
        if isinstance(packed, PackedGroup | PackedLines):
            return self._calls.submit(_looked_at, self._recipe, packed)
        here: Future[Answer] = Future()
        here.set_result(Answer(look_at_all(self._selection, packed), lambda: None))
        return here

    def _ended(
        self, block: Block, future: Future[Answer], rows: SourceRows
    ) -> Generator[tuple[Block, Found], None, None]:
        try:
            answer = future.result()
        except ProcessKilledError:
            raise DataError(
                "a process that looked at rows was killed (out of memory?); run again, it goes on where it was"
            ) from None
        except DataError:
            rows.suspect(block.origin(0))
            raise
        yield block, answer.result
        answer.release()


def _released(future: Future[Answer]) -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().release()


_selection: tuple[Recipe, Selection] | None = None


def _looked_at(recipe: Recipe, packed: PackedRows) -> Found:
    """Worker: the outcomes of a block."""
    global _selection
    if _selection is None or _selection[0] != recipe:
        _selection = recipe, recipe.selection()
    selection = _selection[1]
    portions = (look_at_all(selection, rows) for rows in packed.unpacked())
    return [one for outcomes in portions for one in outcomes] if recipe.prompts else pack(portions, recipe.lines)


def look_at_all(selection: Selection, rows: Iterable[object]) -> Outcomes:
    """The outcomes of rows; those that are refused already stay what they are."""
    if selection.filters.license_column is not None:
        rows = [selection.licensed(row) or row for row in rows]
    return [row if isinstance(row, Refused) else selection.look_at(row) for row in rows]


def prompts_of(outcomes: Outcomes) -> list[str]:
    """The prompts of candidates, "" for others."""
    return [one.prompt if isinstance(one, Candidate) else "" for one in outcomes]
