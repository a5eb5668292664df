"""`hfassets distill logits`: what a teacher expects behind each token of packed rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hfassets.cli.backend import backend_of, backend_options
from hfassets.cli.options import PATH, no_token, places, state_option
from hfassets.cli.output import json_option, show
from hfassets.report.tables import build_table
from hfassets.report.units import format_bytes, format_seconds

# s. A command waits for whoever writes the same folder, saying so.
LEASE_WAIT = 86_400.0


@click.command("logits")
@click.option("--data-dir", "-i", "source", type=PATH, required=True,
              help="What `hfassets distill tokenize` made: a folder of splits, or one of shards.")  # fmt: skip
@click.option("--teacher-model", "-m", "teacher", required=True, metavar="NAME", help="A repo of the Hub, or a folder.")
@click.option("--teacher-revision", default="main", show_default=True, help="Branch, tag or commit.")
@click.option("--output-dir", "-o", "output", type=PATH, default=Path("data/teacher_cache"), show_default=True,
              help="Gets a folder of shards for each split.")  # fmt: skip
@click.option("--top-k", "-k", type=click.IntRange(1, 1 << 16), default=32, show_default=True,
              help="Tokens of which the log-probability is kept; of the others the mass.")  # fmt: skip
@click.option("--temperature", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Rows of a forward pass.")
@click.option("--max-seq-length", type=click.IntRange(1), help="Positions of a row, the others are left out [all].")
@click.option("--dtype", type=click.Choice(["auto", "bfloat16", "float32"]), default="auto", show_default=True,
              help="Of the model; auto: bfloat16 on a GPU.")  # fmt: skip
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True)
@click.option("--values", type=click.Choice(["float32", "float16"]), default="float32", show_default=True,
              help="How log-probabilities are stored.")  # fmt: skip
@click.option("--shard-size-mb", type=click.IntRange(1), default=256, show_default=True,
              help="At most, for a file, which is also the unit of resuming.")  # fmt: skip
@click.option("--workers", "-w", type=click.IntRange(1), default=1, show_default=True,
              help="Processes, each with a model of its own: as many as GPUs.")  # fmt: skip
@click.option("--force", is_flag=True, help="Make all again.")
@click.option("--cache-dir", type=PATH, help="The Hub cache for the teacher [default: the catalog's, HF_HUB_CACHE].")
@backend_options
@state_option
@json_option
@no_token
def logits(**given: Any) -> None:
    """The likeliest tokens behind each token, with their log-probabilities and the mass of all others, by a teacher
    that has the student's tokenizer. What is ready stays; a run that was killed goes on shard by shard.
    """
    from hfassets.cli.progress import ProgressDisplay
    from hfassets.hub.layout import RepoCache
    from hfassets.hub.options import hub_options
    from hfassets.hub.session import HubClient
    from hfassets.hub.sweep import default_workers
    from hfassets.mds.stage import StageRun
    from hfassets.packed.logits import LogitRule, Logits
    from hfassets.packed.teach import teach_folder
    from hfassets.packed.teacher import check_torch
    from hfassets.packed.teacher_model import hub_teacher, local_teacher

    check_torch()
    where = places(given["state_dir"], given["cache_dir"])
    name, output = given["teacher"], given["output"].absolute()
    rule = LogitRule(
        given["top_k"], given["temperature"], given["max_seq_length"], given["values"], given["dtype"]
    )  # fmt: skip
    with ProgressDisplay() as progress:
        local = Path(name).expanduser()
        if local.exists():
            teacher = local_teacher(local, where.state, progress)
        else:
            with HubClient(hub_options(), progress) as client:
                repo = RepoCache(where.hub_cache, name, "model")
                teacher = hub_teacher(client, repo, given["teacher_revision"], where.state, progress)
        made = teach_folder(
            given["source"],
            lambda split, rows: Logits(
                output / split,
                rows,
                teacher,
                rule,
                given["batch_size"],
                given["shard_size_mb"] << 20,
                given["device"],
                # Several models on one machine would be in each other's way.
                max(1, default_workers() // given["workers"]) if given["workers"] > 1 else None,
            ),
            StageRun(where.state, given["workers"], given["force"], lease_wait=LEASE_WAIT, backend=backend_of(given)),
            progress,
        )
    rows: list[tuple[object, ...]] = [
        (
            split or given["source"].name,
            "was ready" if one.reused else "made",
            one.details["rows"],
            one.details["positions_written"],
            f"{one.details['cross_entropy']:.3f}",
            one.details["bytes_per_position"],
            one.details["shards_created"],
            format_bytes(one.manifest.total_bytes),
            one.details["tokens_per_second"],
            format_seconds(one.seconds),
        )
        for split, one in made.made.items()
    ]
    rows += [(split, "FAILED", *[None] * 5, "", None, "") for split, _ in made.failures]
    columns = ["split", "", "rows>", "positions>", "nats/token>", "B/position>", "shards>", "size>", "tok/s>", "time>"]
    document = {
        "splits": {split: {"reused": one.reused, **one.details} for split, one in made.made.items()},
        "failures": made.failures,
    }
    if made.made:
        show(given["json_path"], document, build_table(columns, rows).rich(), f"Folder: {output}")
    made.check()
