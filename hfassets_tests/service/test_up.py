"""`hfassets up` on a bare account: a user who is not root, with nothing but a home."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from hfassets_tests.dagster_service import wait_for

ROOT = Path(__file__).parents[2]
OWNER, OTHER = "nobody", "daemon"
_ASK = """
import http.client, socket, sys
place, path, *headers = sys.argv[1:]
connection = http.client.HTTPConnection("127.0.0.1", int(place) if place.isdecimal() else 1, timeout=20)
try:
    if not place.isdecimal():
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(place)
    connection.request("GET", path, headers=dict(one.split("=", 1) for one in headers))
    answer = connection.getresponse()
    print(answer.status, answer.read().decode()[:2000])
except OSError as error:
    print(type(error).__name__)
"""


class Account:
    """A user's shell. What it runs is this checkout, by a Python that the user may run."""

    def __init__(self, name: str, home: Path) -> None:
        self.name = name
        self.home = home
        self.python = ""
        self.environment = {
            "HOME": str(home),
            "USER": name,
            "LOGNAME": name,
            "PATH": "/usr/bin:/bin",
            "TMPDIR": str(home),
            "DAGSTER_HOME": str(home / "dagster"),
            "HFASSETS_CATALOG": str(home / "catalog.yaml"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        packages = next(place for place in sys.path if place.endswith("site-packages"))
        for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
            self.python = python
            self.environment["PYTHONPATH"] = f"{ROOT}:{packages}"
            # setpriv may reach what the user, and so the user's processes, may not.
            again = f"import subprocess; subprocess.run([{python!r}, '-c', 'import hfassets.cli.main'], check=True)"
            if self.run("-c", again).returncode == 0:
                return
        raise RuntimeError(
            f"{name} can run neither {sys.executable} nor {self.python}: is their folder closed to others?"
        )

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A Python command."""
        account = pwd.getpwnam(self.name)
        who = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups", "--inh-caps=-all"]
        command = ["setpriv", *who, self.python, *words]
        try:
            return subprocess.run(
                command, env=self.environment, cwd=self.home, capture_output=True, text=True, check=False, timeout=200
            )
        except PermissionError:
            return subprocess.CompletedProcess(command, 126, "", "")

    def hfassets(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`hfassets …`."""
        return self.run("-m", "hfassets.cli.main", *words)

    def ask(self, place: Any, path: str, **headers: str) -> str:
        """What a web server says: status and body, or the name of an error."""
        more = [f"{name.replace('_', '-')}={value}" for name, value in headers.items()]
        return self.run("-c", _ASK, str(place), path, *more).stdout.strip()

    @property
    def state(self) -> dict[str, Any]:
        """What is written of the service."""
        return dict(orjson.loads((self.home / "dagster/service/service.json").read_bytes()))

    def processes(self) -> list[str]:
        """What runs from its home."""
        found = []
        for place in Path("/proc").glob("[0-9]*/environ"):
            try:
                if f"DAGSTER_HOME={self.home}/dagster".encode() in place.read_bytes():
                    found.append((place.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        return [line for line in found if line]


@pytest.fixture(scope="module")
def owner() -> Iterator[Account]:
    """With a starter catalog, and nothing that runs."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to be somebody else")
    # pytest's own folders are closed to other users.
    home = Path(tempfile.mkdtemp(prefix="hfa-"))
    shutil.chown(home, OWNER)
    account = Account(OWNER, home)
    try:
        assert account.hfassets("catalog", "init").returncode == 0
        yield account
        account.hfassets("down")
        wait_for("the servers to end", lambda: not account.processes())
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def stranger() -> Account:
    """Another user of the host, who knows all paths and ports."""
    return Account(OTHER, Path("/"))


def test_root_is_told_that_postgres_wants_an_ordinary_user(tmp_path: Path) -> None:
    """In one line, before anything is started."""
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path), "HFASSETS_CATALOG": str(tmp_path / "catalog.yaml")}
    command = [sys.executable, "-m", "hfassets.cli.main"]
    subprocess.run([*command, "catalog", "init"], env=environment, cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run([*command, "up", "--no-slurm"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "as an ordinary user" in done.stderr and "Traceback" not in done.stderr


def test_up_is_reached_through_its_socket_by_its_owner_alone(owner: Account, stranger: Account) -> None:
    """It prints the ssh line; a second `up` starts nothing; `status` is 0."""
    done = owner.hfassets("up", "--no-slurm")
    assert done.returncode == 0, done.stderr + done.stdout
    socket = owner.state["web"][0]["path"]
    assert f"ssh -N -L 3000:{socket} {OWNER}@" in done.stdout
    assert owner.ask(socket, "/server_info").startswith("200 ")
    assert stranger.ask(socket, "/server_info") == "PermissionError"
    assert Path(socket).parent.stat().st_mode & 0o777 == 0o700
    before = owner.state["servers"]
    other = owner.hfassets("up", "--no-slurm", "--port", "0")
    assert other.returncode == 1 and "runs already, without the port" in other.stderr
    again = owner.hfassets("up", "--no-slurm")
    assert again.returncode == 0 and owner.state["servers"] == before
    status = owner.hfassets("status", "--json")
    assert status.returncode == 0 and orjson.loads(status.stdout)["healthy"] is True
    secret = (owner.home / "dagster/service/pgpass").read_text().strip().rpartition(":")[2]
    assert secret not in " ".join(owner.processes()) + (owner.home / "dagster/dagster.yaml").read_text()


def test_a_server_that_dies_is_started_again(owner: Account) -> None:
    """The others go on; the database too."""
    for name in ("web server", "database"):
        before = owner.state["servers"]
        os.kill(before[name]["pid"], signal.SIGKILL)
        wait_for(
            f"another {name}",
            lambda before=before, name=name: (
                (now := owner.state["servers"][name])["ready"] and now["pid"] not in (0, before[name]["pid"])
            ),
        )
        assert owner.state["servers"]["code server hfassets"]["pid"] == before["code server hfassets"]["pid"]
    socket = owner.state["web"][0]["path"]
    wait_for("an answer", lambda: owner.ask(socket, "/graphql?query={runsOrError{__typename}}").startswith("200 "))


def test_an_upgrade_backs_up_and_starts_again(owner: Account) -> None:
    """With the options that it was started with."""
    before = owner.state
    done = owner.hfassets("upgrade")
    assert done.returncode == 0, done.stderr
    (backup,) = (owner.home / "dagster/service/backups").iterdir()
    assert backup.read_bytes().startswith(b"PGDMP") and backup.stat().st_mode & 0o077 == 0
    assert owner.state["pid"] != before["pid"] and owner.state["web"] == before["web"]
    assert not (owner.home / "dagster/drain").exists()


@pytest.mark.drill
def test_nothing_outlives_a_supervisor_that_is_killed(owner: Account) -> None:
    """SIGKILL: all its servers end; `status` says so with 3; `up` starts them again."""
    assert owner.hfassets("up", "--no-slurm").returncode == 0
    os.kill(owner.state["pid"], signal.SIGKILL)
    wait_for("the servers to end", lambda: not owner.processes())
    assert owner.hfassets("status").returncode == 3
    assert owner.hfassets("up", "--no-slurm").returncode == 0
    assert owner.hfassets("status").returncode == 0


def test_on_tcp_a_token_is_asked_for(owner: Account, stranger: Account) -> None:
    """Another user without it is refused; the read-only server shows and starts nothing."""
    assert owner.hfassets("down").returncode == 0
    done = owner.hfassets("up", "--port", "0", "--read-only")
    assert done.returncode == 0, done.stderr
    full, shows = owner.state["web"]
    tokens = [Path(one["token"]).read_text().strip() for one in (full, shows)]
    assert not any(token in done.stdout + done.stderr for token in tokens)
    for one in (full, shows):
        assert stranger.ask(one["port"], "/graphql?query={version}").startswith("401 ")
        assert stranger.run("-c", f"open({one['token']!r})").returncode != 0
    assert stranger.ask(shows["port"], "/server_info", Authorization=f"Bearer {tokens[1]}").startswith("200 ")
    assert stranger.ask(full["port"], "/server_info", Authorization=f"Bearer {tokens[1]}").startswith("401 ")
    allowed = "/graphql?query={permissions{permission,value}}"
    assert '"value":true' not in stranger.ask(shows["port"], allowed, Authorization=f"Bearer {tokens[1]}")
    assert '"value":true' in owner.ask(full["port"], allowed, Authorization=f"Bearer {tokens[0]}")
    began = time.monotonic()
    assert owner.hfassets("down").returncode == 0 and time.monotonic() - began < 60
    wait_for("the servers to end", lambda: not owner.processes())


_REMOTE = """
import signal, subprocess, sys, time
from dataclasses import replace
from pathlib import Path
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from hfassets.service.postgres import OwnPostgres
folder, sockets = Path(sys.argv[1]) / "remote", Path(sys.argv[1]) / "s"
folder.mkdir(mode=0o700); sockets.mkdir(mode=0o700)
own = OwnPostgres(folder)
own.create()
process = subprocess.Popen(own.command(sockets, remote=True), stderr=subprocess.DEVNULL)
try:
    while not own.ready():
        time.sleep(0.1)
    away = replace(own.address(), host="127.0.0.1")
    with create_engine(away.url).connect() as connection:
        print(connection.execute(text("SELECT inet_server_addr() IS NOT NULL")).scalar())
    (folder / "other").write_text("*:*:*:dagster:guessed\\\\n")
    (folder / "other").chmod(0o600)
    for url in (replace(away, passfile=str(folder / "other")).url, away.url.partition("&passfile")[0]):
        try:
            create_engine(url).connect()
            print("let in")
        except OperationalError as error:
            print("refused")
finally:
    process.send_signal(signal.SIGINT)
    process.wait()
"""


def test_nodes_reach_the_database_by_tcp_with_its_password_alone(owner: Account) -> None:
    """By the file that its address names; with another password, or none, nobody is let in."""
    done = owner.run("-c", _REMOTE, str(owner.home))
    assert done.stdout.split() == ["True", "refused", "refused"], done.stderr
