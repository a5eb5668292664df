"""Where the parts of a command are made: here, or as the tasks of a SLURM job array."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hfassets.cli.options import PATH, options
from hfassets.errors import HfassetsError, UsageError

if TYPE_CHECKING:
    from hfassets.parts.pool import Backend

backend_options = options(
    click.option("--backend", type=click.Choice(["local", "slurm"]), default="local", show_default=True,
                 help="Parts as processes here, or as tasks of a job array; --workers are then those of a task."),
    click.option("--site", type=PATH, help="A site profile (YAML) [default: what DAGSTER_HOME's launcher has]."),
    click.option("--resource", "resources", multiple=True, metavar="NAME=VALUE",
                 help="Of each task, like cpus=4 or time=04:00:00; can be repeated."),
    click.option("--max-tasks", type=click.IntRange(1), default=256, show_default=True, help="Of a plan, at most."),
    click.option("--at-once", type=click.IntRange(1), help="Tasks that run, at most."),
)  # fmt: skip


def backend_of(given: dict[str, Any]) -> Backend | None:
    """What was asked for; None for processes here. Raises UsageError for resources that SLURM does not know."""
    if given.get("backend", "local") == "local":
        return None
    from hfassets.arrays import ArrayPool
    from hfassets.cli.slurm import launcher_settings
    from hfassets.slurm.errors import ResourceError, SlurmError
    from hfassets.slurm.resources import parse_resources

    fields = {}
    for word in given["resources"]:
        name, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"--resource {word}: must be a name and a value like cpus=4")
        fields[name] = value
    try:
        settings = launcher_settings(given["site"])
        request = parse_resources(fields, "--resource ")
    except ResourceError as error:
        raise UsageError(str(error)) from error
    except SlurmError as error:
        raise HfassetsError(str(error)) from error
    return ArrayPool(
        settings,
        request,
        given["max_tasks"],
        given["at_once"],
        given["workers"],
        say=lambda line: click.echo(line, err=True),
    )
