"""What a compute node sees of the deployment: `python -m hfassets.doctor.node REQUEST RESULT`, run as a small job.

REQUEST and RESULT are JSON files in the launcher's folder; a result that arrives proves the folder, the interpreter and
the environment of jobs by itself.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from hfassets.catalog.accepted import examine
from hfassets.doctor.finding import Finding, ok, problem, warning
from hfassets.doctor.places import Place, examine_place
from hfassets.errors import HfassetsError
from hfassets.slurm.errors import SlurmError
from hfassets.slurm.secrets import read_secrets
from hfassets.storage.atomic import write_atomic


def main(arguments: list[str]) -> int:
    """Look at everything that the request names and publish what was found."""
    request_file, result_file = (Path(text) for text in arguments)
    request = orjson.loads(request_file.read_bytes())
    host = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    findings = [
        Finding(found.level, f"{found.topic} (from {host})", found.text, found.advice) for found in look(request)
    ]
    document = {
        "host": host,
        "time": time.time(),
        "findings": [{**asdict(found), "level": found.level.value} for found in findings],
    }
    write_atomic(result_file, orjson.dumps(document))
    return 0


def look(request: dict[str, Any]) -> Iterator[Finding]:
    """Interpreter, secrets, folders, catalog and database, as this host sees them."""
    yield ok("interpreter", f"{sys.executable}, Python {sys.version.split()[0]}")
    if request["secrets_file"]:
        try:
            os.environ.update(read_secrets(Path(request["secrets_file"])))
            yield ok(f"secrets_file {request['secrets_file']}", "is read")
        except SlurmError as error:
            yield problem("secrets_file", str(error), "put it where compute nodes see it, mode 600")
    for place in request["places"]:
        yield from _seen(Place(place["name"], Path(place["path"]), place["written"]), there=place["there"])
    if request["catalog"]:
        yield from _catalog(Path(request["catalog"]))
    if request["dagster_home"]:
        yield from _database()


def _seen(place: Place, *, there: bool) -> Iterator[Finding]:
    if there and not place.path.exists():
        yield problem(
            f"{place.name} {place.path}",
            "is not there, though it is where the daemon runs",
            "name a folder of a file system that compute nodes mount under the same path",
        )
        return
    yield from examine_place(place)


def _catalog(path: Path) -> Iterator[Finding]:
    try:
        examine(path)
    except HfassetsError as error:
        yield problem(f"catalog {path}", str(error), "put it where compute nodes see it, or correct it")
    else:
        yield ok(f"catalog {path}", "is read")


def _database() -> Iterator[Finding]:
    from dagster import DagsterInstance

    begun = time.monotonic()
    try:
        with DagsterInstance.get() as instance:
            instance.get_runs_count()
    except Exception as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        advice = "let compute nodes reach its host and port, with its password"
        yield problem("database", f"cannot be reached: {text[:200]}", advice)
        return
    took = time.monotonic() - begun
    if took > 5.0:
        yield warning("database", f"opened in {took:.1f} s", "jobs write each event there: bring it nearer")
    else:
        yield ok("database", f"opened in {took:.1f} s")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
