"""`hfassets slurm`: submit, jobs, drain."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hfassets.cli.options import PATH, options
from hfassets.cli.output import json_option, show
from hfassets.errors import HfassetsError, UsageError
from hfassets.report.units import counted, format_seconds

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from hfassets.slurm.client import Job
    from hfassets.slurm.settings import Settings

RESOURCE_OPTIONS = {
    "partition": "Or several, separated by commas.",
    "account": "Who pays.",
    "qos": "Quality of service.",
    "reservation": "A reservation of nodes.",
    "constraint": "Features of nodes.",
    "nodes": "Number of nodes.",
    "cpus": "CPUs.",
    "memory": "Memory a node, like 32G.",
    "gpus": "GPUs, like 1 or a100:2.",
    "gres": "Generic resources.",
    "time": "Time limit, like 04:00:00 or 2-00:00:00.",
    "tmp": "Local disk, like 500G.",
}


@click.group()
def slurm() -> None:
    """Work with SLURM: commands as jobs, the jobs of runs, an orderly stop."""


resource_options = options(
    *(click.option(f"--{name}", metavar="TEXT", help=text) for name, text in RESOURCE_OPTIONS.items())
)


@slurm.command(context_settings={"ignore_unknown_options": False})
@click.option("--site", type=PATH, help="A site profile (YAML) [default: what DAGSTER_HOME's launcher has].")
@click.option("--profile", help="A named profile of resources.")
@resource_options
@click.option("--name", help="The job's name [default: the command's].")
@click.option("--log", type=PATH, help="Where the job's output goes [default: ./<name>-<time>.log].")
@click.option("--wait", is_flag=True, help="Wait for the job; the exit code is then the command's.")
@click.option("--dry-run", is_flag=True, help="Print the script and submit nothing.")
@json_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def submit(
    site: Path | None,
    profile: str | None,
    name: str | None,
    log: Path | None,
    wait: bool,
    dry_run: bool,
    json_path: str | None,
    command: tuple[str, ...],
    **fields: str | None,
) -> None:
    """Run COMMAND as a SLURM job, here and with the site's environment: hfassets slurm submit --time 2:00:00 -- CMD …

    Put `--` before the command. Without --wait the exit code only says whether the job was taken.
    """
    from hfassets.slurm.client import SlurmClient
    from hfassets.slurm.command import command_script
    from hfassets.slurm.errors import ResourceError, SlurmError

    try:
        settings = launcher_settings(site)
        request = _request(settings, profile, {key: value for key, value in fields.items() if value is not None})
        program = shutil.which(command[0])
        if program is None:
            raise UsageError(f"there is no program {command[0]!r} on PATH, nor one of that path")
        name = name or Path(program).name
        log = (log or Path(f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.log")).absolute()
        script = command_script(
            settings,
            request,
            (os.path.abspath(program), *command[1:]),  # noqa: PTH100 - links stay: a virtual environment is one
            name=name,
            working_directory=Path.cwd(),
            logs=log,
            environment=os.environ,
            python=sys.executable,
        )
        if dry_run:
            show(json_path, {"script": script}, script.rstrip())
            return
        client = SlurmClient(settings.cluster)
        job_id, cluster = client.submit(script)
        document: dict[str, Any] = {"job_id": job_id, "cluster": cluster, "log": log}
        if not wait:
            show(json_path, document, f"job {job_id} submitted; it writes to {log}")
            return
        click.echo(f"job {job_id} submitted; it writes to {log}", err=True)
        _follow(client, job_id, log, json_path, document)
    except ResourceError as error:
        raise UsageError(str(error)) from error
    except SlurmError as error:
        # Advice names run tags, which are options here.
        raise HfassetsError(str(error).replace("slurm/", "--")) from error


def _follow(client: Any, job_id: str, log: Path, json_path: str | None, document: dict[str, Any]) -> None:
    from hfassets.slurm.command import ending, wait_for_job
    from hfassets.slurm.states import JobState

    detail = wait_for_job(client, job_id, lambda line: click.echo(line, err=True))
    if detail is None:
        raise HfassetsError(f"job {job_id} did not end")
    good = detail.state == JobState.COMPLETED
    text = f"job {job_id} COMPLETED" if good else ending(detail, log).replace("slurm/", "--")
    show(json_path, {**document, "state": detail.state.value, "exit_code": detail.exit_code}, text)
    if not good:
        click.echo(f"error: {text}", err=True)
        raise SystemExit(detail.exit_code if detail.exit_code and not detail.signal else 1)


@slurm.command("continue")
@click.option("--at-most", type=click.IntRange(1), default=10, show_default=True, help="Jobs in a row.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def continue_(at_most: int, command: tuple[str, ...]) -> None:
    """In a batch script: run COMMAND, and go on in another job when this one ends before it: … continue -- CMD …

    The next job waits from the beginning (afterany): it begins whatever ends this one, its time limit or its node. It
    is cancelled once COMMAND has come to its own end, good or bad, or somebody cancels this job. The exit code is
    COMMAND's; with 75 it says itself that it was cut off.
    """
    from hfassets.slurm.client import SlurmClient
    from hfassets.slurm.continuing import run_and_continue
    from hfassets.slurm.errors import SlurmError

    again = [sys.executable, "-m", "hfassets.cli.main", "slurm", "continue", "--at-most", str(at_most), "--", *command]
    try:
        code = run_and_continue(command, again, at_most=at_most, client=SlurmClient(), environment=os.environ, say=_say)
    except SlurmError as error:
        raise HfassetsError(str(error)) from error
    raise SystemExit(code)


@slurm.command()
@click.option("--all", "ended", is_flag=True, help="Also those that ended lately.")
@json_option
def jobs(ended: bool, json_path: str | None) -> None:
    """The jobs of Dagster runs and of `submit`: state, what a waiting one waits for, expected start, node."""
    from hfassets.report.tables import build_table
    from hfassets.slurm.client import SlurmClient
    from hfassets.slurm.command import own_jobs
    from hfassets.slurm.errors import SlurmError

    try:
        settings = launcher_settings(None)
        found = [job for job in own_jobs(SlurmClient(settings.cluster).jobs()) if ended or not job.state.ended]
    except SlurmError as error:
        raise HfassetsError(str(error)) from error
    rows = [_row(job) for job in sorted(found, key=lambda job: (not job.state.pending, int(job.job_id)))]
    pending = sum(job.state.pending for job in found)
    running = sum(not job.state.pending and not job.state.ended for job in found)
    summary = f"{counted(len(found), 'job')}: {running} running, {pending} pending"
    headings = ["reason or node" if name == "where" else name for name in (rows[0] if rows else {})]
    table = build_table(headings, [list(row.values()) for row in rows]).rich() if rows else ""
    show(json_path, rows, table, summary)


def _row(job: Job) -> dict[str, str]:
    kind, *rest = job.comment.split(":")
    what = f"run {rest[1]}" if kind == "dagster" and len(rest) == 3 else rest[-1]
    return {
        "job": job.job_id,
        "state": job.state.value,
        "where": job.reason if job.state.pending else job.nodes,
        "start": "" if job.start is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(job.start)),
        "elapsed": "" if not job.elapsed_s else format_seconds(job.elapsed_s),
        "limit": "" if job.limit_s is None else format_seconds(job.limit_s),
        "partition": job.partition,
        "what": what,
        "attempt": rest[2] if kind == "dagster" and len(rest) == 3 else "",
    }


@slurm.command()
@click.option("--end", "undo", is_flag=True, help="Start queued runs again.")
@click.option("--no-wait", is_flag=True, help="Do not wait for local runs.")
@click.option("--timeout", type=click.FloatRange(0), metavar="SECONDS", help="Wait at most so long.")
@json_option
def drain(undo: bool, no_wait: bool, timeout: float | None, json_path: str | None) -> None:
    """Start no more queued runs, and wait until this host's runs have ended; SLURM jobs go on.

    Afterwards daemon and servers can be stopped without loss. Exit code 1 when runs are left after --timeout.
    """
    from hfassets.slurm.coordinator import DrainableRunCoordinator, begin_drain, end_drain
    from hfassets.slurm.draining import local_runs, wait_for_local_runs

    with dagster_instance() as instance:
        if undo:
            held = end_drain(instance)
            show(json_path, {"drained": False}, "queued runs start again" if held else "the queue was not drained")
            return
        if not isinstance(instance.run_coordinator, DrainableRunCoordinator):
            raise HfassetsError(
                "dagster.yaml: run_coordinator must be {module: hfassets.slurm.coordinator, class:"
                " DrainableRunCoordinator} for the queue to be drained"
            )
        begin_drain(instance, "hfassets slurm drain")
        left = local_runs(instance) if no_wait else wait_for_local_runs(instance, timeout, _say)
        text = "drained: no queued run is started, and no run is left on this host; `--end` starts them again"
        if left:
            text = f"no queued run is started; {counted(len(left), 'run')} still on this host"
        show(json_path, {"drained": True, "left": left}, text)
        if left and not no_wait:
            raise HfassetsError(f"{counted(len(left), 'run')} did not end in time: {', '.join(left[:5])}")


def _say(line: str) -> None:
    click.echo(line, err=True)


def dagster_instance() -> DagsterInstance:
    """The instance of DAGSTER_HOME; raises HfassetsError when it cannot be had."""
    from dagster import DagsterInstance

    home = os.environ.get("DAGSTER_HOME")
    if not home:
        raise HfassetsError("DAGSTER_HOME is not set; it names the deployment")
    try:
        return DagsterInstance.get()
    except Exception as error:
        # Dagster raises whatever a wrong dagster.yaml or a database that is down make it raise.
        hint = "; `hfassets status` says whether its database runs" if (Path(home) / "service").is_dir() else ""
        raise HfassetsError(f"the instance of {home}: {' '.join(str(error).split())[:300]}{hint}") from error


def launcher_settings(site: Path | None) -> Settings:
    """The launcher's settings of DAGSTER_HOME, if there are any; `site` wins over all of them."""
    import yaml

    from hfassets.slurm.settings import parse_settings

    home = Path(os.environ.get("DAGSTER_HOME") or Path.cwd())
    file = home / "dagster.yaml"
    if site is not None:
        return parse_settings({"site": str(site)}, home.absolute())
    try:
        document = yaml.safe_load(file.read_text()) if os.environ.get("DAGSTER_HOME") and file.exists() else None
        launcher = (document or {}).get("run_launcher") or {}
    except (yaml.YAMLError, OSError, UnicodeDecodeError, AttributeError) as error:
        raise HfassetsError(f"{file} cannot be read: {' '.join(str(error).split())[:200]}") from None
    config = launcher.get("config") if launcher.get("class") == "SlurmRunLauncher" else None
    return parse_settings({key: _value(value) for key, value in (config or {}).items()}, home.absolute())


def _value(value: Any) -> Any:
    """A value of dagster.yaml, `{env: NAME}` replaced as Dagster does it."""
    if isinstance(value, dict):
        if len(value) == 1 and isinstance(value.get("env"), str):
            return os.environ.get(value["env"])
        return {key: _value(item) for key, item in value.items()}
    return value


def _request(settings: Settings, profile: str | None, fields: dict[str, str]) -> Any:
    from hfassets.slurm.resources import Resources, override, parse_resources

    base = Resources()
    if profile is not None:
        if profile not in settings.site.profiles:
            known = ", ".join(sorted(settings.site.profiles)) or "none"
            raise UsageError(f"there is no profile {profile!r}; the site has: {known}")
        base = settings.site.profiles[profile]
    return override(base, parse_resources(fields, "--"))
