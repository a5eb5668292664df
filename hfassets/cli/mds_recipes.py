"""`hfassets mds recipes`: all recipes of the catalog in one go."""

from __future__ import annotations

import os

import click

from hfassets.cli.options import no_token
from hfassets.cli.output import json_option, show
from hfassets.errors import CatalogError
from hfassets.mds.batch import STAGES, make_all
from hfassets.report.tables import build_table
from hfassets.report.units import format_bytes


@click.command("recipes")
@click.argument("names", nargs=-1)
@click.option("--stage", type=click.Choice(STAGES), default=STAGES[-1], show_default=True,
              help="The last one; after `sample` come mixtures and extensions.")  # fmt: skip
@click.option("--workers", "-w", type=click.IntRange(1), help="Processes [default: as the catalog says].")
@click.option("--force", is_flag=True, help="Make all again.")
@json_option
@no_token
def recipes(names: tuple[str, ...], stage: str, workers: int | None, force: bool, json_path: str | None) -> None:
    """Recipes, mixtures and extensions of the catalog: those named with what they are made of, or all.

    What is ready stays as it is. One that fails is named in the end, and costs only what needs it.
    """
    from hfassets.catalog.accepted import accept
    from hfassets.catalog.load import catalog_path
    from hfassets.cli.progress import ProgressDisplay
    from hfassets.mds.from_catalog import Recipes

    accepted = accept(catalog_path(), record=False)
    if accepted.errors:
        raise CatalogError(accepted.errors)
    if accepted.catalog.storage.umask is not None:
        os.umask(accepted.catalog.storage.umask)
    with ProgressDisplay() as progress:
        batch = make_all(
            Recipes(accepted.catalog, force=force, workers=workers), accepted.partitions, names, stage, progress
        )
    rows = [
        (key, name, "was ready" if made.reused else "made", format_bytes(made.manifest.total_bytes), str(made.root))
        for key, name, made in batch.made
    ]
    document = {
        "made": [
            {"entry": key, "stage": name, "root": made.root, "fingerprint": made.fingerprint, "reused": made.reused}
            for key, name, made in batch.made
        ],
        "failures": batch.failures,
    }
    table = build_table(["entry", "stage", "", "size>", "folder"], rows)
    entries = "1 entry" if batch.entries == 1 else f"{batch.entries:,} entries"
    show(json_path, document, table.rich(), f"{entries}, {len(batch.failures)} failed")
    batch.check()
