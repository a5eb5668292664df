"""`hfassets adopt`: take over what somebody else has written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hfassets.cli.options import PATH, places, state_option
from hfassets.cli.output import json_option, show
from hfassets.errors import HfassetsError, IntegrityError, PartialFailureError, UsageError
from hfassets.report.units import format_bytes

if TYPE_CHECKING:
    from hfassets.progress import ProgressCallback


@click.command()
@click.argument("path", type=PATH)
@click.option(
    "--as",
    "partition",
    metavar="ASSET:KEY",
    help="An MDS: count as this partition of the catalog, like chunked_mds:c4-en.",
)
@click.option("--verify", is_flag=True, help="Read an adopted folder again and hold it against its manifest.")
@click.option("--force", is_flag=True, help="Read a folder again that was adopted before, and believe what it is now.")
@click.option("--offline", is_flag=True, help="A Hub cache: do not ask the Hub which files there should be.")
@click.option("--workers", type=click.IntRange(1), help="Files read at once [default: one a core].")
@state_option
@json_option
def adopt(path: Path, json_path: str | None, **given: Any) -> None:
    """Read PATH once and give it a manifest, so that it counts as done: nothing of it is changed, nothing fetched.

    A Hub cache or a `datasets` cache (those of the catalog): each partition of the catalog that is there whole. Any
    other folder of MDS, Parquet or JSON lines (plain, .gz, .zst): by `adopted.json` in it.
    """
    from hfassets.adopt import kind_of
    from hfassets.cli.progress import ProgressDisplay

    kind = kind_of(path)
    with ProgressDisplay() as progress:
        if kind in ("hub cache", "datasets cache"):
            if given["partition"] or given["verify"]:
                raise UsageError(
                    f"{path} is a {kind}: --as and --verify are for folders; `hfassets hub verify` reads it"
                )
            _adopt_cache(path, kind, progress, json_path, offline=given["offline"])
        elif given["verify"]:
            _verify(path, progress, given["workers"], json_path)
        else:
            _adopt_folder(path, progress, given, json_path)


def _adopt_folder(path: Path, progress: ProgressCallback, given: dict[str, Any], json_path: str | None) -> None:
    from hfassets.adopt import adopt_folder
    from hfassets.adopt.partition import link_partition

    state = places(given["state_dir"]).state
    found = adopt_folder(path, state, progress, force=given["force"], workers=given["workers"])
    place = None
    if given["partition"]:
        place = link_partition(found, given["partition"])
    size, files = format_bytes(found.manifest.total_bytes), len(found.manifest.files)
    text = f"{path}: {found.kind}, {files:,} files, {found.rows:,} rows, {size}"
    text += ", adopted before" if found.reused else ", adopted"
    document = {
        "path": str(found.root),
        "kind": found.kind,
        "files": files,
        "rows": found.rows,
        "bytes": found.manifest.total_bytes,
        "fingerprint": found.manifest.fingerprint,
        "reused": found.reused,
        "partition": None if place is None else str(place),
    }
    more = [] if place is None else [f"{given['partition']} is {place}; `hfassets register` tells Dagster"]
    show(json_path, document, text, *more)


def _verify(path: Path, progress: ProgressCallback, workers: int | None, json_path: str | None) -> None:
    from hfassets.adopt import verify_adopted

    faults = verify_adopted(path, progress, workers)
    lines = [f"  FAULT: {one}" for one in faults]
    show(json_path, {"path": str(path), "faults": faults}, f"{path}: {'damaged' if faults else 'intact'}", *lines)
    if faults:
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise IntegrityError(f"{path}: {faults[0]}{more}")


def _adopt_cache(path: Path, kind: str, progress: ProgressCallback, json_path: str | None, *, offline: bool) -> None:
    from hfassets.adopt.caches import adopt_hub_cache, adopt_prepared
    from hfassets.catalog import accept, catalog_path
    from hfassets.report.tables import build_table

    accepted = accept(catalog_path(), record=False)
    catalog = accepted.require()
    if catalog.storage.umask is not None:
        os.umask(catalog.storage.umask)
    if kind == "hub cache":
        found = adopt_hub_cache(path, accepted, progress, offline=offline)
    else:
        # Nothing is asked of the Hub for Arrow files, offline or not.
        found = adopt_prepared(path, accepted, progress)
    rows = [(one.key, one.what, format_bytes(one.size), one.why) for one in found]
    table = build_table(["partition", "", "size >", "why not"], rows)
    count = sum(one.what != "not adopted" for one in found)
    show(json_path, found, table.rich(), f"{count} of {len(found)} partitions of the catalog are there")
    if not count:
        raise HfassetsError(f"{path}: none of the catalog's partitions is there whole")
    damaged = [(one.key, one.why) for one in found if one.damaged]
    if damaged:
        raise PartialFailureError("partitions", damaged, len(found))
