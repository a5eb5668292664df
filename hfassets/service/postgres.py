"""A user's own Postgres, without root: made once, by password (scram) only, found through a file beside it.

Invariant: the cluster appears whole or not at all; its password stands in one file of mode 600 in libpq's own form and
nowhere else, no process's arguments included.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

import orjson

from hfassets.errors import HfassetsError, UsageError
from hfassets.storage.atomic import write_atomic

USER = "dagster"
DATABASE = "dagster"
_INSTALLED = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin")


@dataclass(frozen=True, slots=True)
class Address:
    """Where it listens: on a socket in the folder `sockets` of `host`, and on `port` of that host if `remote`."""

    host: str
    port: int
    sockets: str
    passfile: str
    remote: bool

    @property
    def url(self) -> str:
        """For SQLAlchemy; without the password, which libpq finds by itself."""
        here = self.host == socket.gethostname()
        place = quote(self.sockets if here else self.host, safe="/")
        return f"postgresql+psycopg2://{USER}@/{DATABASE}?host={place}&port={self.port}&passfile={quote(self.passfile)}"


@dataclass(frozen=True, slots=True)
class OwnPostgres:
    """The cluster of a service's folder."""

    folder: Path

    @property
    def data(self) -> Path:
        """Its files."""
        return self.folder / "postgres"

    @property
    def passfile(self) -> Path:
        """The password (libpq documentation, «The Password File»)."""
        return self.folder / "pgpass"

    @property
    def address_file(self) -> Path:
        """Where it is to be reached."""
        return self.folder / "postgres.json"

    def address(self) -> Address:
        """Raises HfassetsError when it was never started."""
        try:
            return Address(**orjson.loads(self.address_file.read_bytes()))
        except FileNotFoundError:
            raise HfassetsError(f"{self.address_file}: there is no database yet; `hfassets up` makes it") from None
        except (ValueError, TypeError) as error:
            raise HfassetsError(f"{self.address_file}: not the address of a database ({error})") from None

    def create(self) -> None:
        """Make the cluster unless it is there. Raises UsageError where Postgres is not installed, or for root."""
        if os.geteuid() == 0:
            raise UsageError("Postgres does not run as root; run `hfassets up` as an ordinary user")
        binaries = self.binaries()
        if self.data.exists():
            return
        password = self._password()
        temporary = self.data.with_name(f"{self.data.name}.making")
        shutil.rmtree(temporary, ignore_errors=True)
        words = self.folder / "initdb.password"
        words.touch(0o600)
        try:
            words.write_text(f"{password}\n")
            command: list[Path | str] = [
                binaries / "initdb",
                "--pgdata",
                temporary,
                "--username",
                USER,
                "--pwfile",
                words,
            ]
            _do([*command, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"], "initdb")
        finally:
            words.unlink()
        temporary.replace(self.data)

    def command(self, sockets: Path, *, remote: bool) -> list[str]:
        """What runs it in the foreground; its address is written down. `remote`: nodes reach it by TCP."""
        access = ["local all all scram-sha-256"]
        if remote:
            access += ["host all all 0.0.0.0/0 scram-sha-256", "host all all ::/0 scram-sha-256"]
        write_atomic(self.folder / "pg_hba.conf", "".join(f"{line}\n" for line in access).encode())
        address = Address(socket.gethostname(), self._port(remote), str(sockets), str(self.passfile), remote)
        write_atomic(self.address_file, orjson.dumps(asdict(address)) + b"\n")
        settings = {
            "listen_addresses": "*" if remote else "",
            "unix_socket_directories": str(sockets),
            "unix_socket_permissions": "0700",
            "hba_file": str(self.folder / "pg_hba.conf"),
            "max_connections": "300",
        }
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(self.binaries() / "postgres"), "-D", str(self.data), "-p", str(address.port), *words]

    def ready(self) -> bool:
        """Whether it answers; the database is made the first time it does."""
        import psycopg2

        address = self.address()
        try:
            with closing(self._connect(address, "postgres")) as connection:
                connection.autocommit = True
                with connection.cursor() as cursor:
                    cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
                    if cursor.fetchone() is None:
                        cursor.execute(f"CREATE DATABASE {DATABASE}")
        except psycopg2.OperationalError:
            return False
        return True

    def back_up(self, to: Path) -> None:
        """A dump of the database, as pg_restore reads it; it appears whole or not at all."""
        address = self.address()
        to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = to.with_name(f".{to.name}.tmp")
        where = [f"--host={address.sockets}", f"--port={address.port}", f"--username={USER}", "--no-password"]
        command: list[Path | str] = [
            self.binaries() / "pg_dump",
            *where,
            "--format=custom",
            f"--file={temporary}",
            DATABASE,
        ]
        _do(command, "pg_dump", PGPASSFILE=address.passfile)
        temporary.chmod(0o600)
        temporary.replace(to)

    def binaries(self) -> Path:
        """The folder with `initdb` and `postgres`, of the version that the cluster has. Raises UsageError."""
        folders = list(_folders())
        if not folders:
            raise UsageError(
                "Postgres is not installed here (no `initdb` on PATH, nor below /usr/lib/postgresql): load its module,"
                " `conda install postgresql`, or give dagster.yaml the `storage` of a server that you have"
            )
        with suppress(FileNotFoundError):
            version = (self.data / "PG_VERSION").read_text().strip()
            fitting = [folder for folder in folders if _version(folder) == version]
            if not fitting:
                found = ", ".join(sorted({_version(folder) for folder in folders}))
                raise UsageError(f"{self.data} was made by Postgres {version}, and here is {found}; see pg_upgrade")
            return fitting[0]
        return folders[0]

    def _password(self) -> str:
        if not self.passfile.exists():
            write_atomic(self.passfile, f"*:*:*:{USER}:{secrets.token_urlsafe(32)}\n".encode())
            self.passfile.chmod(0o600)
        return self.passfile.read_text().strip().rpartition(":")[2]

    def _connect(self, address: Address, database: str):  # type: ignore[no-untyped-def]
        import psycopg2

        return psycopg2.connect(
            host=address.sockets,
            port=address.port,
            user=USER,
            dbname=database,
            passfile=address.passfile,
            connect_timeout=5,
        )

    def _port(self, remote: bool) -> int:
        """The port that it had, or another one when somebody else took it meanwhile."""
        wanted = 0
        with suppress(HfassetsError):
            wanted = self.address().port
        if not remote:
            # Only names the socket.
            return wanted or 5432
        while wanted == 0 or _taken(wanted):
            wanted = 10_000 + secrets.randbelow(20_000)
        return wanted


def _taken(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False


def _folders() -> list[Path]:
    found = []
    on_path = shutil.which("initdb")
    if on_path:
        found.append(Path(on_path).resolve().parent)
    for pattern in _INSTALLED:
        found += sorted(Path("/").glob(pattern.lstrip("/")), reverse=True)
    return [
        folder for folder in dict.fromkeys(found) if (folder / "initdb").exists() and (folder / "postgres").exists()
    ]


def _version(folder: Path) -> str:
    """The major version, as PG_VERSION says it."""
    words = subprocess.run(
        [folder / "postgres", "--version"], capture_output=True, text=True, check=False
    ).stdout.split()
    return words[2].partition(".")[0] if len(words) > 2 else "?"


def _do(command: list[Path | str], name: str, **environment: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    if done.returncode:
        raise HfassetsError(f"{name} failed: {' '.join((done.stderr or done.stdout).split())[-500:]}")
