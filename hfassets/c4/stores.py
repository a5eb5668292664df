"""The shard sets of a place: their manifests, and what holds their parts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hfassets.c4.fetch import MANIFEST_SUFFIX
from hfassets.c4.request import STAGE
from hfassets.c4.target import Folder, Objects, checked
from hfassets.errors import DataError
from hfassets.storage.manifest import Manifest, read_manifest
from hfassets.storage.s3 import S3Prefix, S3Settings, S3Store


def manifests(place: str, settings: S3Settings, stem: str | None) -> list[tuple[Manifest, Folder | Objects]]:
    """All shard sets of a folder or prefix, or the one called `stem`; raises DataError when there is none."""
    found: list[tuple[Manifest, Folder | Objects]] = []
    if "://" in place:
        prefix = S3Prefix.parse(place, settings)
        for name in [f"{stem}{MANIFEST_SUFFIX}"] if stem else _only_manifests(S3Store(prefix).names()):
            objects = Objects(prefix, name)
            manifest = objects.manifest()
            if manifest is not None and manifest.stage == STAGE:
                found.append((manifest, objects))
    else:
        folder = Path(place).expanduser()
        for name in [f"{stem}{MANIFEST_SUFFIX}"] if stem else _only_manifests(_file_names(folder)):
            read = checked(read_manifest(folder / name))
            if read is not None and read.stage == STAGE:
                found.append((read, Folder(folder, name)))
    if not found:
        raise DataError(f"{place}: no finished shard set{f' {stem}' if stem else ''} is there")
    return found


def _only_manifests(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.endswith(MANIFEST_SUFFIX))


def _file_names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
