"""Files brought to a folder of this node: side by side, the largest first, each proven while it is copied.

Invariant: a file counts as there when it has its size and the source's modification time, which is set last;
`staged.json` says that all are there, and is written last. A run that is killed goes on where it stopped. Of two runs
with one target the second waits, and finds it done.

A new folder has only its journal until then: ext4 lets a rename over an older file wait until the new one is written,
behind all that was copied.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from hfassets.errors import DataError, HfassetsError, PartialFailureError, SpaceError
from hfassets.progress import Note, Progress, ProgressCallback, silent
from hfassets.report.units import format_bytes
from hfassets.staging.ahead import TargetListing
from hfassets.staging.digest import has_digest
from hfassets.staging.transfer import copy_batch
from hfassets.staging.tree import JOURNAL, LINK, STAGED, SourceFile, SourceTree, files_below
from hfassets.storage.lease import lease
from hfassets.storage.s3 import S3Prefix

VERSION = 1
PATIENCE = 86_400.0
"""Seconds that a second job waits for the copy of the first."""
_BATCH_FILES = 512
_BATCH_BYTES = 64 << 20
_SMALL = 1 << 20
_FEW = 10_000
"""Files, up to which processes take longer to begin than they save."""
_STREAMS = 2
"""Large files at once, for each worker."""
_MOST_STREAMS = 32
"""Of a node with many cores; more only where there are more workers."""


@dataclass(frozen=True)
class StagingRequest:
    """What is to be where. `workers`: cores that copy; `hashed`: hash what is copied; `keeps`: leave files in the
    target that are not of the source, for those who work there make some of their own.
    """

    source: SourceTree
    to: Path
    workers: int = 1
    hashed: bool = True
    keeps: bool = False


@dataclass(frozen=True, slots=True)
class Staged:
    """A folder that holds all files of its source. `copied_*`: now, the rest was there. Bytes; seconds of this run;
    `links`: how many lead to the source.
    """

    to: Path
    files: int
    bytes: int
    copied_files: int
    copied_bytes: int
    seconds: float
    links: int = 0


@dataclass(frozen=True, slots=True)
class _There:
    """What a target says of itself. `names`: the digests, by the names that JSON has for paths."""

    fingerprint: str
    complete: bool
    hashed: bool
    names: Mapping[str, str]

    @property
    def hashes(self) -> dict[str, str]:
        """The digest of each file that was hashed, by path."""
        return {_path(name): digest for name, digest in self.names.items()}


def stage_tree(
    request: StagingRequest, progress: ProgressCallback = silent, listing: TargetListing | None = None
) -> Staged:
    """Bring the target to hold the source's files and no others. `listing`: of the target, begun before.

    Raises SpaceError naming what is missing before anything is copied, DataError for a target that holds something
    else, PartialFailureError naming files that could not be copied or are not what the source's manifest says.
    """
    began = time.monotonic()
    target, root = request.to.absolute(), request.source.root
    if isinstance(root, Path) and (target.is_relative_to(root) or root.is_relative_to(target)):
        raise DataError(f"{target}: in the source itself, or around it; choose another target")
    if listing is not None and _is_as_listed(request, target, listing):
        return Staged(target, len(request.source.files), request.source.bytes, 0, 0, time.monotonic() - began)
    target.parent.mkdir(parents=True, exist_ok=True)
    with lease(
        target.with_name(f".{target.name[:200]}.lease"),
        str(target),
        wait=PATIENCE,
        on_wait=lambda line: progress(Note(line)),
    ):
        return _stage(request, target, began, progress)


def _is_as_listed(request: StagingRequest, target: Path, listing: TargetListing) -> bool:
    """Whether all is there, and nothing else."""
    source = request.source
    return _is_complete(_read(target), request) and not source.links and listing.mark() == source.mark


def _is_complete(before: _There | None, request: StagingRequest) -> bool:
    """Whether a target says that it has all, with the proof that is asked for."""
    return (
        before is not None
        and before.complete
        and before.fingerprint == request.source.fingerprint
        and before.hashed >= request.hashed
    )


def _stage(request: StagingRequest, target: Path, began: float, progress: ProgressCallback) -> Staged:
    source, before = request.source, _read(target)
    there = files_below(target) if target.exists() else {}
    if before is None and there:
        raise DataError(f"{target}: not empty, and not staged by hfassets; choose another folder, or empty it")
    wanted = {path: (size, mtime_ns) for path, size, mtime_ns, _ in source.files}
    links = [path for path, to in source.links.items() if there.get(path) != LINK or _leads_to(target / path) != to]
    if _is_complete(before, request) and wanted.items() <= there.items() and not links:
        return Staged(target, len(source.files), source.bytes, 0, 0, time.monotonic() - began, len(source.links))
    hashes = _known_hashes(target, before)
    missing = [
        one
        for one in source.files
        if there.get(one.path) != wanted[one.path] or (request.hashed and not _is_proven(one, hashes))
    ]
    _require_room(target, source, missing, there)
    target.mkdir(exist_ok=True)
    hashes = {path: hashes[path] for path in (wanted.keys() & hashes.keys()) - {one.path for one in missing}}
    if before is None:
        (target / JOURNAL).touch()
    else:
        _write(target, source, hashes, complete=False, hashed=request.hashed)
        (target / JOURNAL).unlink(missing_ok=True)
    for path in () if request.keeps else there:
        if path not in wanted and path not in source.links:
            (target / path).unlink()
    for folder in source.folders:
        (target / folder).mkdir(exist_ok=True)
    for path in links:
        _link(target / path, source.links[path])
    hashes |= _copy_all(request, target, missing, progress)
    _write(target, source, hashes, complete=True, hashed=request.hashed)
    (target / JOURNAL).unlink(missing_ok=True)
    size = sum(one.size for one in missing)
    return Staged(
        target,
        len(source.files),
        source.bytes,
        len(missing),
        size,
        time.monotonic() - began,
        len(source.links),
    )


def _leads_to(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def _link(path: Path, to: str) -> None:
    """A link in the place of whatever was there, in one step."""
    temporary = path.with_name(f".{path.name[:200]}.link")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(to)
    temporary.replace(path)


def _is_proven(one: SourceFile, hashes: Mapping[str, str]) -> bool:
    """Whether the copy was hashed, and is what the source's manifest says."""
    digest = hashes.get(one.path)
    return digest is not None and one.sha256 in ("", digest)


def _known_hashes(target: Path, before: _There | None) -> dict[str, str]:
    """The digests of files that were copied by earlier runs, finished or killed."""
    if before is None:
        return {}
    found = before.hashes
    try:
        lines = (target / JOURNAL).read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return found
    return {**found, **{_path(name): digest for name, digest in map(orjson.loads, lines)}}


def verify_staged(target: Path, progress: ProgressCallback = silent) -> list[str]:
    """What is wrong with a staged folder, one line a file: all are read again.

    Raises DataError for a folder that is not staged, or whose files nobody has hashed.
    """
    there = _read(target.absolute())
    if there is None or not there.complete:
        raise DataError(f"{target}: not staged, or not finished")
    if not there.hashed:
        raise DataError(f"{target}: staged without hashes; stage it again with them")
    faults = []
    hashes = there.hashes
    # A lock's content is of those who hold it.
    hashes = {path: digest for path, digest in hashes.items() if not path.endswith(".lock")}
    for done, (path, digest) in enumerate(sorted(hashes.items()), 1):
        try:
            if not has_digest(target / path, digest):
                faults.append(f"{path}: not what was copied")
        except OSError as error:
            faults.append(f"{path}: {error.strerror}")
        progress(Progress("verify", done, len(hashes), "files"))
    return faults


def _copy_all(
    request: StagingRequest, target: Path, missing: Sequence[SourceFile], progress: ProgressCallback
) -> dict[str, str]:
    """The digest of each file that was copied."""
    total, done = sum(one.size for one in missing), 0
    hashes: dict[str, str] = {}
    failures: list[tuple[str, str]] = []
    root, name = request.source.root, str(request.source.root).rpartition("/")[2]
    journal = target / JOURNAL
    batches = _batches(sorted(missing, key=lambda one: (-one.size, one.path)))
    streams = _streams(request.workers, missing)
    with _threads(request, streams) if len(missing) <= _FEW else _processes(request) as copy:
        running: set[Future[list[tuple[str, int, str, str]]]] = set()
        for batch in batches:
            if len(running) >= 2 * streams:
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                done += _take(ended, hashes, failures, journal)
                progress(Progress(f"stage {name}", done, total, "B"))
            running.add(copy(root, str(target), batch))
        while running:
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            done += _take(ended, hashes, failures, journal)
            progress(Progress(f"stage {name}", done, total, "B"))
    if failures:
        raise PartialFailureError("files", failures, len(missing))
    return hashes


def _streams(workers: int, missing: Sequence[SourceFile]) -> int:
    """How many copy at once. Of large files several a worker: one that waits, for a slow source or until the kernel has
    written what it holds, leaves its core to another.
    """
    if len(missing) > _FEW or sum(one.size for one in missing) < _SMALL * len(missing):
        return workers
    return max(workers, min(_STREAMS * workers, _MOST_STREAMS))


_Copy = Callable[[Path | S3Prefix, str, Sequence[SourceFile]], Future[list[tuple[str, int, str, str]]]]


@contextmanager
def _threads(request: StagingRequest, streams: int) -> Iterator[_Copy]:
    """For few files, whose bytes are all the work. When the body is left by an error, what they are at is given up."""
    stop = threading.Event()
    with ThreadPoolExecutor(streams, thread_name_prefix="stage") as threads:
        try:
            yield lambda root, target, batch: threads.submit(
                copy_batch, root, target, batch, hashed=request.hashed, stop=stop
            )
        except BaseException:
            stop.set()
            threads.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _processes(request: StagingRequest) -> Iterator[_Copy]:
    """For many files, where Python is the work. When the body is left by an error, what they are at is given up."""
    # Imported where they are needed: a node that has all, or few files, does not wait for them.
    from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
    from multiprocessing import get_context

    from hfassets.parts.pool import begin_worker

    context = get_context("spawn")
    # Only this process holds the sending end: workers end with it, however it ends.
    watched, alive = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(request.workers, mp_context=context, initializer=begin_worker, initargs=(watched,))
    try:
        yield lambda root, target, batch: pool.submit(copy_batch, root, target, batch, hashed=request.hashed)
    except BrokenProcessPool:
        raise HfassetsError(f"{request.to}: a process that copies was killed; run again to go on") from None
    except BaseException:
        alive.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        alive.close()
        watched.close()


def _take(
    ended: set[Future[list[tuple[str, int, str, str]]]],
    hashes: dict[str, str],
    failures: list[tuple[str, str]],
    journal: Path,
) -> int:
    size = 0
    lines: list[bytes] = []
    for future in ended:
        for path, count, digest, error in future.result():
            size += count
            if error:
                failures.append((path, error))
            elif digest:
                hashes[path] = digest
                lines.append(orjson.dumps([_name(path), digest]) + b"\n")
    if lines:
        with journal.open("ab") as file:
            file.write(b"".join(lines))
    return size


def _batches(files: Sequence[SourceFile]) -> Iterator[list[SourceFile]]:
    """Large files alone, so that they begin first; small ones together: handing one over costs more than it does."""
    batch: list[SourceFile] = []
    size = 0
    for one in files:
        batch.append(one)
        size += one.size
        if one.size >= _SMALL or len(batch) >= _BATCH_FILES or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _require_room(
    target: Path, source: SourceTree, missing: Sequence[SourceFile], there: Mapping[str, tuple[int, int]]
) -> None:
    where = target if target.exists() else target.parent
    room = os.statvfs(where)
    # What is replaced gives its room back.
    needed = sum(one.size - there.get(one.path, (0, 0))[0] for one in missing)
    free = room.f_bavail * room.f_frsize
    if needed > free:
        raise SpaceError(
            f"{target}: {format_bytes(needed)} are needed and {format_bytes(free)} free; {format_bytes(needed - free)}"
            " are missing, nothing was copied"
        )
    inodes = sum(one.path not in there for one in missing) + len(source.folders)
    inodes += sum(path not in there for path in source.links)
    # Some file systems make inodes as they need them, and say that they have none.
    if room.f_files and inodes > room.f_favail:
        raise SpaceError(
            f"{target}: {inodes:,} files and folders are needed and {room.f_favail:,} can be made; nothing was copied"
        )


def _read(target: Path) -> _There | None:
    """None for a folder that we have not begun; raises DataError for a `staged.json` that is none of ours."""
    try:
        document = orjson.loads((target / STAGED).read_bytes())
        if document["version"] != VERSION:
            raise DataError(f"{target}: staged by another version of hfassets; empty it and stage again")
        return _There(document["fingerprint"], document["complete"], document["hashed"], document["hashes"])
    except (FileNotFoundError, NotADirectoryError):
        return _There("", complete=False, hashed=False, names={}) if (target / JOURNAL).is_file() else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{target / STAGED}: not what staging writes ({error}); empty the folder") from None


def _write(target: Path, source: SourceTree, hashes: Mapping[str, str], *, complete: bool, hashed: bool) -> None:
    document = {
        "version": VERSION,
        "source": _name(str(source.root)),
        "fingerprint": source.fingerprint,
        "complete": complete,
        "hashed": hashed,
        "files": len(source.files),
        "bytes": source.bytes,
        "hashes": {_name(path): digest for path, digest in hashes.items()},
    }
    # Not forced to disk, which would wait for all that was copied: where power was lost, sizes tell what is not there.
    temporary = target / f".{STAGED}.tmp"
    temporary.write_bytes(orjson.dumps(document) + b"\n")
    temporary.replace(target / STAGED)


def _name(path: str) -> str:
    """Any bytes as text that JSON can hold: one character a byte."""
    return os.fsencode(path).decode("latin-1")


def _path(name: str) -> str:
    return os.fsdecode(name.encode("latin-1"))
