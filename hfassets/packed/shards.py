"""A folder of `shard_0000.parquet` and so on, that other tools read, over the parts that they were made in.

Invariant: the shards are the files of the parts, in their order, each under a name that has no gap before it; in the
folder there is nothing else that could be taken for a shard. Parts and manifest lie in `.parts` in it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hfassets.errors import IntegrityError
from hfassets.mds.stage import Stage, StageOutput, StageRun, find_stage, make_stage
from hfassets.mds.verify import file_fault
from hfassets.progress import Progress, ProgressCallback, silent
from hfassets.storage.atomic import fsync_directory
from hfassets.storage.manifest import MANIFEST_FILE, Manifest, OutputFile, read_manifest

PARTS = ".parts"
Close = Callable[[Mapping[str, int]], None]
"""Raises IntegrityError when an account does not close."""
PATTERN = "shard_*.parquet"


@dataclass(frozen=True, slots=True)
class VerifiedShards:
    """What was found. `faults`: one line each; none = as on the first day."""

    folder: Path
    files: int
    bytes: int
    faults: tuple[str, ...]

    def check(self) -> None:
        """Raise IntegrityError when there are faults."""
        if self.faults:
            more = f" and {len(self.faults) - 1} more" if len(self.faults) > 1 else ""
            raise IntegrityError(f"{self.folder}: {self.faults[0]}{more}")


def stats_name(folder: Path) -> str:
    """`<stem>_stats.json`, as the older tool names it."""
    return f"{folder.name}_stats.json"


def shard_name(number: int) -> str:
    """As the older tool names shards."""
    return f"shard_{number:04}.parquet"


def place_shards(folder: Path, paths: Sequence[str]) -> int:
    """Give the files of the parts, named from `.parts` on, their names in the folder; how many there are."""
    for number, path in enumerate(paths):
        _place(folder / PARTS / path, folder / shard_name(number))
    for stray in folder.glob(PATTERN):
        given = stray.stem[len("shard_") :]
        if given.isdecimal() and int(given) >= len(paths):
            stray.unlink()
    fsync_directory(folder)
    return len(paths)


def place_parts(folder: Path, manifests: Sequence[Manifest]) -> int:
    """The same for the files of finished parts, in their order."""
    names = [f"{one.parameters['part']['name']}/{file.path}" for one in manifests for file in one.files]
    return place_shards(folder, names)


def find_shards(folder: Path) -> StageOutput | None:
    """The finished output in a folder; None when there is none or a file is missing. A shard that has lost its name
    gets it back.
    """
    found = find_stage(folder / PARTS)
    if found is None:
        return None
    paths = _paths(found.manifest)
    sizes = {file.path: file.size for file in found.manifest.files}
    names = {folder / shard_name(number): path for number, path in enumerate(paths)}
    if any(not name.exists() or name.stat().st_size != sizes[path] for name, path in names.items()):
        place_shards(folder, paths)
    return found


def packed_shards(folder: Path) -> dict[str, OutputFile] | None:
    """The shards of a finished folder by their names there; None when it is none."""
    try:
        manifest = read_manifest(folder / PARTS / MANIFEST_FILE)
    except IntegrityError:
        return None
    if manifest is None:
        return None
    files = {file.path: file for file in manifest.files}
    return {shard_name(number): files[path] for number, path in enumerate(_paths(manifest))}


def make_shards(stage: Stage, run: StageRun, progress: ProgressCallback = silent) -> StageOutput:
    """As `make_stage`, for a stage whose root is the `.parts` of a folder and whose end places the shards."""
    made = make_stage(stage, run, progress)
    if made.reused:
        find_shards(stage.root.parent)
    return made


def verify_shards(folder: Path, close: Close, progress: ProgressCallback = silent) -> VerifiedShards:
    """Read every shard of a folder again, and close its account; nothing is changed."""
    try:
        manifest = read_manifest(folder / PARTS / MANIFEST_FILE)
    except IntegrityError as error:
        return VerifiedShards(folder, 0, 0, (str(error),))
    if manifest is None:
        return VerifiedShards(folder, 0, 0, (f"{PARTS}/{MANIFEST_FILE}: gone",))
    faults: list[str] = []
    files = {file.path: file for file in manifest.files}
    paths, size = _paths(manifest), 0
    for number, path in enumerate(paths):
        file, name = files[path], shard_name(number)
        # Where a disk has no second names for a file, there are two files to look at.
        places = {name: folder / name, f"{PARTS}/{path}": folder / PARTS / path}
        if _same(*places.values()):
            del places[f"{PARTS}/{path}"]
        found = (file_fault(place, file, said) for said, place in places.items())
        faults += [fault for fault in found if fault]
        size += file.size
        progress(Progress("verify", size, manifest.total_bytes, "B"))
    try:
        close(manifest.account)
    except IntegrityError as error:
        faults.append(str(error))
    return VerifiedShards(folder, len(paths), size, tuple(faults))


def _paths(manifest: Manifest) -> list[str]:
    return [file.path for file in manifest.files if file.path.endswith(".parquet")]


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _place(source: Path, target: Path) -> None:
    """Give a part's file its place: the same file by a second name, or a copy where the disk has no such thing."""
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
    temporary.replace(target)
