"""`make ui`: the Dagster web UI on the demo, with its daemon, its code server and the sample Hub.

    python -m hfassets.demo.ui --home DIR [--port N]

The servers end together: with Ctrl-C, or when one of them stops. The web server binds to loopback, the code servers to
sockets in a folder of this user alone: who reaches a code server's port may run code, and a free port may be taken by
the time it is used.
"""

from __future__ import annotations

import argparse
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

import requests
import yaml

from hfassets.demo.home import DemoHome
from hfassets.demo.hub_server import HOST, SampleHub

START_TIMEOUT = 90.0


def main(arguments: list[str] | None = None) -> int:
    """Serve until interrupted (exit code 0), or until a server stops by itself (1)."""
    parser = argparse.ArgumentParser(prog="make ui", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, default=Path(".demo"), help="folder of the demo (default: .demo)")
    parser.add_argument("--port", type=int, default=3000, help="port of the web UI (default: 3000, else a free one)")
    options = parser.parse_args(arguments)
    home = DemoHome(options.home.absolute())
    # Also SIGINT: a shell starts background jobs with it ignored, and our servers would inherit that.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    with SampleHub(home.hub) as hub:
        home.create(hub.url)
        home.synchronise()
        try:
            with services(home, options.port) as deployment:
                print(f"\nDagster is at {deployment.url} (Ctrl-C ends it)", flush=True)  # noqa: T201
                return _watch(deployment.processes)
        except KeyboardInterrupt:
            return 0


@dataclass(frozen=True, slots=True)
class Deployment:
    """Running servers: `code server` (one a location), `web server` (at `url`) and `daemon`."""

    url: str
    processes: dict[str, subprocess.Popen[bytes]]


LOCATIONS = {"hfassets": "hfassets.definitions"}


@contextmanager
def services(home: DemoHome, port: int = 0, locations: Mapping[str, str] = LOCATIONS) -> Iterator[Deployment]:
    """The servers of a Dagster deployment, up and answering; ended on the way out.

    The web server is at `port`, or at a free one when that is taken or 0; each of `locations` (name → module) has a
    code server of its own.
    """
    port = _free_port(port)
    logs = home.root / "logs"
    logs.mkdir(exist_ok=True)
    dagster = [sys.executable, "-m", "dagster"]
    with ExitStack() as stack:
        # Not below `home`: the path of a socket has at most 107 bytes (unix(7)).
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hfassets-")))
        sockets = {name: folder / str(number) for number, name in enumerate(locations)}
        workspace = home.dagster / "workspace.yaml"
        servers_of = [{"grpc_server": {"socket": str(at), "location_name": name}} for name, at in sockets.items()]
        workspace.write_text(yaml.safe_dump({"load_from": servers_of}))

        def start(name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
            log = stack.enter_context((logs / f"{name}.log").open("wb"))
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=home.root)
            stack.callback(_end, process)
            return process

        servers: dict[str, subprocess.Popen[bytes]] = {}
        for name, module in locations.items():
            server = "code server" if len(servers) == 0 else f"code server {name}"
            command = [*dagster, "code-server", "start", "-m", module, "--socket", str(sockets[name])]
            servers[server] = start(server.replace(" ", "-"), command)
            # One after the other: the first makes the tables of a new instance, and two at once would collide.
            _wait(server, servers[server], partial(_accepts, socket.AF_UNIX, str(sockets[name])), logs)
        servers["web server"] = start(
            "webserver",
            [sys.executable, "-m", "dagster_webserver", "-h", HOST, "-p", str(port), "-w", str(workspace)],
        )
        _wait("web server", servers["web server"], lambda: _answers(port), logs)
        servers["daemon"] = start("daemon", [sys.executable, "-m", "dagster._daemon", "run", "-w", str(workspace)])
        yield Deployment(f"http://{HOST}:{port}", servers)


def _watch(servers: dict[str, subprocess.Popen[bytes]]) -> int:
    while True:
        for name, process in servers.items():
            if process.poll() is not None:
                print(f"the {name} stopped with exit code {process.returncode}", file=sys.stderr)  # noqa: T201
                return 1
        time.sleep(0.5)


def _wait(name: str, process: subprocess.Popen[bytes], ready: Callable[[], bool], logs: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the {name} did not start; its log is in {logs}")
        time.sleep(0.1)


def _accepts(family: socket.AddressFamily, address: str | tuple[str, int]) -> bool:
    with closing(socket.socket(family)) as probe:
        return probe.connect_ex(address) == 0


def _answers(port: int) -> bool:
    try:
        return requests.get(f"http://{HOST}:{port}/server_info", timeout=5).ok
    except requests.RequestException:
        return False


def _free_port(wanted: int) -> int:
    """The wanted port when nobody has it, else one that is free now and that the kernel gives to nobody meanwhile.

    Ports for which nobody asks by number are from 32,768 on (ip_local_port_range).
    """
    port = wanted
    while port == 0 or _accepts(socket.AF_INET, (HOST, port)):
        port = 10_000 + secrets.randbelow(20_000)
    return port


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
