"""Where a service keeps what: files below DAGSTER_HOME, which nodes may share, and sockets on this host's own disk.

Invariant: a folder with sockets belongs to this user and nobody else may enter it; one that somebody else has put there
is not used.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hfassets.errors import UsageError

LONGEST_SOCKET = 107
"""Bytes that the path of a socket may have (unix(7))."""


@dataclass(frozen=True, slots=True)
class Places:
    """Those of the service of one DAGSTER_HOME, an absolute path."""

    home: Path

    @property
    def folder(self) -> Path:
        """All of the service's own files."""
        return self.home / "service"

    @property
    def state(self) -> Path:
        """What runs, and where."""
        return self.folder / "service.json"

    @property
    def lease(self) -> Path:
        """Held while it runs."""
        return self.folder / "service.lease"

    @property
    def stop(self) -> Path:
        """There while it is to end for good: a SLURM job that ends for another reason is followed by the next one."""
        return self.folder / "stop"

    @property
    def logs(self) -> Path:
        """One log a server."""
        return self.folder / "logs"

    @property
    def workspace(self) -> Path:
        """Where web server and daemon find the code servers."""
        return self.folder / "workspace.yaml"

    @property
    def backups(self) -> Path:
        """Dumps of the database."""
        return self.folder / "backups"

    @property
    def sockets(self) -> Path:
        """The folder of sockets on this host."""
        digest = hashlib.sha256(str(self.home).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"hfassets-{os.getuid()}-{digest}"

    def token(self, name: str) -> Path:
        """The token of a web server on TCP."""
        return self.folder / f"{name}.token"

    def make(self) -> None:
        """Make the folders; raises UsageError for one of sockets that is not this user's alone."""
        for folder in (self.folder, self.logs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
        sockets = self.sockets
        sockets.mkdir(mode=0o700, exist_ok=True)
        found = sockets.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise UsageError(f"{sockets} belongs to somebody else; set TMPDIR to a folder of yours and try again")
        sockets.chmod(0o700)
        if len(os.fsencode(sockets / "code-00.sock")) > LONGEST_SOCKET:
            raise UsageError(f"{sockets} is too long for sockets; set TMPDIR to a shorter folder on this host's disk")
