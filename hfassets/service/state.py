"""What is known of a service that runs, or ran: on which host, its servers, how to reach it.

Invariant: written by its supervisor alone. A process counts as alive only on its own host, and only if it is the one
that was meant and not another with its number.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson

from hfassets.errors import HfassetsError
from hfassets.storage.atomic import write_atomic
from hfassets.storage.lease import STALE_AFTER, process_started


@dataclass(frozen=True, slots=True)
class WebAddress:
    """A web server: on the socket at `path`, or on `port` of `host` behind the token in the file `token`."""

    name: str
    read_only: bool
    path: str = ""
    host: str = ""
    port: int = 0
    token: str = ""


@dataclass(frozen=True, slots=True)
class ServerState:
    """One server. `pid` 0: it does not run; `restarts`: since the service began."""

    pid: int = 0
    started: int = 0
    restarts: int = 0
    ready: bool = False


@dataclass(frozen=True, slots=True)
class ServiceState:
    """`started`: clock ticks since boot at which its supervisor began; `since`: Unix seconds; `job`: the SLURM job that
    it runs in, `submit_host`: where that was submitted.
    """

    host: str
    pid: int
    started: int
    since: float
    version: str
    web: tuple[WebAddress, ...]
    servers: Mapping[str, ServerState] = field(default_factory=dict)
    job: str = ""
    submit_host: str = ""

    @property
    def here(self) -> bool:
        """Whether this is its host."""
        return self.host == socket.gethostname()

    def alive(self, lease: Path) -> bool:
        """Whether its supervisor lives: elsewhere by the heartbeat of its lease."""
        if self.here:
            return process_started(self.pid) == self.started > 0
        try:
            return time.time() - lease.stat().st_mtime < STALE_AFTER
        except FileNotFoundError:
            return False

    @property
    def ready(self) -> bool:
        """Whether all servers answered."""
        return bool(self.servers) and all(server.ready for server in self.servers.values())

    def write(self, path: Path) -> None:
        """Write atomically."""
        write_atomic(path, orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2) + b"\n")


def read_state(path: Path) -> ServiceState | None:
    """None when there is none; raises HfassetsError for a file that is no state."""
    try:
        document = orjson.loads(path.read_bytes())
        web = tuple(WebAddress(**one) for one in document.pop("web"))
        servers = {name: ServerState(**one) for name, one in document.pop("servers").items()}
        return ServiceState(**document, web=web, servers=servers)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HfassetsError(f"{path}: not the state of a service ({error}); remove it") from None
