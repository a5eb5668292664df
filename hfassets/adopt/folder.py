"""A folder of files that somebody else has written, and its manifest `adopted.json`.

Invariant: nothing of the folder is changed but that one file, which is written last, when every file was read; a
reading that is interrupted goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import orjson

from hfassets.adopt.kinds import Kind, Reader, Reading, kind_of, readers
from hfassets.errors import DataError, HfassetsError, IntegrityError, PartialFailureError
from hfassets.hub.sweep import default_workers
from hfassets.mds.verify import file_fault
from hfassets.progress import Progress, ProgressCallback, silent
from hfassets.storage.atomic import write_atomic
from hfassets.storage.lease import lease
from hfassets.storage.manifest import ADOPTED, Manifest, OutputFile, provenance, read_manifest, write_manifest
from hfassets.storage.state import StateDir

STAGE = "adopted"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Adopted:
    """A folder that has a manifest now. `reused`: it had it already, and it still fits by sizes."""

    root: Path
    kind: Kind
    manifest: Manifest
    reused: bool
    seconds: float

    @property
    def rows(self) -> int:
        """Samples or rows in all files."""
        return self.manifest.account["rows"]


def adopted_manifest(root: Path) -> Manifest | None:
    """That of a folder; None when it was not adopted. Raises IntegrityError for one that was edited."""
    return read_manifest(root / ADOPTED)


def adopt_folder(
    root: Path, state: StateDir, progress: ProgressCallback = silent, *, force: bool = False, workers: int | None = None
) -> Adopted:
    """Read every file once and write the manifest. `force`: read again what has one.

    Raises PartialFailureError naming each file that is not what it should be (there is no manifest then), DataError for
    a folder of nothing that is known or one of ours, LeaseHeldError, HfassetsError for a folder that cannot be written.
    """
    root = root.absolute()
    began = time.monotonic()
    if (root / "plan.json").exists():
        raise DataError(f"{root}: made by hfassets; it has its own manifest, or run what makes it once more")
    kind = kind_of(root)
    found = None if force else adopted_manifest(root)
    wanted = readers(root, kind)
    if found is not None and [(one.path, one.size) for one in found.files] == [(one.path, one.size) for one in wanted]:
        return Adopted(root, kind, found, True, time.monotonic() - began)
    with lease(state.lease(f"{STAGE}:{root}"), str(root)):
        known = _Known(state.work(STAGE, str(root)) / "read.jsonl", forget=force)
        said = _read_all(root, wanted, known, progress, workers or default_workers())
        files = tuple(OutputFile(one.path, one.size, said[one.path].sha256) for one in wanted)
        content = hashlib.sha256(repr([(one.path, one.size, one.sha256) for one in files]).encode()).hexdigest()
        manifest = Manifest(
            STAGE,
            FORMAT,
            {"kind": kind, "content": content},
            {},
            ".",
            files,
            account={"rows": sum(one.rows for one in said.values())},
            details={"kind": kind},
            recorded=provenance() | {"adopted": True, "seconds": round(time.monotonic() - began, 3)},
        )
        try:
            write_manifest(root / ADOPTED, manifest)
        except PermissionError:
            raise HfassetsError(f"{root}: its manifest {ADOPTED} cannot be written there; ask its owner") from None
        known.forget()
    return Adopted(root, kind, manifest, False, time.monotonic() - began)


def verify_adopted(root: Path, progress: ProgressCallback = silent, workers: int | None = None) -> list[str]:
    """What is wrong with the files of an adopted folder, one line each: all are read again.

    Raises DataError when it was not adopted, IntegrityError when its manifest was edited.
    """
    manifest = adopted_manifest(root)
    if manifest is None:
        raise DataError(f"{root}: not adopted; `hfassets adopt {root}` first")
    faults, done = [], 0
    with ThreadPoolExecutor(workers or default_workers()) as threads:
        looked = threads.map(lambda file: file_fault(root / file.path, file, file.path), manifest.files)
        for file, fault in zip(manifest.files, looked, strict=True):
            faults += [fault] if fault else []
            done += file.size
            progress(Progress("verify", done, manifest.total_bytes, "B"))
    return faults


def _read_all(
    root: Path, wanted: list[Reader], known: _Known, progress: ProgressCallback, workers: int
) -> Mapping[str, Reading]:
    total, done = sum(one.size for one in wanted), 0
    found: dict[str, Reading] = {}
    failures: list[tuple[str, str]] = []

    def look(one: Reader) -> tuple[Reader, Reading | str]:
        try:
            return one, known.reading(root, one) or one.read()
        except (HfassetsError, OSError) as error:
            return one, str(error)

    with ThreadPoolExecutor(workers, thread_name_prefix="adopt") as threads:
        try:
            for one, reading in threads.map(look, wanted):
                done += one.size
                progress(Progress(f"adopt {root.name}", done, total, "B"))
                if isinstance(reading, str):
                    failures.append((one.path, reading))
                else:
                    found[one.path] = reading
                    known.keep(root, one, reading)
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    if failures:
        raise PartialFailureError("files", failures, len(wanted))
    return found


class _Known:
    """What was read by a run that was interrupted, one line a file; a file that has changed since is read again."""

    def __init__(self, path: Path, *, forget: bool) -> None:
        self._path = path
        self._lines: dict[str, tuple[int, int, str, int]] = {}
        if forget:
            self.forget()
        try:
            *lines, rest = path.read_bytes().split(b"\n")
            for line in lines:
                name, *told = orjson.loads(line)
                self._lines[name] = tuple(told)
            if rest:
                # A run was killed while it wrote this line: the next one must not go on behind it.
                write_atomic(path, b"".join(line + b"\n" for line in lines))
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
        except ValueError as error:
            raise IntegrityError(f"{path}: not what an earlier run wrote ({error}); remove it") from None

    def reading(self, root: Path, one: Reader) -> Reading | None:
        """As an earlier run found it."""
        line = self._lines.get(one.path)
        about = (root / one.path).stat()
        return Reading(line[2], line[3]) if line and line[:2] == (about.st_size, about.st_mtime_ns) else None

    def keep(self, root: Path, one: Reader, reading: Reading) -> None:
        """Remember it for a later run."""
        about = (root / one.path).stat()
        line = (about.st_size, about.st_mtime_ns, reading.sha256, reading.rows)
        if self._lines.get(one.path) != line:
            with self._path.open("ab") as lines:
                lines.write(orjson.dumps([one.path, *line]) + b"\n")

    def forget(self) -> None:
        """There is a manifest now."""
        self._path.unlink(missing_ok=True)
