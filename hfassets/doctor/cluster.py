"""The cluster's side of a deployment: its commands, accounting, and what a small job finds on a compute node."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from hfassets.doctor.finding import Finding, Level, note, ok, problem, warning
from hfassets.doctor.places import Place
from hfassets.slurm.client import SlurmClient
from hfassets.slurm.command import command_script, ending, wait_for_job
from hfassets.slurm.errors import DeferredError, SlurmError, UnreachableError
from hfassets.slurm.resources import Resources
from hfassets.slurm.settings import Settings

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo")
# NTP keeps hosts within milliseconds; leases and heartbeats bear a minute.
MOST_SKEW = 5.0
PROBE = Resources(cpus=1, time="5")
# A job's output may take a while to be seen through a network file system's cache.
VISIBLE_AFTER = 15.0


def examine_cluster(settings: Settings) -> Iterator[Finding]:
    """Commands, controller, accounting and partitions. Ends early when nothing more can be asked."""
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if missing:
        yield problem("SLURM", f"{', '.join(missing)} not on PATH", "run this where jobs are submitted from")
        return
    client = SlurmClient(settings.cluster)
    try:
        partitions = client.partitions()
    except UnreachableError as error:
        yield problem("SLURM", str(error), "ask for the controller; nothing is lost meanwhile")
        return
    except SlurmError as error:
        yield problem("SLURM", str(error), "see `cluster` in the launcher's config")
        return
    limits = ", ".join(f"{name} (limit {limit})" for name, limit in partitions.items())
    yield ok("SLURM", f"answers; partitions: {limits}")
    silent = client.accounting_error() if client.accounting else None
    if silent is not None:
        text = f"the cluster has it, and sacct does not answer: {silent}"
        yield warning("accounting", text, "peak memory, old jobs and who cancelled one stay unknown until it does")
    elif client.accounting:
        yield ok("accounting", "sacct answers what became of old jobs, and their peak memory")
    else:
        yield note("accounting", "there is none: what became of jobs long gone, and their memory, is not known")
    yield from _profiles(settings, partitions)


def _profiles(settings: Settings, partitions: Mapping[str, str]) -> Iterator[Finding]:
    asked = {"resources": settings.site.resources, **settings.site.profiles}
    for name, resources in asked.items():
        for partition in (resources.partition or "").split(","):
            if partition and partition not in partitions:
                known = ", ".join(partitions) or "none"
                yield problem(f"profile {name}", f"there is no partition {partition}", f"the cluster has: {known}")


def examine_from_a_node(
    settings: Settings,
    places: Sequence[Place],
    *,
    python: str,
    catalog: Path | None,
    dagster_home: Path | None,
    environment: Mapping[str, str],
    wait_s: float,
    say: Callable[[str], None],
) -> Iterator[Finding]:
    """Submit a small job, wait `wait_s` seconds for it, and hand on what it found."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="doctor-", dir=settings.folder) as made:
        folder = Path(made)
        request = {
            "places": [
                {"name": place.name, "path": str(place.path), "written": place.written, "there": place.path.exists()}
                for place in places
            ],
            "catalog": str(catalog) if catalog else None,
            "dagster_home": str(dagster_home) if dagster_home else None,
            "secrets_file": str(settings.site.secrets_file) if settings.site.secrets_file else None,
        }
        (folder / "request.json").write_bytes(orjson.dumps(request))
        yield from _probe(settings, folder, python, dagster_home, environment, wait_s, say)


def _probe(
    settings: Settings,
    folder: Path,
    python: str,
    dagster_home: Path | None,
    environment: Mapping[str, str],
    wait_s: float,
    say: Callable[[str], None],
) -> Iterator[Finding]:
    topic, result, log = "a job", folder / "result.json", folder / "job.log"
    client = SlurmClient(settings.cluster)
    command = (str(settings.site.python or python), "-m", "hfassets.doctor.node", str(folder / "request.json"))
    try:
        script = command_script(
            settings,
            PROBE,
            (*command, str(result)),
            name="hfassets-doctor",
            working_directory=folder,
            logs=log,
            environment=environment,
            variables={"DAGSTER_HOME": str(dagster_home)} if dagster_home else {},
        )
        begun = time.time()
        job_id, _ = client.submit(script)
    except DeferredError as error:
        yield warning(topic, f"SLURM does not take one now: {error}", "try again")
        return
    except SlurmError as error:
        yield problem(topic, f"cannot be submitted: {error}", "see partition, account and qos of the launcher's config")
        return
    yield ok("sbatch", f"job {job_id} was taken")
    try:
        detail = wait_for_job(client, job_id, say, time.monotonic() + wait_s)
    except SlurmError as error:
        yield problem(topic, str(error), "see the controller's log")
        return
    finally:
        _cancel(client, job_id)
    if detail is None:
        text = f"job {job_id} did not end within {wait_s:.0f} s and was cancelled"
        yield warning(topic, text, "wait longer: --wait 600")
        return
    seen = _read(result)
    if seen is None:
        said = ending(detail, log)
        shown = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
        advice = "the folder must be one that compute nodes write to, and the interpreter one that they have"
        yield problem(topic, f"{said}; it left no result{''.join(f' ({line[:200]})' for line in shown)}", advice)
        return
    document, arrived = seen
    yield from _skew(document, begun, arrived)
    for found in document["findings"]:
        yield Finding(Level(found["level"]), found["topic"], found["text"], found["advice"])


def _skew(document: dict[str, Any], begun: float, arrived: float) -> Iterator[Finding]:
    """The node's clock must have shown a time between the job's submission and its result's arrival."""
    host, then = document["host"], document["time"]
    off = min(then - begun, 0.0) or max(then - arrived, 0.0)
    if abs(off) > MOST_SKEW:
        text = f"{host} is {abs(off):.0f} s {'ahead' if off > 0 else 'behind'}"
        yield problem("clock", text, "let NTP set both hosts")
    else:
        yield ok("clock", f"{host} and this host agree")


def _read(result: Path) -> tuple[dict[str, Any], float] | None:
    deadline = time.monotonic() + VISIBLE_AFTER
    while time.monotonic() < deadline:
        # Listing the folder makes a network file system look again.
        if result in result.parent.iterdir():
            return orjson.loads(result.read_bytes()), time.time()
        time.sleep(0.5)
    return None


def _cancel(client: SlurmClient, job_id: str) -> None:
    try:
        client.cancel([job_id])
    except SlurmError as error:
        print(f"job {job_id} may go on: {error}", file=sys.stderr)  # noqa: T201
