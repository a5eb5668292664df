"""`python -m hfassets.service.supervisor`: starts a service's servers, starts those again that end, ends all of them.

Invariant: one supervisor a DAGSTER_HOME, on whatever host, by a lease; no server outlives it. A server that ends again
and again is started less and less often, and everybody else goes on.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from hfassets import __version__
from hfassets.errors import HfassetsError
from hfassets.service.places import Places
from hfassets.service.postgres import OwnPostgres
from hfassets.service.setup import has_launcher, locations, own_database, read_config, write_workspace
from hfassets.service.state import ServerState, ServiceState, WebAddress
from hfassets.storage.atomic import write_atomic
from hfassets.storage.lease import lease, process_started

POLL = 0.3
START_LIMIT = 120.0
"""Seconds that a server has to answer the first time."""
LONGEST_PAUSE = 60.0
LIVED = 600.0
"""A server that lived so many seconds has not failed again: its pauses begin anew."""
STOP_LIMIT = 20.0
EXIT_UNFINISHED = 75
"""EX_TEMPFAIL of sysexits.h, as `hfassets slurm continue` understands it."""


@dataclass(frozen=True)
class Server:
    """How one is run. `ready`: whether it answers; `ends_on`: the signal that ends it in an orderly way."""

    name: str
    command: Callable[[], Sequence[str]]
    ready: Callable[[], bool]
    ends_on: signal.Signals = signal.SIGTERM


class Running:
    """A server and its process."""

    def __init__(self, server: Server, logs: Path) -> None:
        self.server = server
        self._log = logs / f"{server.name.replace(' ', '-')}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0
        self._again_at = 0.0
        self._failures = 0
        self._restarts = -1
        self.ready = False

    def start(self) -> None:
        """Start its process; the log goes on."""
        words = [sys.executable, "-m", "hfassets.service.child", self.server.ends_on.name, *self.server.command()]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._began = time.monotonic()
        self._restarts += 1
        self.ready = False

    def look(self) -> bool:
        """See to it that it runs, and ask it whether it is ready; whether anything changed."""
        before = self.state
        if self._process is None:
            if time.monotonic() >= self._again_at:
                self.start()
        elif self._process.poll() is not None:
            lived = time.monotonic() - self._began
            self._failures = 1 if lived > LIVED else self._failures + 1
            self._again_at = time.monotonic() + min(LONGEST_PAUSE, 2.0 ** (self._failures - 1))
            _say(f"the {self.server.name} ended with {self._process.returncode} after {lived:.0f} s; see {self._log}")
            self._process, self.ready = None, False
        elif not self.ready:
            self.ready = self.server.ready()
        return before != self.state

    @property
    def late(self) -> bool:
        """Whether it ought to answer and does not."""
        return not self.ready and (self._process is None or time.monotonic() - self._began > START_LIMIT)

    @property
    def ended(self) -> int:
        """How often it ended by itself of late."""
        return self._failures

    @property
    def state(self) -> ServerState:
        """As it is told to others."""
        pid = self._process.pid if self._process is not None and self._process.poll() is None else 0
        return ServerState(pid, process_started(pid) if pid else 0, max(0, self._restarts), self.ready)

    def stop(self) -> None:
        """End it, by force if need be."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(self.server.ends_on)
        try:
            self._process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def servers(places: Places, web: Sequence[WebAddress]) -> list[Server]:
    """All servers, in the order in which they need each other. Raises HfassetsError for what cannot run here."""
    config = read_config(places)
    found = []
    folder = own_database(config)
    if folder is not None:
        postgres = OwnPostgres(folder)
        postgres.create()
        remote = has_launcher(config)
        # SIGINT: a fast shutdown, which does not wait for clients.
        found.append(
            Server(
                "database",
                lambda: postgres.command(places.sockets, remote=remote),
                postgres.ready,
                signal.SIGINT,
            )
        )
    modules = locations(config)
    sockets = {name: places.sockets / f"code-{number}.sock" for number, name in enumerate(modules)}
    write_workspace(places, sockets)
    dagster = [sys.executable, "-m", "dagster"]
    for name, module in modules.items():
        command = [*dagster, "code-server", "start", "-m", module, "--socket", str(sockets[name])]
        found.append(Server(f"code server {name}", lambda c=command: c, lambda at=sockets[name]: _accepts(at)))  # type: ignore[misc]
    for one in web:
        command = _web_command(places, one)
        found.append(Server(one.name, lambda c=command: c, lambda at=one: _answers(at)))  # type: ignore[misc]
    daemon = [sys.executable, "-m", "dagster._daemon", "run", "-w", str(places.workspace)]
    return [*found, Server("daemon", lambda: daemon, lambda: True)]


def _web_command(places: Places, one: WebAddress) -> list[str]:
    command = [sys.executable, "-m", "hfassets.service.web", "--workspace", str(places.workspace)]
    command += ["--name", one.name.replace(" ", "-"), *(["--read-only"] if one.read_only else [])]
    if one.path:
        return [*command, "--socket", one.path]
    return [*command, "--host", one.host, "--port", str(one.port), "--token-file", one.token]


def web_addresses(places: Places, port: int | None, host: str, read_only_port: int | None) -> tuple[WebAddress, ...]:
    """The web servers: on a socket, or on TCP where a `port` is given (0 = a free one); one more that only shows."""
    found = []
    if port is None:
        found.append(WebAddress("web server", False, path=str(places.sockets / "web.sock")))
    else:
        found.append(_on_tcp(places, "web server", host, port, read_only=False))
    if read_only_port is not None:
        found.append(_on_tcp(places, "read-only web server", host, read_only_port, read_only=True))
    return tuple(found)


def _on_tcp(places: Places, name: str, host: str, port: int, *, read_only: bool) -> WebAddress:
    token = places.token(name.replace(" ", "-"))
    if not token.exists():
        write_atomic(token, f"{secrets.token_urlsafe(32)}\n".encode())
    token.chmod(0o600)
    return WebAddress(name, read_only, host=host, port=port or _free_port(host), token=str(token))


def _free_port(host: str) -> int:
    """A free one below those that the kernel gives away (ip_local_port_range)."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with closing(socket.socket()) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port


def _accepts(path: Path) -> bool:
    with closing(socket.socket(socket.AF_UNIX)) as probe:
        probe.settimeout(5)
        return probe.connect_ex(str(path)) == 0


def _answers(one: WebAddress) -> bool:
    from hfassets.service.asking import server_info

    return server_info(one) is not None


def run(places: Places, web: tuple[WebAddress, ...], stop: threading.Event) -> int:
    """Keep the servers going until `stop`; 1 when the first start did not succeed. Raises HfassetsError."""
    of_job = {name: os.environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_SUBMIT_HOST")}
    places.make()
    with lease(places.lease, "this service", wait=2.0), _environment(places):
        begun = ServiceState(
            socket.gethostname(),
            os.getpid(),
            process_started(os.getpid()),
            time.time(),
            __version__,
            web,
            job=of_job["SLURM_JOB_ID"],
            submit_host=of_job["SLURM_SUBMIT_HOST"],
        )
        running: list[Running] = []

        def tell() -> None:
            known = {one.server.name: one.state for one in running}
            replace(begun, servers=known).write(places.state)

        try:
            for server in servers(places, web):
                running.append(Running(server, places.logs))
                if not _started(running[-1], stop, tell):
                    return _end(places, of_job["SLURM_JOB_ID"]) if stop.is_set() else 1
            _say("all servers are up")
            while not stop.wait(POLL):
                if sum(one.look() for one in running):
                    tell()
        finally:
            for one in reversed(running):
                one.stop()
            places.state.unlink(missing_ok=True)
            _say("all servers have ended")
    return _end(places, of_job["SLURM_JOB_ID"])


def _end(places: Places, job: str) -> int:
    """Told to stop. In a SLURM job that may be its time limit: then the next job is to go on."""
    wanted = places.stop.exists()
    places.stop.unlink(missing_ok=True)
    return 0 if wanted or not job else EXIT_UNFINISHED


def _started(one: Running, stop: threading.Event, tell: Callable[[], None]) -> bool:
    """Start a server and wait until it answers: those behind it need it."""
    while not stop.is_set():
        if one.look():
            tell()
        if one.ready:
            return True
        if one.late or one.ended >= 3:
            _say(f"error: the {one.server.name} does not start; its log is in {one._log}")
            return False
        stop.wait(POLL / 3)
    return False


@contextmanager
def _environment(places: Places) -> Iterator[None]:
    """What all servers need to know."""
    before = dict(os.environ)
    os.environ["DAGSTER_HOME"] = str(places.home)
    # Of a job that we may live in: it is not that of the runs that our servers start.
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_")) and name != "SLURM_CONF"]:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def main(arguments: list[str] | None = None) -> int:
    """Run a service until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="hfassets.service.supervisor", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--port", type=int)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--read-only-port", type=int)
    options = parser.parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: stop.set())
    places = Places(options.home)
    try:
        places.make()
        return run(places, web_addresses(places, options.port, options.host, options.read_only_port), stop)
    except HfassetsError as error:
        _say(f"error: {error}")
        return 1


def _say(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} hfassets: {text}", file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
