"""`hfassets up`, `down`, `status`, `upgrade`: Dagster's servers for one user."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hfassets.cli.options import PATH
from hfassets.cli.output import json_option, show
from hfassets.errors import HfassetsError, UsageError

if TYPE_CHECKING:
    from hfassets.service.places import Places
    from hfassets.service.state import ServiceState, WebAddress

START_LIMIT = 300.0
STOP_LIMIT = 120.0
_NOT_RUNNING = 3

home_option = click.option(
    "--home", type=PATH, envvar="DAGSTER_HOME", help="DAGSTER_HOME [default: that of the environment]."
)


@click.command()
@home_option
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Serve the UI on TCP behind a token (0: a free port), not on a socket.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where TCP ports listen.")
@click.option(
    "--read-only",
    "read_only_port",
    type=click.IntRange(0, 65535),
    is_flag=False,
    flag_value=0,
    default=None,
    metavar="[PORT]",
    help="One more UI for colleagues, on TCP behind a token of its own, which only shows.",
)
@click.option(
    "--slurm/--no-slurm",
    default=None,
    help="Of a new DAGSTER_HOME: heavy runs as SLURM jobs [default: where there is sbatch].",
)
@click.option("--foreground", is_flag=True, help="Stay, and end with the servers: for systemd and for a SLURM job.")
def up(
    home: Path | None, port: int | None, host: str, read_only_port: int | None, slurm: bool | None, foreground: bool
) -> None:
    """Start Dagster here: its own Postgres, code servers, web server and daemon, without root.

    A DAGSTER_HOME without a dagster.yaml gets one. Started a second time, it says what runs.
    """
    from hfassets.service.setup import make_home
    from hfassets.service.state import read_state

    places = _places(home)
    state = read_state(places.state)
    if state is not None and state.alive(places.lease):
        if not _serves(state, port, read_only=False) or not _serves(state, read_only_port, read_only=True):
            raise HfassetsError("it runs already, without the port that is asked for; `hfassets down`, then up again")
        _tell(places, state)
        return
    places.stop.unlink(missing_ok=True)
    if make_home(places, slurm=bool(shutil.which("sbatch")) if slurm is None else slurm):
        click.echo(f"wrote {places.home / 'dagster.yaml'}", err=True)
    _check(places)
    words = ["--home", str(places.home), "--host", host]
    words += ["--port", str(port)] if port is not None else []
    words += ["--read-only-port", str(read_only_port)] if read_only_port is not None else []
    command = [sys.executable, "-m", "hfassets.service.supervisor", *words]
    if foreground:
        os.execv(command[0], command)  # noqa: S606 - the supervisor takes this process over
    _tell(places, _started(places, command))


@click.command()
@home_option
def down(home: Path | None) -> None:
    """End the servers, the database last; runs that are SLURM jobs go on, light ones end."""
    from hfassets.service.state import read_state

    places = _places(home)
    state = read_state(places.state)
    if state is None or not state.alive(places.lease):
        click.echo("nothing runs", err=True)
        return
    if not state.here and not state.job:
        raise HfassetsError(f"it runs on {state.host}; end it there")
    places.stop.touch(mode=0o600)
    if state.here:
        os.kill(state.pid, signal.SIGTERM)
    else:
        _signal_job(state.job)
    deadline = time.monotonic() + STOP_LIMIT
    while (now := read_state(places.state)) is not None and now.alive(places.lease):
        if time.monotonic() > deadline:
            raise HfassetsError(f"it still runs after {STOP_LIMIT:.0f} s, as process {state.pid} on {state.host}")
        time.sleep(0.2)
    click.echo("all servers have ended", err=True)


@click.command()
@home_option
@json_option
def status(home: Path | None, json_path: str | None) -> None:
    """Say what runs, and how to reach it: exit code 0 if all of it does, 1 if not, 3 if there is nothing."""
    from dataclasses import asdict

    from hfassets.service.asking import server_info
    from hfassets.service.state import read_state

    places = _places(home)
    state = read_state(places.state)
    if state is None or not state.alive(places.lease):
        show(json_path, {"running": False, "home": str(places.home)}, "nothing runs")
        raise click.exceptions.Exit(_NOT_RUNNING)
    healthy = state.ready and (not state.here or all(server_info(one) is not None for one in state.web))
    lines = [_server_line(name, server.ready, server.pid, server.restarts) for name, server in state.servers.items()]
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(state.since))
    title = f"on {state.host} since {since}{f', job {state.job}' if state.job else ''}, hfassets {state.version}"
    text = "\n".join([title, *lines, *_ways(state)])
    show(json_path, {"running": True, "healthy": healthy, "home": str(places.home), **asdict(state)}, text)
    if not healthy:
        raise click.exceptions.Exit(1)


@click.command()
@home_option
@click.option(
    "--wait", type=click.FloatRange(0), default=3600.0, show_default=True, help="Seconds for light runs to end."
)
def upgrade(home: Path | None, wait: float) -> None:
    """After a newer hfassets or dagster was installed: drain, back up, migrate, start again.

    Runs that are SLURM jobs need not end: one that still waits refuses in one line if its formats or its catalog have
    changed meanwhile, and is launched anew.
    """
    from hfassets.service.state import read_state
    from hfassets.service.upgrade import back_up, drained, migrate

    places = _places(home)
    state = read_state(places.state)
    if state is None or not state.here or not state.alive(places.lease):
        raise HfassetsError("the service does not run on this host; `hfassets up` first, for its database is needed")
    if state.job:
        raise HfassetsError(
            f"the service runs as job {state.job}: `hfassets down`, then `hfassets up` and `hfassets upgrade` where a"
            " short while of it is allowed, `hfassets down`, and submit its job again"
        )
    _check(places)

    def say(line: str) -> None:
        click.echo(line, err=True)

    with drained(places, wait, say):
        backup = back_up(places)
        if backup is not None:
            say(f"backed up to {backup}")
        migrate(places)
        say("the database is as this version of Dagster wants it")
        words = _again(state)
        places.stop.touch(mode=0o600)
        os.kill(state.pid, signal.SIGTERM)
        _gone(places, state)
        new = _started(
            places, [sys.executable, "-m", "hfassets.service.supervisor", "--home", str(places.home), *words]
        )
    _tell(places, new)


def _serves(state: ServiceState, port: int | None, *, read_only: bool) -> bool:
    """Whether there is a web server on the port; 0: on any, None: nobody asks for one."""
    found = [one.port for one in state.web if not one.path and one.read_only is read_only]
    return port is None or port in found or (port == 0 and bool(found))


def _again(state: ServiceState) -> list[str]:
    """The options with which it was started."""
    words = []
    for one in state.web:
        if not one.path:
            words += ["--read-only-port" if one.read_only else "--port", str(one.port), "--host", one.host]
    return words


def _gone(places: Places, state: ServiceState) -> None:
    from hfassets.storage.lease import process_started

    deadline = time.monotonic() + STOP_LIMIT
    while process_started(state.pid) == state.started:
        if time.monotonic() > deadline:
            raise HfassetsError(f"the servers did not end; see {places.logs}")
        time.sleep(0.2)


def _places(home: Path | None) -> Places:
    from hfassets.service.places import Places

    if home is None:
        raise UsageError("set DAGSTER_HOME, or give --home: a folder for Dagster's files, which compute nodes see too")
    return Places(home.expanduser().absolute())


def _check(places: Places) -> None:
    """Say at once what the servers would only write into their logs."""
    import importlib.util

    from hfassets.catalog import accept, catalog_path
    from hfassets.service.postgres import OwnPostgres
    from hfassets.service.setup import own_database, read_config

    accept(catalog_path(), record=False)
    folder = own_database(read_config(places))
    if folder is None:
        return
    if importlib.util.find_spec("dagster_postgres") is None:
        raise UsageError("its database needs dagster-postgres: pip install 'hfassets[cluster]'")
    places.make()
    OwnPostgres(folder).create()


def _started(places: Places, command: Sequence[str]) -> ServiceState:
    """Start the supervisor, which stays when we end, and wait until all servers answer."""
    from hfassets.cli.output import console
    from hfassets.service.state import read_state

    places.make()
    log = places.logs / "service.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    deadline = time.monotonic() + START_LIMIT
    with console().status("starting") as spinner:
        while True:
            state = read_state(places.state)
            mine = state is not None and state.pid == process.pid
            if state is not None and mine and "daemon" in state.servers and state.ready:
                return state
            if process.poll() is not None or time.monotonic() > deadline:
                raise HfassetsError(f"the service did not start: {_last_error(log)}; see {places.logs}")
            if state is not None and mine:
                spinner.update(f"starting the {next(reversed([*state.servers]), 'database')}")
            time.sleep(0.1)


def _last_error(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if " error: " in line]
    return lines[-1].partition(" error: ")[2] if lines else "no word of why"


def _tell(places: Places, state: ServiceState) -> None:
    click.echo(f"Dagster runs on {state.host}, from {places.home}")
    for line in _ways(state):
        click.echo(line)


def _ways(state: ServiceState) -> list[str]:
    """How to reach the web servers, from here and from home."""
    lines = []
    for number, one in enumerate(state.web):
        port = 3000 + number
        there = one.path or f"{one.host}:{one.port}"
        # A compute node is reached through the host from which its job was submitted.
        jump = f"-J {_login(state.submit_host)} " if state.submit_host else ""
        lines.append(f"{one.name}: from your own computer  ssh -N {jump}-L {port}:{there} {_login(state.host)}")
        lines.append(f"    then http://localhost:{port}/{_token_words(one)}")
    return lines


def _token_words(one: WebAddress) -> str:
    """A terminal is its owner's; a log may be read by others and gets the place of the token only."""
    if not one.token:
        return ""
    if sys.stdout.isatty():
        return f"?token={Path(one.token).read_text().strip()}"
    return f"?token=...  (the token is in {one.token})"


def _login(host: str) -> str:
    import getpass

    return f"{getpass.getuser()}@{host}"


def _server_line(name: str, ready: bool, pid: int, restarts: int) -> str:
    what = "answers" if ready else "starting" if pid else "has ended, is started again"
    again = f", restarted {restarts} times" if restarts else ""
    return f"  {name}: {what}{f', process {pid}' if pid else ''}{again}"


def _signal_job(job: str) -> None:
    """Tell the batch process of a job on another host to end."""
    from hfassets.slurm.client import SlurmClient
    from hfassets.slurm.errors import SlurmError

    try:
        SlurmClient().cancel([job], signal="TERM")
    except SlurmError as error:
        raise HfassetsError(str(error)) from error
