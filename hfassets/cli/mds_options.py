"""Options and results that the commands of `hfassets mds` share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hfassets.cli.backend import backend_of
from hfassets.cli.options import PATH, Size, no_token, options, places, s3_options, state_option
from hfassets.cli.output import json_option, show
from hfassets.errors import UsageError
from hfassets.report.units import counted, format_bytes, format_seconds

if TYPE_CHECKING:
    from hfassets.mds.remote import Place
    from hfassets.mds.stage import Stage, StageOutput, StageRun

# s. A command waits for whoever writes the same folder, saying so.
LEASE_WAIT = 86_400.0

run_options = options(
    click.option("--workers", "-w", type=click.IntRange(1), default=1, show_default=True, help="Processes."),
    click.option("--force", is_flag=True, help="Make it again, over what the folder holds of ours."),
    state_option,
    json_option,
    no_token,
)
tokenizer_option = click.option(
    "-t", "--tokenizer", required=True, metavar="NAME", help="A repo of the Hub, a folder, or a tokenizer.json."
)
revision_option = click.option("--tokenizer-revision", default="main", show_default=True, help="Branch, tag or commit.")
prefix_option = click.option(
    "--use-prefix-space", is_flag=True, help="Put a space in front of each document, as for tagging words."
)
dtype_option = click.option("--dtype", type=click.Choice(["uint16", "uint32"]), help="[default: what the ids fit]")
part_option = click.option(
    "--part-size", type=Size(), default="1GiB", show_default=True, help="Input of a part, the unit of resuming."
)
compression_option = click.option(
    "--compression", metavar="none|zstd[:LEVEL]", help="Of the shards [default: zstd:1 for text, none for tokens]."
)
cache_option = click.option("--cache-dir", type=PATH, help="The Hub cache [default: the catalog's, HF_HUB_CACHE].")
validation_options = options(
    click.option(
        "--validation-fraction", type=click.FloatRange(0, 1, max_open=True), default=0.0, show_default=True,
        help="Documents that are kept for validation, by a hash of their text.",
    ),
    click.option("--validation-seed", type=int, default=0, show_default=True),
)  # fmt: skip

upload_options = options(
    click.option(
        "--upload-to", "-u", metavar="PLACE",
        help="Upload each part when it is made: s3://bucket/prefix, or ORG/NAME[/folder] of the Hub.",
    ),
    click.option("--cleanup-local", is_flag=True, help="Keep no shard here that is there."),
    s3_options,
)  # fmt: skip


def place_of(text: str, given: dict[str, Any]) -> Place:
    """Where to."""
    from hfassets.mds.remote import Place

    return Place(text, given["endpoint_url"], given["region"], given["profile"])


def stage_run(given: dict[str, Any]) -> StageRun:
    """The habits that were given."""
    from hfassets.mds.stage import StageRun

    state = places(given["state_dir"]).state
    return StageRun(state, given["workers"], given["force"], lease_wait=LEASE_WAIT, backend=backend_of(given))


def make(stage: Stage, given: dict[str, Any]) -> None:
    """Make a stage with a progress bar, and show it."""
    from hfassets.cli.progress import ProgressDisplay
    from hfassets.mds.shipping import Shipping, make_shipped
    from hfassets.mds.stage import make_stage

    to = given.get("upload_to")
    if given.get("cleanup_local") and not to:
        raise UsageError("--cleanup-local keeps nothing here; say by --upload-to where it goes")
    with ProgressDisplay() as progress:
        if to:
            shipping = Shipping(place_of(to, given), given["cleanup_local"])
            made = make_shipped(stage, stage_run(given), shipping, progress)
        else:
            made = make_stage(stage, stage_run(given), progress)
    show_output(made, given["json_path"])


def show_output(made: StageOutput, json_path: str | None) -> None:
    """What a folder holds now."""
    account = {name: count for name, count in made.account.items() if count}
    size = format_bytes(made.manifest.total_bytes)
    if made.reused:
        head = f"{made.root}: was ready ({size})"
    else:
        parts = f"{counted(made.parts_made, 'part')} made, {made.parts_reused} kept"
        head = f"{made.root}: {parts}, {size}, {format_seconds(made.seconds)}"
    lines = [f"  {name.replace('_', ' ')}: {count:,}" for name, count in account.items()]
    document = {"root": made.root, "fingerprint": made.fingerprint, "reused": made.reused, "account": made.account}
    show(json_path, {**document, "details": made.details}, head, *lines)


def compression_of(given: dict[str, Any], default: str | None) -> str | None:
    """What was asked for."""
    asked = given.get("compression")
    return default if asked is None else None if asked == "none" else str(asked)


def tokenizer_path(given: dict[str, Any]) -> Path:
    """Where the tokenizer lies, fetched if it has to be."""
    from hfassets.cli.progress import ProgressDisplay
    from hfassets.hub.options import hub_options
    from hfassets.hub.session import HubClient
    from hfassets.mds.tokenizers import tokenizer_folder

    where = places(given["state_dir"], given.get("cache_dir"))
    with ProgressDisplay() as progress, HubClient(hub_options(), progress) as client:
        return tokenizer_folder(
            given["tokenizer"], client, where.hub_cache, where.state, given["tokenizer_revision"], progress
        )
