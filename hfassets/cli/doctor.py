"""`hfassets doctor`: what is wrong with a deployment, and what would put it right."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import asdict

import click

from hfassets.cli.output import json_option, show
from hfassets.errors import HfassetsError
from hfassets.report.units import counted


@click.command()
@click.option("--fix", is_flag=True, help="Put right what can be: limits of pools, modes of files with secrets.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for a small job on a compute node; 0 submits none.",
)
@json_option
def doctor(fix: bool, wait_s: float, json_path: str | None) -> None:
    """Examine the deployment that DAGSTER_HOME and HFASSETS_CATALOG name.

    Database, daemon, pools, folders, secrets, token; with the SLURM launcher also the cluster, and by a small job what
    a compute node sees of it all. Exit code 1 when there is a problem.
    """
    from hfassets.doctor.examine import examine_all
    from hfassets.doctor.finding import Level

    # Dagster and Alembic say much on stderr that is no finding.
    logging.getLogger("dagster").setLevel(logging.ERROR)
    findings = list(examine_all(fix=fix, wait_s=wait_s, say=lambda line: click.echo(line, err=True)))
    counts = Counter(found.level for found in findings)
    summary = ", ".join(f"{counts[level]} {level.value}" for level in Level if counts[level])
    lines = []
    for found in findings:
        advice = f"\n         → {found.advice}" if found.advice else ""
        lines.append(f"{found.level.value:8} {found.topic}: {found.text}{advice}")
    document = {"findings": [{**asdict(found), "level": found.level.value} for found in findings]}
    show(json_path, document, "\n".join([*lines, "", summary]))
    if counts[Level.PROBLEM]:
        raise HfassetsError(f"{counted(counts[Level.PROBLEM], 'problem')} to put right")
