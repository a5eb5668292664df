"""`hfassets register`: Dagster's state from manifests."""

from __future__ import annotations

from dataclasses import asdict

import click

from hfassets.cli.output import json_option, show
from hfassets.errors import HfassetsError, UsageError


@click.command()
@click.option(
    "--asset", "names", multiple=True, metavar="NAME", help="Only these assets; can be repeated [default: all]."
)
@click.option("--dry-run", is_flag=True, help="Say what Dagster would be told, and tell nothing.")
@json_option
def register(names: tuple[str, ...], dry_run: bool, json_path: str | None) -> None:
    """Tell Dagster of every partition that is on disk: after work by the command line, or when its database was lost.

    Nothing is made, fetched or hashed. What Dagster knows already stays as it is, so it can be run at any time.
    """
    from hfassets.cli.progress import ProgressDisplay
    from hfassets.cli.slurm import dagster_instance
    from hfassets.defs.code_location import all_registrables
    from hfassets.defs.location import load_location
    from hfassets.defs.registration import register as tell
    from hfassets.report.tables import build_table

    location = load_location()
    location.accepted.require()
    found = all_registrables(location)
    known = [one.asset.to_user_string() for one in found]
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"--asset {unknown[0]}: the catalog has none; there are {', '.join(known)}")
    wanted = [one for one in found if not names or one.asset.to_user_string() in names]
    with dagster_instance() as instance, ProgressDisplay() as progress:
        results = tell(instance, wanted, progress, dry_run=dry_run)
    heading = "would be told >" if dry_run else "told >"
    rows = [(one.asset, one.told, one.known, one.absent, one.unproven, len(one.faults)) for one in results]
    table = build_table(["asset", heading, "known already >", "not made >", "never read here >", "unreadable >"], rows)
    notes = []
    if any(one.unproven for one in results):
        notes = ["What was never read here has no checks yet; the re-verification sensor reads it, or `verify` does."]
    show(json_path, {"dry_run": dry_run, "assets": [asdict(one) for one in results]}, table.rich(), *notes)
    faults = [line for one in results for line in one.faults]
    if faults:
        raise HfassetsError(f"{len(faults)} partitions could not be looked at; first: {faults[0]}")
