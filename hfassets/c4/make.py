"""A shard set, made: rows of the sources in order, cut into parts, each published as soon as it is whole.

Invariant: the parts are a function of the request alone. What an earlier run has finished is kept if it is still what
was written; only the rest is read from the sources again. The manifest is written last, when every part is in its
place, every source that was read to its end has been proven, and the account closes.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from hfassets.c4.account import Account
from hfassets.c4.cut import Shape, cut
from hfassets.c4.first_rows import FirstRows
from hfassets.c4.journal import Journal, Part, Position
from hfassets.c4.parallel import count_enough, write_in_parallel
from hfassets.c4.request import FORMAT, STAGE, ShardSetRequest
from hfassets.c4.rows import Batch
from hfassets.c4.sample import Sample
from hfassets.c4.shard_set import ShardSet, find_shard_set, shard_set
from hfassets.c4.target import NO_ROOM, Folder, Objects, checked, refuse_foreign, staging
from hfassets.c4.uploads import Uploads
from hfassets.errors import DataError, IntegrityError, SpaceError
from hfassets.hub.session import HubClient
from hfassets.progress import Note, Progress, ProgressCallback, silent
from hfassets.sources.files import DamagedSourceError
from hfassets.storage.ahead import quick_turns
from hfassets.storage.lease import lease
from hfassets.storage.manifest import Manifest, OutputFile, provenance, read_manifest, write_manifest
from hfassets.storage.s3 import S3Prefix


class RowSource(Protocol):
    """Where the rows of a shard set come from, in their order."""

    damaged: int | None

    def prepare(self) -> None:
        """Bring near what has to be there before the first row."""

    def rows(self, begin: Position) -> Generator[tuple[int, str, Batch], None, None]:
        """(file index, name, batch) from a place on."""
        ...

    def discard(self, index: int) -> None:
        """A file is not needed any more, or was damaged."""

    def used(self, end: Position) -> tuple[Mapping[str, Any], ...]:
        """The source files up to a place."""
        ...

    def tail(self) -> Account:
        """Lines that were read and belong to no part."""
        ...


def make_shard_set(
    client: HubClient, request: ShardSetRequest, progress: ProgressCallback = silent, *, thorough: bool = False
) -> ShardSet:
    """Bring the destination to hold the shard set; parts that are there and intact are kept.

    Whether parts are there is told by their sizes (in S3: and checksums) or, if `thorough`, by reading them.

    Raises HubError, S3Error, DataError (too few rows, sources that cannot be read, a foreign file in the way),
    IntegrityError, SpaceError, LeaseHeldError.
    """
    if not request.force and (found := find_shard_set(request, by_hash=thorough)) is not None:
        return found
    held = request.state.lease(f"{STAGE}:{request.place}/{request.stem}")
    with lease(
        held,
        f"{request.place}/{request.stem}",
        run_id=request.run_id,
        wait=request.lease_wait,
        on_wait=lambda line: progress(Note(line)),
    ):
        if not request.force and (found := find_shard_set(request, by_hash=thorough)) is not None:
            return found
        with _no_room_told(request), quick_turns():
            return _Making(client, request, progress, thorough=thorough).run()


@contextmanager
def _no_room_told(request: ShardSetRequest) -> Iterator[None]:
    """Say what a full disk means for the shard set."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        kept = len(Journal.read(request.work / "journal.jsonl", request.fingerprint).parts)
        raise SpaceError(
            f"{staging(request)}: no space left on the device; {kept} of {request.parts} parts are done and stay; "
            "make room and run again"
        ) from error


@dataclass(frozen=True, slots=True)
class _Gap:
    """Parts `first` to `stop` (excluded) are to be made, from `begin` of the sources on."""

    first: int
    stop: int
    begin: Position


def gaps(parts: Mapping[int, Part], total: int) -> list[_Gap]:
    """The runs of parts that are not there, each with the place where its rows begin."""
    found: list[_Gap] = []
    begin, index = Position(0, 0), 0
    for place in sorted(parts):
        if place > index:
            found.append(_Gap(index, place, begin))
        begin, index = parts[place].end, place + 1
    if index < total:
        found.append(_Gap(index, total, begin))
    return found


class _Making:
    """One run over one shard set, under its lease."""

    def __init__(
        self, client: HubClient, request: ShardSetRequest, progress: ProgressCallback, *, thorough: bool
    ) -> None:
        self.request = request
        self.thorough = thorough
        self.progress = progress
        self.started = time.monotonic()
        self.folder = Folder(staging(request), request.manifest_name)
        self.objects: Objects | None = None
        if isinstance(request.destination, S3Prefix):
            self.objects = Objects(request.destination, request.manifest_name)
        self.client = client
        self.tail = Account()
        self.made = 0
        self.rows = 0
        self.withdrawn = False
        self.folder.prepare(request.stem)
        earlier = self._earlier()
        request.work.mkdir(parents=True, exist_ok=True)
        ours = {name for manifest in earlier for name in _names(manifest)}
        self.journal = Journal.open(request.work / "journal.jsonl", request.fingerprint, ours)
        self.owned = set(self.journal.ours)
        for manifest in earlier:
            self._adopt(manifest)

    def run(self) -> ShardSet:
        """Make what is missing and publish the whole."""
        request = self.request
        if request.force:
            self.journal.drop(list(self.journal.parts))
        elif self.folder.path == request.local:
            # Else it is a hidden folder, ours alone; what is in the bucket is looked at when a part is put there.
            refuse_foreign(request, self.folder, self.owned)
        self._keep_what_is_there()
        kind = FirstRows if request.seed is None else Sample
        rows: RowSource = kind(self.client, request, self.progress)
        if gaps(self.journal.parts, request.parts):
            rows.prepare()
            self._make(rows)
        with Uploads() as uploads:
            self._upload_waiting(uploads)
        return self._publish(rows)

    def _earlier(self) -> list[Manifest]:
        """What this shard set has published before: under this name there, and, by its key, under another one."""
        found = [self.folder.manifest()]
        found += [self.objects.manifest()] if self.objects else []
        try:
            last = checked(read_manifest(self.request.state.manifest(STAGE, self.request.name)))
        except IntegrityError:
            last = None
        if last is not None and last.root == self.request.place:
            found.append(last)
        return [manifest for manifest in found if manifest is not None and manifest.stage == STAGE]

    def _adopt(self, manifest: Manifest) -> None:
        """Take the parts of an earlier manifest of the same shard set for done, where the journal knows nothing."""
        if manifest.fingerprint == self.request.fingerprint:
            for document in manifest.details["parts"]:
                part = Part.from_dict(document)
                if part.index not in self.journal.parts:
                    self.journal.add(part)
                    if self.objects:
                        self.journal.store(part.index, part.checksum)

    def _withdraw_manifest(self) -> None:
        """From now on the shard set is not whole: nobody should read it as if it were.

        Not before a first part of the new one is ready: a run that fails until then has harmed nothing.
        """
        if self.withdrawn:
            return
        self.withdrawn = True
        self.folder.remove(self.request.manifest_name)
        # Only if it is there: the first publication takes no right to delete.
        if self.objects and self.objects.manifest() is not None:
            self.objects.remove(self.request.manifest_name)

    def _keep_what_is_there(self) -> None:
        lost = []
        for part in list(self.journal.parts.values()):
            here = self.folder.has(part, by_hash=True)
            there = self.objects is not None and part.stored and self.objects.still_has(part, by_hash=self.thorough)
            stays_here = self.objects is None or self.request.keep_local
            if not (here or (there and not stays_here)):
                lost.append(part.index)
                self.progress(Note(f"{part.name} is gone or not what was written; making it again", "warning"))
            elif part.stored and not there:
                self.journal.unstore(part.index)
        if lost:
            self.journal.drop(lost)
        self.rows = sum(part.rows for part in self.journal.parts.values())

    def _make(self, rows: RowSource) -> None:
        for last_try in (False, True):
            try:
                with Uploads() as uploads:
                    self._upload_waiting(uploads)
                    if isinstance(rows, FirstRows) and self.request.in_parallel:
                        self._fill_in_parallel(rows, uploads)
                    for gap in gaps(self.journal.parts, self.request.parts):
                        if not self._fill(gap, rows, uploads):
                            break
                return
            except DamagedSourceError as error:
                bad = rows.damaged
                if bad is None or last_try:
                    raise
                rows.discard(bad)
                touched = [p for p in self.journal.parts.values() if p.begin.file <= bad <= p.end.file]
                self.owned |= {part.name for part in touched}
                self.journal.drop([part.index for part in touched])
                self.rows = sum(part.rows for part in self.journal.parts.values())
                self.progress(Note(f"{error}; fetching it again", "warning"))

    def _fill(self, gap: _Gap, rows: RowSource, uploads: Uploads) -> bool:
        """Make the parts of a gap; False when the sources end before."""
        request, done = self.request, gap.first
        shape = Shape(request.part_rows, request.part_name, request.compression)
        with closing(rows.rows(gap.begin)) as lines:
            for part, temporary in cut(lines, shape, self.folder.path, gap.first, gap.stop, gap.begin, self._tell):
                if not part.rows:
                    self.tail = part.account
                    return False
                self._take(part, temporary, uploads)
                for file in range(part.begin.file, part.end.file):
                    rows.discard(file)
                done += 1
        return done == gap.stop

    def _fill_in_parallel(self, rows: FirstRows, uploads: Uploads) -> None:
        """Make the parts that are missing by several processes; what they leave is for `_fill`."""
        found = rows.located()
        counted = count_enough(found, self.request, self.progress)
        folder = self.folder.path / f".{self.request.stem}.parts"
        for part, path in write_in_parallel(found, counted, self.request, self.journal.parts.keys(), folder):
            self._take(part, path, uploads)

    def _take(self, part: Part, path: Path, uploads: Uploads) -> None:
        """Publish a finished part."""
        if part.index > 0:
            # Only the first rows of the whole are shown.
            part = replace(part, account=replace(part.account, first=()))
        self._withdraw_manifest()
        self.journal.begin(part.name)
        self.folder.publish(path, part.name)
        self.journal.add(part)
        self.made += 1
        self.rows += part.rows
        self._tell(0)
        self._upload(part, uploads)

    def _upload_waiting(self, uploads: Uploads) -> None:
        for part in list(self.journal.parts.values()):
            if self.objects and not part.stored:
                self.made += 1
                self._upload(part, uploads)

    def _upload(self, part: Part, uploads: Uploads) -> None:
        if self.objects:
            uploads.submit(partial(self._put, self.objects, part))

    def _put(self, objects: Objects, part: Part) -> None:
        path = self.folder.path / part.name
        checksum = objects.put(path, part, replace=self.request.force or part.name in self.owned)
        self.journal.store(part.index, checksum)
        self.progress(Note(f"{part.name} is in {self.request.place}, proven by its SHA-256"))
        if not self.request.keep_local:
            path.unlink()

    def _tell(self, growing: int) -> None:
        self.progress(Progress(self.request.stem, self.rows + growing, self.request.num_samples, "rows"))

    def _publish(self, rows: RowSource) -> ShardSet:
        request = self.request
        parts = tuple(self.journal.parts[index] for index in sorted(self.journal.parts))
        account = rows.tail().merge(self.tail)
        for part in reversed(parts):
            account = part.account.merge(account)
        if account.close().rows < request.num_samples:
            kept_out = f" ({account.malformed:,} malformed lines kept out)" if account.malformed else ""
            line = (
                f"{request.repo.repo_id}, {request.split}: {account.rows:,} rows of the {request.num_samples:,} asked "
                f"for: the split has no more{kept_out}"
            )
            if request.on_shortfall == "fail":
                raise DataError(f"{line}; ask for fewer, or accept it by on_shortfall: report")
            self.progress(Note(line, "warning"))
        manifest = self._manifest(parts, account, rows)
        current = {part.name for part in parts}
        for name in sorted(self.journal.ours - current - {request.manifest_name}):
            self._remove_stale(name)
        if self.objects:
            self.objects.write_manifest(manifest)
        if not self.objects or request.keep_local:
            self.folder.write_manifest(manifest)
        write_manifest(request.state.manifest(STAGE, request.name), manifest)
        if self.objects and not request.keep_local:
            self.folder.clear()
        self.journal.remove()
        shutil.rmtree(request.work, ignore_errors=True)
        return replace(
            shard_set(request, manifest, made=self.made, seconds=time.monotonic() - self.started), reused=False
        )

    def _remove_stale(self, name: str) -> None:
        if self.objects:
            self.objects.remove(name)
        if not self.objects or self.request.keep_local:
            self.folder.remove(name)
        self.progress(Note(f"removed {name}, of an earlier publication"))

    def _manifest(self, parts: Sequence[Part], account: Account, rows: RowSource) -> Manifest:
        request = self.request
        end = parts[-1].end if parts else Position(0, 0)
        return Manifest(
            stage=STAGE,
            format=FORMAT,
            inputs=request.inputs,
            parameters=request.parameters,
            root=request.place,
            files=tuple(OutputFile(part.name, part.size, part.sha256) for part in parts),
            account=account.counts,
            details={
                "parts": [part.to_dict() for part in parts],
                "rows": account.to_dict(),
                "sources": rows.used(end),
                "manifest": request.manifest_name,
                "asked": request.num_samples,
            },
            recorded=provenance() | {"streamed": request.streams, "seconds": round(time.monotonic() - self.started, 3)},
        )


def _names(manifest: Manifest) -> Iterator[str]:
    yield from (file.path for file in manifest.files)
    yield str(manifest.details["manifest"])
