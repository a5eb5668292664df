"""One file of a mix, made: rows of a source in order, chosen, written, published.

Invariant: the file is a function of the request (and, with a curriculum, of the sizes that it was asked for in turn). A
run that is killed goes on behind the last row that is safely on disk; a longer file begins with the shorter one.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import replace

from hfassets.distillation.checkpoint import Checkpoint, read_checkpoint
from hfassets.distillation.curriculum import PromptGauge
from hfassets.distillation.grow import Growing, Tools
from hfassets.distillation.looked import Lines
from hfassets.distillation.looking import Recipe
from hfassets.distillation.output import SourceFile, find_source_file, publish, source_file
from hfassets.distillation.request import STAGE, SourceRequest
from hfassets.distillation.rows import Cursor, SourceRows
from hfassets.errors import DataError, IntegrityError
from hfassets.hub.session import HubClient
from hfassets.progress import Note, ProgressCallback, silent
from hfassets.sources.files import DamagedSourceError
from hfassets.storage.ahead import quick_turns
from hfassets.storage.lease import lease
from hfassets.storage.manifest import read_manifest


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
        curriculum = request.curriculum
        gauge = most = None
        if curriculum is not None:
            gauge = PromptGauge(curriculum, curriculum.max_tokens)
            most = None if curriculum.then is None else PromptGauge(curriculum, curriculum.then)
        method = request.dedup or "xxh3_128"
        lines = Lines(request.source, request.category)
        recipe = Recipe(request.mapper, request.filters, method, request.notes, gauge is not None, lines)
        self.tools = Tools(client, request, progress, recipe, gauge, most)

    def run(self) -> SourceFile:
        """Make what is missing and publish the whole."""
        request = self.request
        request.work.mkdir(parents=True, exist_ok=True)
        begin, safe = self._begin()
        if not begin.complete:
            rows = SourceRows(self.tools.client, request, self.progress)
            rows.prepare()
            begin = self._grow(rows, begin, safe)
        manifest = publish(request, begin, self.started)
        shutil.rmtree(request.work, ignore_errors=True)
        return replace(source_file(request, manifest), reused=False, seconds=time.monotonic() - self.started)

    def _begin(self) -> tuple[Checkpoint, Checkpoint | None]:
        """Where to go on: at the last checkpoint, at the end of a shorter file, or at the beginning."""
        request = self.request
        fresh = Checkpoint(request.stream, (request.quota,), Cursor.start(len(request.parts)))
        stored = None if request.force else read_checkpoint(self.tools.checkpoint_file)
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
        if request.path.exists() and not request.force:
            self.progress(Note(f"{request.path} was made of other rows than are asked for now; making it anew"))
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
                with Growing(self.tools, rows, begin, safe) as growing:
                    return growing.run()
            except DamagedSourceError as error:
                if rows.damaged is None or last_try:
                    raise
                rows.discard(rows.damaged)
                self.progress(Note(f"{error}; fetching it again", "warning"))
                stored = read_checkpoint(self.tools.checkpoint_file)
                back = stored[1] if stored is not None else None
                begin = back or Checkpoint(request.stream, begin.steps[-1:], Cursor.start(len(request.parts)))
                safe = None
        raise AssertionError  # the second try returns or raises
