"""`hfassets mds tokenize_mds | split_dataset_into_chunks | make`: text to tokens to rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hfassets.cli.backend import backend_options
from hfassets.cli.mds_options import (
    cache_option,
    compression_of,
    compression_option,
    dtype_option,
    make,
    part_option,
    prefix_option,
    revision_option,
    run_options,
    tokenizer_option,
    tokenizer_path,
    upload_options,
    validation_options,
)
from hfassets.cli.options import PATH, options, places
from hfassets.errors import HfassetsError, PartialFailureError, UsageError

if TYPE_CHECKING:
    from hfassets.tokens.rules import ChunkRule

rule_options = options(
    click.option("-c", "--chunk-size", "--chunk_size", type=click.IntRange(1), default=1024, show_default=True,
                 help="Tokens of a row, special ones included."),
    click.option("-m", "--min-chunk-size", "--min_chunk_size", type=click.IntRange(0), default=800, show_default=True,
                 help="Content tokens that a document's last piece should have."),
    click.option("-a", "--always-skip-size", "--always_skip_size", type=click.IntRange(0), default=500,
                 show_default=True, help="A last piece with fewer is dropped."),
    click.option("-b", "--backfill", is_flag=True, help="Fill a short last piece up from the one before."),
    click.option("--backfill_no_duplicates", "--backfill-no-duplicates", "no_duplicates", is_flag=True,
                 help="By moving tokens, in place of having them twice."),
    click.option("--enforce_min_chunk_size_zeroth", "--enforce-min-chunk-size-zeroth", "enforce_zeroth", is_flag=True,
                 help="Drop a document that is shorter than --always-skip-size."),
    click.option("--add_eos_token", "--add-eos-token", "add_eos", is_flag=True,
                 help="An end token behind each document that has none."),
    click.option("--mode", type=click.Choice(["per_document", "concat", "best_fit"]), default="per_document",
                 show_default=True, help="Each document by itself, all one after the other, or packed."),
)  # fmt: skip


def _rule(given: dict[str, Any]) -> ChunkRule:
    from hfassets.tokens.rules import ChunkRule

    if given["no_duplicates"] and not given["backfill"]:
        raise UsageError("--backfill_no_duplicates says how to backfill; give --backfill as well")
    return ChunkRule(
        given["chunk_size"],
        given["mode"],
        given["min_chunk_size"] if given["mode"] == "per_document" else 0,
        given["always_skip_size"] if given["mode"] == "per_document" else 0,
        given["backfill"],
        not given["no_duplicates"],
        given["add_eos"],
        given["enforce_zeroth"],
    )


@click.command("tokenize_mds")
@click.option("-d", "--dataset", "source", type=PATH, required=True, help="An MDS of text, at any depth.")
@click.option("-o", "--output", type=PATH, help="[default: <dataset>-tokenized]")
@click.option("--subfolders", is_flag=True, help="Each folder in --dataset is a dataset of its own.")
@click.option("--has_domains", "--has-domains", is_flag=True, hidden=True, help="Accepted; ids keep the folder.")
@click.option("--text-column", default="text", show_default=True)
@tokenizer_option
@revision_option
@prefix_option
@dtype_option
@click.option("--engine", type=click.Choice(["auto", "gigatoken", "tokenizers"]), default="auto", show_default=True)
@compression_option
@cache_option
@backend_options
@run_options
def tokenize_mds(**given: Any) -> None:
    """The tokens of each document, without special ones and without truncation."""
    path = tokenizer_path(given)
    sources = [given["source"]]
    if given["subfolders"]:
        sources = sorted(
            one for one in given["source"].iterdir() if one.is_dir() and not one.name.endswith("-tokenized")
        )
    failures = []
    for source in sources:
        output = given["output"] if given["output"] and not given["subfolders"] else None
        if given["subfolders"] and given["output"]:
            output = given["output"] / source.name
        try:
            _tokenize(source, output or source.with_name(f"{source.name}-tokenized"), path, given)
        except HfassetsError as error:
            if not given["subfolders"]:
                raise
            failures.append((source.name, str(error)))
    if failures:
        raise PartialFailureError("folders", failures, len(sources))


def _tokenize(source: Path, output: Path, tokenizer: Path, given: dict[str, Any]) -> None:
    from hfassets.mds.convert import ShardShape
    from hfassets.mds.tokenize import Tokenization
    from hfassets.mds.upstream import upstream
    from hfassets.tokens.engine import TokenizerSource

    found = TokenizerSource.read(tokenizer, name=given["tokenizer"], prefix_space=given["use_prefix_space"])
    made = Tokenization(
        output.absolute(), upstream(source.absolute()), found, tokenizer, given["dtype"], given["engine"],
        ShardShape(compression_of(given, None)), given["text_column"],
    )  # fmt: skip
    make(made.stage(), given)


@click.command("tokenize_mds_subfolders", hidden=True)
@click.option("-r", "--root", "source", type=PATH, required=True)
@click.option("-n", "--processes", "workers", type=click.IntRange(1), default=1)
@tokenizer_option
@revision_option
@prefix_option
@dtype_option
@click.option("-d", "--domains", is_flag=True, hidden=True)
@cache_option
@click.pass_context
def tokenize_mds_subfolders(context: click.Context, /, **given: Any) -> None:
    """As `tokenize_mds --subfolders`."""
    context.invoke(
        tokenize_mds, source=given["source"], output=None, subfolders=True, has_domains=False, text_column="text",
        tokenizer=given["tokenizer"], tokenizer_revision=given["tokenizer_revision"],
        use_prefix_space=given["use_prefix_space"], dtype=given["dtype"], engine="auto", compression=None,
        cache_dir=given["cache_dir"], workers=given["workers"], force=False, state_dir=None, json_path=None,
    )  # fmt: skip


@click.command("split_dataset_into_chunks")
@click.option("-s", "--source", type=PATH, required=True, help="A tokenized MDS.")
@click.option("-o", "--output", type=PATH, help="[default: chunked-<tokenizer>-<config>/<name> beside its folder]")
@rule_options
@click.option("-t", "--tokenizer", metavar="NAME", help="[default: the one that it was tokenized with]")
@revision_option
@click.option("--num_processes", "--num-processes", "processes", type=click.IntRange(1), help="As --workers.")
@click.option("--batch_size", "--batch-size", hidden=True, help="Accepted; a part is worked on as a whole.")
@click.option("--max_subfolders", "--max-subfolders", hidden=True, help="Accepted; there is no limit.")
@click.option("--reverse", is_flag=True, hidden=True, help="Accepted; the order of the work changes nothing.")
@compression_option
@cache_option
@backend_options
@run_options
def split_dataset_into_chunks(**given: Any) -> None:
    """Rows of at most --chunk-size tokens, special ones around each; every token is accounted for."""
    from hfassets.mds.chunk import Chunking
    from hfassets.mds.convert import ShardShape
    from hfassets.mds.tokenize import specials_of
    from hfassets.mds.upstream import upstream
    from hfassets.tokens.engine import Engine, TokenizerSource

    given["workers"] = given["processes"] or given["workers"]
    rule, source = _rule(given), given["source"].absolute()
    if given["tokenizer"] is None:
        name, specials = specials_of(source)
    else:
        name = given["tokenizer"]
        specials = Engine(TokenizerSource.read(tokenizer_path(given), name=name), "tokenizers").specials
    folder = f"chunked-{name.rstrip('/').rsplit('/', 1)[-1]}-{rule.name}"
    output = given["output"] or source.parent.parent / folder / source.name
    shape = ShardShape(compression_of(given, None))
    make(Chunking(output.absolute(), upstream(source), rule, specials, shape).stage(), given)


@click.command("make")
@click.option(
    "-i",
    "--input",
    "source",
    type=PATH,
    required=True,
    help="A folder of JSON lines or Parquet, one such file, or an MDS.",
)
@click.option("-o", "--output", type=PATH, required=True)
@rule_options
@tokenizer_option
@revision_option
@prefix_option
@dtype_option
@click.option("--text-column", default="text", show_default=True)
@click.option("--id-column", default="id", show_default=True)
@part_option
@validation_options
@compression_option
@cache_option
@upload_options
@backend_options
@run_options
def make_(**given: Any) -> None:
    """Files of text to chunked MDS in one go: the same rows, and nothing on disk in between."""
    from hfassets.cli.progress import ProgressDisplay
    from hfassets.mds.convert import ShardShape
    from hfassets.mds.documents import Columns
    from hfassets.mds.fused import FusedChunking
    from hfassets.mds.inputs import Cut
    from hfassets.mds.origins import Target, from_folder
    from hfassets.mds.sides import ValidationRule
    from hfassets.tokens.engine import TokenizerSource

    path = tokenizer_path(given)
    rule = _rule(given)
    target = Target(
        given["output"].absolute(), places(given["state_dir"]).state, Columns(given["text_column"], given["id_column"]),
        validation=ValidationRule(given["validation_seed"], given["validation_fraction"]), cut=Cut(given["part_size"]),
    )  # fmt: skip
    found = TokenizerSource.read(path, name=given["tokenizer"], prefix_space=given["use_prefix_space"])
    with ProgressDisplay() as progress:
        conversion = from_folder(given["source"], target, progress)
    shape = ShardShape(compression_of(given, None))
    make(FusedChunking(target.root, conversion, found, path, rule, given["dtype"], shape=shape).stage(), given)
