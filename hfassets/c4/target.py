"""Where the parts of a shard set come to lie: a folder, or a prefix in S3.

Invariant: a file or object that this shard set did not write is never replaced and never removed, unless the person
who started the work says so.
"""

from __future__ import annotations

import errno
import shutil
from contextlib import suppress
from pathlib import Path

from hfassets.c4.journal import Part
from hfassets.c4.request import STAGE, ShardSetRequest
from hfassets.errors import DataError, IntegrityError, UnsafePathError
from hfassets.hub.hashing import hash_file
from hfassets.storage.atomic import TEMPORARY, fsync_directory, temporary_beside, write_atomic
from hfassets.storage.manifest import Manifest, manifest_bytes, parse_manifest, read_manifest
from hfassets.storage.s3 import S3Prefix, S3Store
from hfassets.storage.state import file_name

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Folder:
    """Parts as files of a folder: the destination itself, or where they wait for their upload."""

    def __init__(self, path: Path, manifest_name: str) -> None:
        self.path = path
        self.manifest_name = manifest_name
        self._made = [one for one in (path, *path.parents) if not one.exists()]

    def prepare(self, stem: str) -> None:
        """Make the folder, see that it can be written, remove what a killed run of this shard set has left.

        Raises DataError for a folder that cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = temporary_beside(self.path / self.manifest_name)
            probe.touch()
            probe.unlink()
        except OSError as error:
            if error.errno in NO_ROOM:
                raise
            raise DataError(f"{self.path}: cannot be written ({error.strerror}); choose another folder") from error
        for entry in self.path.iterdir():
            if TEMPORARY.match(entry.name) and entry.name.startswith((f".{stem}.", f".{stem}_part")):
                entry.unlink()

    def manifest(self) -> Manifest | None:
        """The shard set's manifest; None when there is none or it cannot be trusted."""
        try:
            return checked(read_manifest(self.path / self.manifest_name))
        except IntegrityError:
            return None

    def publish(self, temporary: Path, name: str) -> None:
        """Give a finished file, already on disk, its name."""
        temporary.replace(self.path / name)
        fsync_directory(self.path)

    def has(self, part: Part, *, by_hash: bool) -> bool:
        """Whether a part's file is there: by its size, or by its bytes."""
        path = self.path / part.name
        try:
            if path.stat().st_size != part.size:
                return False
            return not by_hash or hash_file(path, "sha256") == part.sha256
        except OSError:
            return False

    def remove(self, name: str) -> None:
        """Delete a file; one that is not there is no error."""
        (self.path / name).unlink(missing_ok=True)

    def write_manifest(self, manifest: Manifest) -> None:
        """Publish the manifest: the shard set is done."""
        write_atomic(self.path / self.manifest_name, manifest_bytes(manifest))

    def clear(self) -> None:
        """Remove the folder, and those above it that were made for it, as far as they are empty."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            for folder in self._made[1:]:
                folder.rmdir()


class Objects:
    """Parts as objects in S3."""

    def __init__(self, place: S3Prefix, manifest_name: str) -> None:
        self.store = S3Store(place)
        self.manifest_name = manifest_name

    def manifest(self) -> Manifest | None:
        """The shard set's manifest; None when there is none or it cannot be trusted. Raises S3Error."""
        data = self.store.read_bytes(self.manifest_name)
        if data is None:
            return None
        try:
            return checked(parse_manifest(data, self.store.place.uri(self.manifest_name)))
        except IntegrityError:
            return None

    def has(self, part: Part, *, by_hash: bool) -> bool:
        """Whether a part's object is there: by size and the server's checksum (if it keeps any), or by its bytes."""
        found = self.store.find(part.name)
        if found is None or found.size != part.size or found.checksum not in (part.checksum, None):
            return False
        return not by_hash or self.store.sha256(part.name) == part.sha256

    def still_has(self, part: Part, *, by_hash: bool) -> bool:
        """Whether a part's object is what was put there: by the server's checksum, without one (or if `by_hash`) by
        its bytes."""
        found = self.store.find(part.name)
        if found is None or found.size != part.size:
            return False
        if found.checksum and not by_hash:
            return found.checksum == part.checksum
        return self.store.sha256(part.name) == part.sha256

    def put(self, path: Path, part: Part, *, replace: bool) -> str:
        """Upload a part and prove that it arrived; its checksum. Raises S3Error, IntegrityError."""
        return self.store.put(part.name, path, replace=replace).checksum

    def write_manifest(self, manifest: Manifest) -> None:
        """Publish the manifest: the shard set is done."""
        self.store.put_bytes(self.manifest_name, manifest_bytes(manifest))

    def remove(self, name: str) -> None:
        """Delete an object."""
        self.store.remove(name)


def checked(manifest: Manifest | None) -> Manifest | None:
    """The manifest, if each name in it is one of a file in its own folder; raises UnsafePathError otherwise."""
    if manifest is not None and manifest.stage == STAGE:
        parts = [str(part["name"]) for part in manifest.details["parts"]]
        for name in (*parts, *(file.path for file in manifest.files), str(manifest.details["manifest"])):
            if file_name(name) != name:
                raise UnsafePathError(f"the manifest at {manifest.root} names {name!r}, which is no plain file name")
    return manifest


def staging(request: ShardSetRequest) -> Path:
    """Where parts are written: the folder in which they stay, or a hidden one beside it until they are in S3."""
    if isinstance(request.destination, Path) or request.keep_local:
        return request.local
    return request.local / f".{request.stem}.uploading"


def refuse_foreign(request: ShardSetRequest, folder: Folder, ours: set[str]) -> None:
    """Raise DataError when a part would take the place of a file that is not this shard set's."""
    for name in sorted(entry.name for entry in folder.path.iterdir()):
        if name not in ours and request.names(name):
            raise DataError(
                f"{folder.path / name} is there already and was not written by hfassets; move it, choose another "
                "folder, or replace it by --force"
            )
