"""What a stage is made from: the finished folder of the stage before, or any MDS that somebody else has written.

Invariant: a finished folder stands for itself by its manifest's fingerprint, another one by the hash of its indexes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from hfassets.errors import DataError, IntegrityError
from hfassets.mds.index import INDEX, Shard, collect, index_bytes, read_index
from hfassets.mds.stage import SIDES
from hfassets.parts.plan import elsewhere
from hfassets.storage.manifest import ADOPTED, MANIFEST_FILE, read_manifest
from hfassets.storage.state import file_name


@dataclass(frozen=True)
class Upstream:
    """An MDS folder with its parts: (name, folder below the root, fingerprint) each."""

    root: Path
    fingerprint: str
    entries: tuple[tuple[str, str, str], ...]

    def parts(self) -> list[dict[str, Any]]:
        """A part of the next stage for each of these."""
        return [{"name": name, "source": below, "fingerprint": mark} for name, below, mark in self.entries]

    def expect(self, columns: Mapping[str, str]) -> None:
        """Raise DataError when the first part lacks a column, or has it in another encoding."""
        _, below, _ = self.entries[0]
        for _, folder in side_folders(self.root / below):
            has = read_index(folder)[0].columns
            for name, encoding in columns.items():
                if name not in has or not has[name].startswith(encoding):
                    told = ", ".join(f"{one}: {kind}" for one, kind in has.items())
                    raise DataError(f"{folder}: no column {name} of {encoding}; there are {told}")
            return


def upstream(root: Path) -> Upstream:
    """The parts of a folder. Raises DataError when it holds no MDS, or one of ours that is not finished."""
    if not root.is_dir():
        raise DataError(f"{root}: not a folder")
    try:
        adopted = read_manifest(root / ADOPTED)
        manifest = None if adopted is not None else read_manifest(root / MANIFEST_FILE)
    except IntegrityError as error:
        raise DataError(str(error)) from None
    if adopted is not None:
        return replace(_foreign(root), fingerprint=adopted.fingerprint)
    if manifest is not None:
        names = sorted({file.path.split("/")[0] for file in manifest.files if "/" in file.path})
        found = []
        for name in names:
            part = read_manifest(root / name / MANIFEST_FILE)
            if part is None:
                raise DataError(f"{root / name}: its manifest is gone; make {root} again")
            to, removed = elsewhere(root / name)
            if removed:
                raise DataError(
                    f"{root / name}: its shards were brought to {to} and are not here; bring them back first"
                )
            found.append((name, name, part.fingerprint))
        return Upstream(root, manifest.fingerprint, tuple(found))
    if (root / "plan.json").exists():
        raise DataError(f"{root}: not finished: it has parts and no {MANIFEST_FILE}; run the stage before once more")
    return _foreign(root)


def _foreign(root: Path) -> Upstream:
    folders: dict[str, list[Shard]] = {}
    for shard in collect(root):
        folders.setdefault(str(PurePosixPath(shard.raw).parent), []).append(shard)
    if not folders:
        raise DataError(f"{root}: no MDS in it: no {INDEX} at any depth")
    found = []
    for below, shards in folders.items():
        if below != "." and not (root / below / INDEX).exists():
            raise DataError(f"{root / below}: only an index above it lists its shards; put an {INDEX} beside them")
        mark = hashlib.sha256(index_bytes(shards)).hexdigest()
        found.append((file_name("root" if below == "." else below.replace("/", "-")), below, mark))
    whole = hashlib.sha256(repr(found).encode()).hexdigest()
    return Upstream(root, whole, tuple(found))


def side_folders(part: Path) -> Iterator[tuple[str, Path]]:
    """The sides of a part that have documents, as (name, folder); an MDS without sides is all training."""
    if (part / INDEX).exists():
        yield SIDES[0], part
        return
    for side in SIDES:
        if (part / side / INDEX).exists():
            yield side, part / side
