"""`hfassets prune`: old runs."""

from __future__ import annotations

import datetime
import re
from typing import Any

import click

from hfassets.cli.output import json_option, show
from hfassets.errors import UsageError
from hfassets.report.units import counted

_SECONDS = {"h": 3600, "d": 86_400, "w": 7 * 86_400}


@click.command()
@click.option("--older-than", required=True, metavar="AGE", help="Runs that ended so long ago, like 30d, 12w or 48h.")
@click.option("--dry-run", is_flag=True, help="Say which, and delete nothing.")
@json_option
def prune(older_than: str, dry_run: bool, json_path: str | None) -> None:
    """Delete old runs from Dagster, with what they printed and the records of their jobs.

    A run stays as long as it holds the latest materialisation of a partition, or the latest result of a check: no
    partition loses its state. Data is never deleted.
    """
    from hfassets.cli.progress import ProgressDisplay
    from hfassets.cli.slurm import dagster_instance
    from hfassets.defs.code_location import check_keys
    from hfassets.defs.location import load_location
    from hfassets.defs.pruning import prune_runs

    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=_age(older_than))
    with dagster_instance() as instance, ProgressDisplay() as progress:
        found = prune_runs(instance, before, check_keys(load_location()), progress, dry_run=dry_run)
    document: dict[str, Any] = {"deleted": found.deleted, "kept": found.kept, "dry_run": dry_run}
    verb = "would be deleted" if dry_run else "deleted"
    kept = f"; {counted(len(found.kept), 'run')} as old kept, for what they hold" if found.kept else ""
    show(json_path, document, f"{counted(len(found.deleted), 'run')} {verb}{kept}")


def _age(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text)
    if not found or float(found[1]) <= 0:
        raise UsageError(f"--older-than {text}: must be a number with h, d or w (hours, days, weeks), like 30d")
    return float(found[1]) * _SECONDS[found[2]]
