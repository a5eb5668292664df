"""The folders of a deployment: there, writable, on which file system, with how much room.

Source of the fields: proc(5), /proc/<pid>/mountinfo; statvfs(3).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hfassets.doctor.finding import Finding, note, ok, problem, warning
from hfassets.report.units import format_bytes
from hfassets.storage.atomic import temporary_beside
from hfassets.storage.space import existing_parent

MOUNTS = Path("/proc/self/mountinfo")
# Below these a long run is likely to end with a full disk.
SHORT_OF_BYTES = 20 * 10**9
SHORT_OF_INODES = 100_000
QUOTA_TIMEOUT = 10.0
# File systems that other hosts write to: their locks and memory maps are not what SQLite needs.
_NETWORK = re.compile(
    r"(nfs|lustre|gpfs|ceph|cephfs|beegfs|cifs|smb|afs|9p|orangefs|pvfs|panfs|weka|vast|ocfs2|gfs2|glusterfs|virtiofs"
    r"|fuse\.(sshfs|glusterfs|ceph|s3fs|juicefs|rclone|moosefs|lizardfs|beegfs|cvmfs)).*"
)


@dataclass(frozen=True, slots=True)
class Place:
    """A configured path. `name` is the setting that names it; `written` whether we write below it."""

    name: str
    path: Path
    written: bool = True


@dataclass(frozen=True, slots=True)
class FileSystem:
    """What is mounted under a path."""

    kind: str
    mounted_at: Path

    @property
    def network(self) -> bool:
        """Whether other hosts may write to it too."""
        return _NETWORK.fullmatch(self.kind) is not None


def file_system(path: Path, mountinfo: str | None = None) -> FileSystem:
    """The file system that `path`, or the nearest folder above it that exists, is on.

    `mountinfo`: the text of /proc/self/mountinfo [this process's].
    """
    text = MOUNTS.read_text() if mountinfo is None else mountinfo
    real = str(existing_parent(path).resolve()) if mountinfo is None else str(path)
    best = FileSystem("unknown", Path("/"))
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) < 5 or not right:
            continue
        # Spaces and the like are written as octal escapes.
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        # Of several mounts on one point the last covers the others.
        if inside and len(point) >= len(str(best.mounted_at)):
            best = FileSystem(right.split()[0], Path(point))
    return best


def examine_place(place: Place) -> Iterator[Finding]:
    """Whether it exists (or can be made), can be written, and has room: bytes, inodes, quota."""
    topic = f"{place.name} {place.path}"
    above = existing_parent(place.path)
    if not above.is_dir() and above != place.path:
        yield problem(topic, f"{above} is no folder", "name another path, or move that file away")
        return
    if place.written:
        target = place.path if place.path.is_dir() else above
        if not os.access(target, os.W_OK | os.X_OK):
            yield problem(topic, f"{target} may not be written by this user", f"chown or chmod {target}, or change it")
            return
        if (error := _write_error(target)) is not None:
            yield problem(topic, f"nothing can be written to {target}: {error}", "free space or quota, or change it")
            return
    found = os.statvfs(above)
    free, inodes = found.f_bavail * found.f_frsize, found.f_favail
    room = f"{format_bytes(free)} free"
    # A file system without a fixed number of inodes (btrfs, many network ones) says 0 of 0.
    if found.f_files:
        room += f", {inodes:,} inodes free"
    room += f", on {file_system(above).kind}"
    if place.written and free < SHORT_OF_BYTES:
        yield warning(topic, room, "little room: free some, or name another path")
    elif place.written and found.f_files and inodes < SHORT_OF_INODES:
        yield warning(topic, room, "few inodes: many small files will not fit; free some, or name another path")
    else:
        yield ok(topic, room if place.path.exists() else f"will be made; {room}")
    yield from _quota(topic, above)


def _write_error(folder: Path) -> str | None:
    probe = temporary_beside(folder / "doctor")
    try:
        with probe.open("wb") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror or str(error)
    finally:
        probe.unlink(missing_ok=True)
    return None


def _quota(topic: str, path: Path) -> Iterator[Finding]:
    """What `lfs quota` (Lustre) or `quota` says of this user, when it is over or near a limit."""
    kind = file_system(path).kind
    command = ["lfs", "quota", "-q", "-u", str(os.getuid()), str(path)] if kind == "lustre" else ["quota", "-w", "-p"]
    if shutil.which(command[0]) is None:
        return
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=QUOTA_TIMEOUT, check=False)
    except (subprocess.TimeoutExpired, OSError):
        yield note(topic, f"`{command[0]}` gave no answer within {QUOTA_TIMEOUT:.0f} s, so the quota is not known")
        return
    # Both mark a value over its limit by a star: `1048576*  1048576  …` (lfs-quota(1), quota(1)).
    over = [line.split() for line in done.stdout.splitlines() if re.search(r"\d\*", line)]
    if over:
        yield problem(topic, f"the quota is used up: {' '.join(over[0])[:160]}", "free some, or name another path")
