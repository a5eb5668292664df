"""The growing file of a source: rows read, chosen, written, and safely on disk from time to time.

Invariant: what the next row is follows from the checkpoint and the source alone, so it does not matter how often the
work was interrupted between.
"""

from __future__ import annotations

import copy
import hashlib
import os
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from hfassets.distillation.account import DUPLICATE, DUPLICATE_IN_MIX, LONG_PROMPT, OTHER_BATCH
from hfassets.distillation.candidates import Candidate, Outcome, Refused
from hfassets.distillation.checkpoint import Checkpoint, write_checkpoint
from hfassets.distillation.contents import ContentStore
from hfassets.distillation.curriculum import PromptGauge
from hfassets.distillation.digests import DigestSet
from hfassets.distillation.looked import TEXT, Looked, digests_of, numbered
from hfassets.distillation.looking import WORTH_IT, Found, LookingProcesses, Outcomes, Recipe, look_at_all, prompts_of
from hfassets.distillation.mapping import RowRefusedError
from hfassets.distillation.request import SourceRequest
from hfassets.distillation.rows import WHOLE, Block, Cursor, SourceRows
from hfassets.errors import DataError
from hfassets.hub.session import HubClient
from hfassets.progress import Note, Progress, ProgressCallback
from hfassets.sources.packed import PackedGroup, PackedLines
from hfassets.storage.ahead import reading_ahead
from hfassets.storage.behind import WriteBehind

_CHECK_BYTES = 32 << 20
_CHECK_S = 15.0
_FETCHED_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Tools:
    """What chooses rows. `gauge`: tells short prompts, None = any may come first. `most`: tells those that may come."""

    client: HubClient
    request: SourceRequest
    progress: ProgressCallback
    recipe: Recipe
    gauge: PromptGauge | None
    most: PromptGauge | None

    @property
    def checkpoint_file(self) -> Path:
        """Where the place in the work is written down."""
        return self.request.work / "checkpoint.json"


class Growing:
    """The growing file, with what has to be known to choose its next row."""

    def __init__(self, tools: Tools, rows: SourceRows, begin: Checkpoint, safe: Checkpoint | None) -> None:
        self.tools = tools
        self.request = tools.request
        self.selection = tools.recipe.selection()
        self.rows = rows
        self.state = begin
        self.safe = safe
        self.account = copy.deepcopy(begin.account)
        self.count = begin.rows
        self.file_now: tuple[int, int] | None = None
        self.told = 0.0
        self.before = tools.recipe.lines.before
        self.behind_number = tools.recipe.lines.behind

    def __enter__(self) -> Growing:
        request = self.request
        with ExitStack() as stack:
            limits = request.work / "digests"
            self.mine = stack.enter_context(DigestSet(limits))
            self.others = stack.enter_context(DigestSet(limits))
            self.store: ContentStore | None = None
            if request.contents is not None:
                retries = self.tools.client.options.max_retries
                self.store = stack.enter_context(ContentStore(request.contents, retries))
            request.partial.touch()
            self.file = stack.enter_context(request.partial.open("r+b", buffering=0))
            self._restore()
            for path, _ in request.earlier:
                with path.open("rb") as lines:
                    self.others.add_all(map(self._digest, lines))
            self.behind = WriteBehind(self.file.fileno())
            self.checked = (self.state.size, time.monotonic())
            self.processes: LookingProcesses | None = None
            if self._many_hands:
                self.processes = stack.enter_context(LookingProcesses(self.tools.recipe, request.processes))
            self._exits = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._exits.close()

    def run(self) -> Checkpoint:
        """Read and write until there are enough rows, or no more."""
        while self.state.rows < self.state.quota:
            if not self.state.exhausted:
                self._read_on()
            elif self.state.stretches:
                self._come_back()
            else:
                break
        self._check_shortfall()
        known = {one["path"]: one for one in self.state.sources if one["read"] == WHOLE}
        used = tuple(known.get(one["path"], one) for one in self.rows.used(self.state.cursor))
        self.state = replace(self.state, sources=used)
        self._save(complete=True)
        return self.state

    def _restore(self) -> None:
        """Read what is there again: it must be what was written, and its texts may not come a second time."""
        self.hash = hashlib.sha256()
        self.file.truncate(self.state.size)
        with self.request.partial.open("rb") as lines:
            self.mine.add_all(self._digest(line) for line in self._hashed(lines))
        if self.state.size and self.hash.hexdigest() != self.state.sha256:
            self.tools.progress(
                Note(
                    f"{self.request.partial.name} is not what was written; starting {self.request.key} over", "warning"
                )
            )
            self.state = Checkpoint(self.request.stream, self.state.steps[-1:], Cursor.start(len(self.request.parts)))
            self.account = copy.deepcopy(self.state.account)
            self.count = 0
            self.safe = None
            self.mine.clear()
            self._restore()
        self.file.seek(0, os.SEEK_END)

    def _hashed(self, lines: Any) -> Any:
        for line in lines:
            self.hash.update(line)
            yield line

    def _digest(self, line: bytes) -> bytes:
        """Of the text of a line as it was written: quotes within it are escaped, so the first bare one ends it."""
        end = line.find(b'","id":"', len(TEXT))
        return self.selection.digest(line[len(TEXT) : end + 1])

    def _read_on(self) -> None:
        """The source, from where it was left to its end or until there are enough rows."""
        with closing(self._looked_at(self.state.cursor)) as blocks:
            for block, outcomes in blocks:
                self._mark_file(block)
                if isinstance(outcomes, Looked):
                    self._take_looked(block, outcomes)
                else:
                    self._take_portions(block, outcomes)
                if self.count == self.state.quota:
                    return
        self.state = replace(self.state, exhausted=True)
        self._end_stretch(None)

    @property
    def _many_hands(self) -> bool:
        """Whether other processes look at the rows: for many rows of one part that are all there to be seen."""
        missing = self.request.quota - self.state.rows
        return self.request.processes > 1 and missing >= WORTH_IT and len(self.request.parts) == 1 and not self.store

    def _looked_at(self, begin: Cursor) -> Generator[tuple[Block, Found | None], None, None]:
        """Blocks from a cursor on, with their outcomes where other processes looked at them."""
        with closing(self.rows.blocks(begin, packed=self.processes is not None)) as blocks:
            if self.processes is None:
                yield from ((block, None) for block in blocks)
            else:
                with reading_ahead(blocks, 2) as ahead, closing(self.processes.over(ahead, self.rows)) as found:
                    yield from found

    def _take_portions(self, block: Block, outcomes: Outcomes | None) -> None:
        for start, stop in self._portions(block):
            self._take_from(block, start, outcomes or self._look_at(block, start, stop))
            if self.count == self.state.quota:
                return

    def _take_from(self, block: Block, start: int, found: Outcomes) -> None:
        outcomes = self._known(found)
        short = self._short(outcomes) if self._choosing else []
        lines: list[bytes] = []
        last = -1
        for place, outcome in enumerate(outcomes):
            if self.count == self.state.quota:
                break
            if outcome is not None:
                self.account.read += 1
                choosing = self._choosing
                if choosing:
                    self._begin_stretch(self._behind(block, start, last))
                if choosing and isinstance(outcome, Candidate) and not short[place]:
                    self.account.passed_over += 1
                else:
                    self._take(outcome, block, start + place, lines)
                if choosing and not self._choosing:
                    self._end_stretch(block.cursor(start + place))
            last = place
        self.state = replace(self.state, cursor=self._behind(block, start, last))
        self._write(b"".join(lines))

    def _take_looked(self, block: Block, looked: Looked) -> None:
        """As `_take_from`, all rows at once; nobody chooses by prompts."""
        digests = digests_of(looked)
        self.mine.look_up(digests)
        self.others.look_up(digests)
        again = self._again_all(digests, self.state.quota - self.count)
        kept = np.zeros(len(digests), dtype=bool)
        kept[: len(again)] = [one is None for one in again]
        written = int(np.count_nonzero(kept))
        places = looked.places.tolist()
        enough = self.count + written == self.state.quota
        last = places[len(again) - 1] if enough else looked.rows - 1
        refused = [found for found in looked.refused if found[0] <= last]
        refused += ((place, one) for place, one in zip(places, again, strict=False) if one is not None)
        for place, one in sorted(refused, key=itemgetter(0)):
            self.account.refuse(one, self.rows.where(block.origin(place)))
        self.account.read += written + len(refused)
        self.account.write_all(looked.characters[kept], looked.folded[kept])
        data = numbered(looked, kept, self.count)
        self.count += written
        self.state = replace(self.state, cursor=self._behind(block, 0, last))
        self._write(data)

    def _behind(self, block: Block, start: int, place: int) -> Cursor:
        """The cursor behind a row of a portion; before its first one, where the portion began."""
        return self.state.cursor if place < 0 else block.cursor(start + place)

    def _come_back(self) -> None:
        """The rows that were passed over, in their order."""
        begin, end = self.state.stretches[0]
        with closing(self._looked_at(begin)) as blocks:
            for block, outcomes in blocks:
                if isinstance(outcomes, Looked):
                    raise AssertionError  # whoever passes rows over asks for their prompts
                for start, stop in self._portions(block):
                    if self._take_passed_over(block, start, outcomes or self._look_at(block, start, stop), end):
                        return
        self.state = replace(self.state, stretches=self.state.stretches[1:])

    def _take_passed_over(self, block: Block, start: int, found: Outcomes, end: Cursor | None) -> bool:
        """True when the stretch is at its end, or there are enough rows."""
        outcomes = self._known(found)
        short = self._short(outcomes)
        lines: list[bytes] = []
        rest = self.state.stretches[1:]
        for place, outcome in enumerate(outcomes):
            if isinstance(outcome, Candidate) and not short[place]:
                self.account.passed_over -= 1
                self._take(outcome, block, start + place, lines)
            behind = block.cursor(start + place)
            over = end is not None and behind == end
            self.state = replace(self.state, stretches=rest if over else ((behind, end), *rest))
            if over or self.count == self.state.quota:
                self._write(b"".join(lines))
                return True
        self._write(b"".join(lines))
        return False

    @property
    def _choosing(self) -> bool:
        """Whether only short prompts are taken now."""
        return self.tools.gauge is not None and self.count < self.state.short_until

    def _begin_stretch(self, cursor: Cursor) -> None:
        stretches = self.state.stretches
        if not stretches or stretches[-1][1] is not None:
            self.state = replace(self.state, stretches=(*stretches, (cursor, None)))

    def _end_stretch(self, cursor: Cursor | None) -> None:
        stretches = self.state.stretches
        if stretches and stretches[-1][1] is None:
            self.state = replace(self.state, stretches=(*stretches[:-1], (stretches[-1][0], cursor)))

    def _portions(self, block: Block) -> Sequence[tuple[int, int]]:
        """A block at once; where each row costs a request, not many more rows than may still be needed."""
        size = len(block.rows)
        if self.store is not None:
            size = min(_FETCHED_AT_ONCE, max(16, 2 * (self.state.quota - self.state.rows)))
        return [(start, min(start + size, len(block.rows))) for start in range(0, len(block.rows), max(1, size))]

    def _look_at(self, block: Block, start: int, stop: int) -> Outcomes:
        rows = [] if isinstance(block.rows, PackedGroup | PackedLines) else list(block.rows[start:stop])
        return look_at_all(self.selection, rows if self.store is None else self._with_contents(rows))

    def _known(self, found: Outcomes) -> Outcomes:
        """The outcomes but for prompts that are too long, their digests looked up."""
        if self.tools.most is not None:
            fits = self.tools.most.short(prompts_of(found))
            found = [
                one if fit or not isinstance(one, Candidate) else Refused(LONG_PROMPT)
                for one, fit in zip(found, fits, strict=True)
            ]
        digests = [one.digest for one in found if isinstance(one, Candidate)]
        self.mine.look_up(digests)
        self.others.look_up(digests)
        return found

    def _with_contents(self, rows: list[Any]) -> list[Any]:
        """Nothing is fetched for a row that its licence or its slice rules out."""
        kept = [self.selection.licensed(row) or self._sliced(row) or row for row in rows]
        wanted = [place for place, row in enumerate(kept) if not isinstance(row, Refused)]
        store = self.store
        filled = store.fill([kept[place] for place in wanted]) if store is not None else []
        for place, row in zip(wanted, filled, strict=True):
            kept[place] = Refused(row.reason, str(row)) if isinstance(row, RowRefusedError) else row
        return kept

    def _sliced(self, row: Any) -> Refused | None:
        blob = row.get("blob_id") if isinstance(row, dict) else None
        if self.request.batch is None or not isinstance(blob, str):
            return None
        return self._of_other_batch(self.selection.digest(blob.encode()))

    def _of_other_batch(self, digest: bytes) -> Refused | None:
        if self.request.batch is None:
            return None
        index, count = self.request.batch
        return None if int.from_bytes(digest[:8], "big") % count == index else Refused(OTHER_BATCH)

    def _short(self, outcomes: Sequence[Outcome]) -> list[bool]:
        gauge = self.tools.gauge
        return gauge.short(prompts_of(list(outcomes))) if gauge is not None else [True] * len(outcomes)

    def _take(self, outcome: Candidate | Refused, block: Block, place: int, lines: list[bytes]) -> None:
        if isinstance(outcome, Candidate):
            refused = self._again(outcome.digest)
            if refused is None:
                number = b"%08d" % self.count
                text, metadata = outcome.text, outcome.metadata
                lines += (TEXT, text, self.before, number, self.behind_number, metadata, b"}\n")
                self.account.write(outcome.characters, folded=outcome.folded)
                self.count += 1
                return
            outcome = refused
        self.account.refuse(outcome, self.rows.where(block.origin(place)))

    def _again(self, digest: bytes) -> Refused | None:
        """Refused when the text is another slice's, or has come before."""
        if self.store is None and (other := self._of_other_batch(digest)) is not None:
            return other
        if self.request.dedup is None:
            return None
        if not self.others.is_new(digest):
            return Refused(DUPLICATE_IN_MIX)
        return None if self.mine.add(digest) else Refused(DUPLICATE)

    def _again_all(self, digests: Sequence[bytes], most: int) -> list[Refused | None]:
        """`_again` of one after the other until `most` may be written."""
        if self.request.batch is None and self.request.dedup is not None and not len(self.others):
            return [None if new else Refused(DUPLICATE) for new in self.mine.add_some(digests, most)]
        found: list[Refused | None] = []
        for digest in digests:
            found.append(self._again(digest))
            most -= found[-1] is None
            if not most:
                break
        return found

    def _write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[self.file.write(view) :]
        self.hash.update(data)
        self.state = replace(self.state, size=self.state.size + len(data), rows=self.count)
        self.behind.grown(self.state.size)
        now = time.monotonic()
        if now - self.told > 0.2:
            self.told = now
            self.tools.progress(Progress(self.request.source, self.state.rows, self.state.quota, "rows"))
        if self.state.size - self.checked[0] >= _CHECK_BYTES or now - self.checked[1] >= _CHECK_S:
            self._save()

    def _mark_file(self, block: Block) -> None:
        """Remember the place before a source file: it may turn out to be damaged when it has been read."""
        if len(self.request.parts) == 1:
            file = block.origin(0)[:2]
            if self.file_now is not None and file != self.file_now:
                self._save(make_safe=True)
            self.file_now = file

    def _save(self, *, complete: bool = False, make_safe: bool = False) -> None:
        os.fsync(self.file.fileno())
        self.state = replace(
            self.state, sha256=self.hash.hexdigest(), account=copy.deepcopy(self.account), complete=complete
        )
        if make_safe:
            self.safe = self.state
        write_checkpoint(self.tools.checkpoint_file, self.state, self.safe)
        self.checked = (self.state.size, time.monotonic())
        self.tools.progress(Progress(self.request.source, self.state.rows, self.state.quota, "rows"))

    def _check_shortfall(self) -> None:
        if self.state.rows < self.state.quota:
            request, account = self.request, self.account
            line = (
                f"{request.key}: {self.state.rows:,} rows of the {request.quota:,} asked for; {request.repo.repo_id} "
                f"has no more ({account.read:,} read, {sum(account.refused.values()):,} not used)"
            )
            if request.on_shortfall == "fail":
                raise DataError(f"{line}; ask for fewer, or accept it by on_shortfall: report")
            self.tools.progress(Note(line, "warning"))
