"""One file of a mix, made: rows of a source in order, chosen, written, published.

Invariant: the file is a function of the request (and, with a curriculum, of the sizes that it was asked for in turn). A
run that is killed goes on behind the last row that is safely on disk; a longer file begins with the shorter one.
"""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

import orjson

from hfassets.distillation.account import DUPLICATE, DUPLICATE_IN_MIX, LONG_PROMPT, OTHER_BATCH
from hfassets.distillation.candidates import Candidate, Outcome, Refused, Selection
from hfassets.distillation.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from hfassets.distillation.contents import ContentStore
from hfassets.distillation.curriculum import PromptGauge
from hfassets.distillation.digests import DigestSet, digest_of
from hfassets.distillation.mapping import RowRefusedError
from hfassets.distillation.output import SourceFile, find_source_file, publish, source_file
from hfassets.distillation.registry import load_mapper
from hfassets.distillation.request import STAGE, SourceRequest
from hfassets.distillation.rows import Block, Cursor, SourceRows
from hfassets.errors import DataError, IntegrityError
from hfassets.hub.session import HubClient
from hfassets.progress import Note, Progress, ProgressCallback, silent
from hfassets.sources.files import DamagedSourceError
from hfassets.storage.ahead import quick_turns
from hfassets.storage.behind import WriteBehind
from hfassets.storage.lease import lease
from hfassets.storage.manifest import read_manifest

_CHECK_BYTES = 32 << 20
_CHECK_S = 15.0
_FETCHED_AT_ONCE = 256
_LONGEST_LINE = 1 << 20


def make_source_file(client: HubClient, request: SourceRequest, progress: ProgressCallback = silent) -> SourceFile:
    """Bring the file to hold as many rows as are asked for; what is there is kept.

    Raises HubError, DataError (rows that cannot be read, a foreign file in the way, too few rows if that is a failure),
    IntegrityError, LeaseHeldError.
    """
    if not request.force and (found := find_source_file(request)) is not None:
        return found
    request.folder.mkdir(parents=True, exist_ok=True)
    with lease(
        request.state.lease(f"{STAGE}:{request.path.absolute()}"),
        str(request.path),
        run_id=request.run_id,
        wait=request.lease_wait,
        on_wait=lambda line: progress(Note(line)),
    ):
        if not request.force and (found := find_source_file(request)) is not None:
            return found
        with quick_turns():
            return _Making(client, request, progress).run()


class _Making:
    """One run over one file, under its lease."""

    def __init__(self, client: HubClient, request: SourceRequest, progress: ProgressCallback) -> None:
        self.client = client
        self.request = request
        self.progress = progress
        self.started = time.monotonic()
        self.checkpoint_file = request.work / "checkpoint.json"
        digest = digest_of(request.dedup or "xxh3_128")
        self.selection = Selection(
            load_mapper(request.mapper),
            request.filters,
            digest,
            None if request.notes is None else load_mapper(request.notes),
        )
        curriculum = request.curriculum
        self.gauge = None if curriculum is None else PromptGauge(curriculum, curriculum.max_tokens)
        self.most: PromptGauge | None = None
        if curriculum is not None and curriculum.then is not None:
            self.most = PromptGauge(curriculum, curriculum.then)

    def run(self) -> SourceFile:
        """Make what is missing and publish the whole."""
        request = self.request
        request.work.mkdir(parents=True, exist_ok=True)
        begin, safe = self._begin()
        if not begin.complete:
            rows = SourceRows(self.client, request, self.progress)
            rows.prepare()
            begin = self._grow(rows, begin, safe)
        manifest = publish(request, begin, self.started)
        shutil.rmtree(request.work, ignore_errors=True)
        return replace(source_file(request, manifest), reused=False, seconds=time.monotonic() - self.started)

    def _begin(self) -> tuple[Checkpoint, Checkpoint | None]:
        """Where to go on: at the last checkpoint, at the end of a shorter file, or at the beginning."""
        request = self.request
        fresh = Checkpoint(request.stream, (request.quota,), Cursor.start(len(request.parts)))
        stored = None if request.force else read_checkpoint(self.checkpoint_file)
        if stored is not None and stored[0].stream == request.stream and stored[0].quota == request.quota:
            now, safe = stored
            if now.complete and not request.partial.exists() and request.path.exists():
                # Killed between the last two steps: the file has its name, and lacks its manifest.
                return now, safe
            if now.size == 0 or request.partial.exists():
                return now, safe
        earlier = None if request.force else self._earlier()
        if earlier is not None and earlier.rows <= request.quota:
            shutil.copyfile(request.path, request.partial)
            return earlier.grown(request.quota, keep_steps=request.curriculum is not None), None
        self._refuse_foreign()
        return fresh, None

    def _earlier(self) -> Checkpoint | None:
        """The end of the file that is there, if it has the same rows in the same order."""
        try:
            manifest = read_manifest(self.request.manifest_path)
        except IntegrityError:
            return None
        if manifest is None or manifest.stage != STAGE or not self.request.path.exists():
            return None
        end = Checkpoint.from_dict(manifest.details["end"])
        return end if end.stream == self.request.stream and end.quota < self.request.quota else None

    def _refuse_foreign(self) -> None:
        request = self.request
        if request.path.exists() and not request.manifest_path.exists() and not request.force:
            raise DataError(
                f"{request.path} is there already and was not written by hfassets; move it, choose another output_dir, "
                "or replace it by --force"
            )

    def _grow(self, rows: SourceRows, begin: Checkpoint, safe: Checkpoint | None) -> Checkpoint:
        request = self.request
        for last_try in (False, True):
            try:
                with _Growing(self, rows, begin, safe) as growing:
                    return growing.run()
            except DamagedSourceError as error:
                if rows.damaged is None or last_try:
                    raise
                rows.discard(rows.damaged)
                self.progress(Note(f"{error}; fetching it again", "warning"))
                stored = read_checkpoint(self.checkpoint_file)
                back = stored[1] if stored is not None else None
                begin = back or Checkpoint(request.stream, begin.steps[-1:], Cursor.start(len(request.parts)))
                safe = None
        raise AssertionError  # the second try returns or raises


class _Growing:
    """The growing file, with what has to be known to choose its next row."""

    def __init__(self, making: _Making, rows: SourceRows, begin: Checkpoint, safe: Checkpoint | None) -> None:
        self.making = making
        self.request = making.request
        self.rows = rows
        self.state = begin
        self.safe = safe
        self.account = copy.deepcopy(begin.account)
        self.file_now: tuple[int, int] | None = None
        self.told = 0.0
        self.head = b'","source":%b,"category":%b,"metadata":' % (
            orjson.dumps(self.request.source),
            orjson.dumps(self.request.category),
        )

    def __enter__(self) -> _Growing:
        request = self.request
        with ExitStack() as stack:
            limits = request.work / "digests"
            self.mine = stack.enter_context(DigestSet(limits))
            self.others = stack.enter_context(DigestSet(limits))
            self.store: ContentStore | None = None
            if request.contents is not None:
                retries = self.making.client.options.max_retries
                self.store = stack.enter_context(ContentStore(request.contents, retries))
            request.partial.touch()
            self.file = stack.enter_context(request.partial.open("r+b", buffering=0))
            self._restore()
            for path, _ in request.earlier:
                with path.open("rb") as lines:
                    self.others.add_all(map(self._digest, lines))
            self.behind = WriteBehind(self.file.fileno())
            self.checked = (self.state.size, time.monotonic())
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
        self._save(complete=True)
        return self.state

    def _restore(self) -> None:
        """Read what is there again: it must be what was written, and its texts may not come a second time."""
        self.hash = hashlib.sha256()
        self.file.truncate(self.state.size)
        with self.request.partial.open("rb") as lines:
            self.mine.add_all(self._digest(line) for line in self._hashed(lines))
        if self.state.size and self.hash.hexdigest() != self.state.sha256:
            self.making.progress(
                Note(
                    f"{self.request.partial.name} is not what was written; starting {self.request.key} over", "warning"
                )
            )
            self.state = Checkpoint(self.request.stream, self.state.steps[-1:], Cursor.start(len(self.request.parts)))
            self.account = copy.deepcopy(self.state.account)
            self.safe = None
            self.mine.clear()
            self._restore()
        self.file.seek(0, os.SEEK_END)

    def _hashed(self, lines: Any) -> Any:
        for line in lines:
            self.hash.update(line)
            yield line

    def _digest(self, line: bytes) -> bytes:
        try:
            return self.making.selection.digest(orjson.loads(line)["text"].encode())
        except (orjson.JSONDecodeError, KeyError):
            return b"\0" * 16

    def _read_on(self) -> None:
        """The source, from where it was left to its end or until there are enough rows."""
        with closing(self.rows.blocks(self.state.cursor)) as blocks:
            for block in blocks:
                self._mark_file(block)
                for start, stop in self._portions(block):
                    self._take_from(block, start, stop)
                    if self.state.rows == self.state.quota:
                        return
        self.state = replace(self.state, exhausted=True)
        self._end_stretch(None)

    def _take_from(self, block: Block, start: int, stop: int) -> None:
        outcomes = self._outcomes(block, start, stop)
        short = self._short(outcomes) if self._choosing else []
        lines: list[bytes] = []
        behind = self.state.cursor
        for place, outcome in enumerate(outcomes):
            if self.state.rows == self.state.quota:
                break
            if outcome is not None:
                self.account.read += 1
                choosing = self._choosing
                if choosing:
                    self._begin_stretch(behind)
                if choosing and isinstance(outcome, Candidate) and not short[place]:
                    self.account.passed_over += 1
                else:
                    self._take(outcome, block, start + place, lines)
                behind = block.cursor(start + place)
                if choosing and not self._choosing:
                    self._end_stretch(behind)
            else:
                behind = block.cursor(start + place)
        self.state = replace(self.state, cursor=behind)
        self._write(lines)

    def _come_back(self) -> None:
        """The rows that were passed over, in their order."""
        begin, end = self.state.stretches[0]
        with closing(self.rows.blocks(begin)) as blocks:
            for block in blocks:
                for start, stop in self._portions(block):
                    if self._take_passed_over(block, start, stop, end):
                        return
        self.state = replace(self.state, stretches=self.state.stretches[1:])

    def _take_passed_over(self, block: Block, start: int, stop: int, end: Cursor | None) -> bool:
        """True when the stretch is at its end, or there are enough rows."""
        outcomes = self._outcomes(block, start, stop)
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
            if over or self.state.rows == self.state.quota:
                self._write(lines)
                return True
        self._write(lines)
        return False

    @property
    def _choosing(self) -> bool:
        """Whether only short prompts are taken now."""
        return self.making.gauge is not None and self.state.rows < self.state.short_until

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

    def _outcomes(self, block: Block, start: int, stop: int) -> list[Outcome]:
        selection = self.making.selection
        rows: list[Any] = list(block.rows[start:stop])
        if self.store is not None:
            rows = self._with_contents(rows)
        elif selection.filters.license_column is not None:
            rows = [selection.licensed(row) or row for row in rows]
        found = [row if isinstance(row, Refused) else selection.look_at(row) for row in rows]
        if self.making.most is not None:
            fits = self.making.most.short([one.prompt if isinstance(one, Candidate) else "" for one in found])
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
        kept = [self.making.selection.licensed(row) or self._sliced(row) or row for row in rows]
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
        return self._of_other_batch(self.making.selection.digest(blob.encode()))

    def _of_other_batch(self, digest: bytes) -> Refused | None:
        if self.request.batch is None:
            return None
        index, count = self.request.batch
        return None if int.from_bytes(digest[:8], "big") % count == index else Refused(OTHER_BATCH)

    def _short(self, outcomes: Sequence[Outcome]) -> list[bool]:
        gauge = self.making.gauge
        prompts = [one.prompt if isinstance(one, Candidate) else "" for one in outcomes]
        return gauge.short(prompts) if gauge is not None else [True] * len(prompts)

    def _take(self, outcome: Candidate | Refused, block: Block, place: int, lines: list[bytes]) -> None:
        if isinstance(outcome, Candidate):
            refused = self._again(outcome)
            if refused is None:
                number = b"%b_%08d" % (self.request.source.encode(), self.state.rows)
                lines.append(b'{"text":' + outcome.text + b',"id":"' + number + self.head + outcome.metadata + b"}\n")
                self.account.write(outcome.characters, folded=outcome.folded)
                self.state = replace(self.state, rows=self.state.rows + 1)
                return
            outcome = refused
        self.account.refuse(outcome, self.rows.where(block.origin(place)))

    def _again(self, candidate: Candidate) -> Refused | None:
        """Refused when the text is another slice's, or has come before."""
        if self.store is None and (other := self._of_other_batch(candidate.digest)) is not None:
            return other
        if self.request.dedup is None:
            return None
        if not self.others.is_new(candidate.digest):
            return Refused(DUPLICATE_IN_MIX)
        return None if self.mine.add(candidate.digest) else Refused(DUPLICATE)

    def _write(self, lines: list[bytes]) -> None:
        data = b"".join(lines)
        view = memoryview(data)
        while view:
            view = view[self.file.write(view) :]
        self.hash.update(data)
        self.state = replace(self.state, size=self.state.size + len(data))
        self.behind.grown(self.state.size)
        now = time.monotonic()
        if now - self.told > 0.2:
            self.told = now
            self.making.progress(Progress(self.request.source, self.state.rows, self.state.quota, "rows"))
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
        write_checkpoint(self.making.checkpoint_file, self.state, self.safe)
        self.checked = (self.state.size, time.monotonic())
        self.making.progress(Progress(self.request.source, self.state.rows, self.state.quota, "rows"))

    def _check_shortfall(self) -> None:
        if self.state.rows < self.state.quota:
            request, account = self.request, self.account
            line = (
                f"{request.key}: {self.state.rows:,} rows of the {request.quota:,} asked for; {request.repo.repo_id} "
                f"has no more ({account.read:,} read, {sum(account.refused.values()):,} not used)"
            )
            if request.on_shortfall == "fail":
                raise DataError(f"{line}; ask for fewer, or accept it by on_shortfall: report")
            self.making.progress(Note(line, "warning"))
