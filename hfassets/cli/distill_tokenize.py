"""`hfassets distill tokenize`: files of text to packed Parquet; with the flags of the scripts it replaces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hfassets.cli.backend import backend_of, backend_options
from hfassets.cli.options import PATH, Size, no_token, places, state_option
from hfassets.cli.output import json_option, show
from hfassets.report.tables import build_table
from hfassets.report.units import format_bytes, format_seconds

# s. A command waits for whoever writes the same folder, saying so.
LEASE_WAIT = 86_400.0


@click.command("tokenize")
@click.option("--input-dir", "--input", "-i", "source", type=PATH, default=Path("data/distillation"), show_default=True,
              help="A folder of JSON lines or Parquet (gzip, zstd), or one such file.")  # fmt: skip
@click.option("--output-dir", "--output", "-o", "output", type=PATH, default=Path("data/distillation_preprocessed"),
              show_default=True, help="Gets a folder of shards for each file.")  # fmt: skip
@click.option("--tokenizer", "-t", default="meta-llama/Llama-3.2-1B", show_default=True, metavar="NAME",
              help="A repo of the Hub, a folder, or a tokenizer.json.")  # fmt: skip
@click.option("--tokenizer-revision", default="main", show_default=True, help="Branch, tag or commit.")
@click.option("--max-seq-length", type=click.IntRange(1), default=8192, show_default=True, help="Tokens of a row.")
@click.option("--packing", type=click.Choice(["concat", "best_fit"]), default="concat", show_default=True,
              help="All documents one after the other and cut, or none cut that fits a row.")  # fmt: skip
@click.option("--labels", type=click.Choice(["shifted", "unshifted"]), default="shifted", show_default=True,
              help="Label i is token i + 1, or token i for trainers that shift themselves.")  # fmt: skip
@click.option("--add-bos", is_flag=True, help="The tokenizer's begin token in front of each document.")
@click.option("--loss-mask", is_flag=True, help="A column that is 0 for the tokens of rationales, as a mix names them.")
@click.option("--shard-size-mb", type=click.IntRange(1), default=2048, show_default=True, help="At most, for a file.")
@click.option("--shard-size", "gigabytes", type=click.IntRange(1), hidden=True, help="The same in GiB.")
@click.option("--recursive", "-r", is_flag=True, help="Files at any depth.")
@click.option("--skip-existing", is_flag=True, help="Leave what is finished, whatever it was made with.")
@click.option("--force", is_flag=True, help="Make all again.")
@click.option("--workers", "-w", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option(
    "--part-size", type=Size(), default="1GiB", show_default=True, help="Text of a part, the unit of resuming."
)
@click.option("--text-column", default="text", show_default=True)
@click.option("--id-column", default="id", show_default=True, help="Missing ids are made of file and row.")
@click.option("--cache-dir", type=PATH, help="The Hub cache for the tokenizer [default: the catalog's, HF_HUB_CACHE].")
@backend_options
@state_option
@json_option
@no_token
def tokenize(**given: Any) -> None:
    """Text to rows of tokens as Parquet: input_ids, attention_mask and labels as lists of one length, an end token
    behind each document. What is ready stays; a run that was killed goes on where it was.
    """
    from hfassets.cli.progress import ProgressDisplay
    from hfassets.hub.options import hub_options
    from hfassets.hub.session import HubClient
    from hfassets.mds.documents import Columns
    from hfassets.mds.stage import StageRun
    from hfassets.mds.tokenizers import tokenizer_folder
    from hfassets.packed.folder import FolderPacking, pack_folder
    from hfassets.tokens.engine import TokenizerSource

    where = places(given["state_dir"], given["cache_dir"])
    name, revision = given["tokenizer"], given["tokenizer_revision"]
    with ProgressDisplay() as progress:
        with HubClient(hub_options(), progress) as client:
            path = tokenizer_folder(name, client, where.hub_cache, where.state, revision, progress)
        wanted = FolderPacking(
            given["source"],
            given["output"].absolute(),
            TokenizerSource.read(path, name=name),
            path,
            given["max_seq_length"],
            given["packing"],
            given["labels"] == "shifted",
            given["add_bos"],
            (1024 * given["gigabytes"] if given["gigabytes"] else given["shard_size_mb"]) << 20,
            given["part_size"],
            given["recursive"],
            given["skip_existing"],
            Columns(given["text_column"], given["id_column"]),
            given["loss_mask"],
        )
        run = StageRun(where.state, given["workers"], given["force"], lease_wait=LEASE_WAIT, backend=backend_of(given))
        made = pack_folder(wanted, run, progress)
    rows: list[tuple[object, ...]] = [
        (
            name,
            "was ready" if one.reused else "made",
            one.details["total_samples"],
            one.details["total_tokens"],
            one.details["total_sequences"],
            f"{one.details['fill_rate']:.1%}",
            one.details["shards_created"],
            format_bytes(one.manifest.total_bytes),
            format_seconds(one.seconds),
        )
        for name, one in made.made.items()
    ]
    if given["loss_mask"] and made.made and not any(one.details["not_learnt"] for one in made.made.values()):
        click.echo("warning: no row has a metadata.rationale_span: the masks leave nothing out", err=True)
    rows += [(name, "skipped", *[None] * 5, "", "") for name in made.skipped]
    rows += [(name, "FAILED", *[None] * 5, "", "") for name, _ in made.failures]
    columns = ["split", "", "documents>", "tokens>", "rows>", "filled>", "shards>", "size>", "time>"]
    document = {
        "manifest": made.manifest,
        "splits": {name: {"reused": one.reused, **one.details} for name, one in made.made.items()},
        "skipped": made.skipped,
        "failures": made.failures,
    }
    show(given["json_path"], document, build_table(columns, rows).rich(), f"Manifest: {made.manifest}")
    made.check()
