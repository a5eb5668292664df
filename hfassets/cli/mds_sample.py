"""`hfassets mds sample | mix | extend`: rows drawn to a target, mixed by share, or taken from long documents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hfassets.cli.mds_options import (
    cache_option,
    compression_of,
    compression_option,
    make,
    revision_option,
    run_options,
    show_output,
    stage_run,
    tokenizer_path,
)
from hfassets.cli.options import PATH
from hfassets.errors import UsageError

if TYPE_CHECKING:
    from hfassets.mds.sample import Member, Sampling


class Named(click.ParamType[tuple[str, float]]):
    """`NAME=NUMBER` or `NUMBER=NUMBER`."""

    name = "NAME=SHARE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        """(name, number)."""
        if isinstance(value, tuple):
            return value
        name, _, number = str(value).rpartition("=")
        try:
            found = float(number)
        except ValueError:
            found = -1.0
        if not name or found <= 0:
            self.fail(f"{value!r} is no share; it looks like {self.name.lower()}, with a number above 0", param, ctx)
        return name, found


def _member(folder: Path, name: str | None = None, tokens: int | None = None) -> Member:
    from hfassets.errors import DataError
    from hfassets.mds.sample import Member
    from hfassets.mds.stage import find_stage

    found = find_stage(folder)
    if found is None:
        raise DataError(f"{folder}: not a finished MDS of hfassets; chunk it first")
    return Member(name or folder.name, folder.absolute(), found.fingerprint, tokens)


def _make(sampling: Sampling, given: dict[str, Any]) -> None:
    from hfassets.cli.progress import ProgressDisplay
    from hfassets.mds.sample import make_sampling

    with ProgressDisplay() as progress:
        made = make_sampling(sampling, stage_run(given), progress)
    show_output(made, given["json_path"])


@click.command("sample")
@click.option("-i", "--input", "source", type=PATH, required=True, help="A chunked MDS.")
@click.option("-o", "--output", type=PATH, required=True, help="Gets train/ and validation/.")
@click.option("-t", "--tokens", type=click.IntRange(1), help="Of the training side, special ones included.")
@click.option(
    "--sample-fraction", "--sample_fraction", type=click.FloatRange(0, min_open=True), help="Or a part of it."
)
@click.option("--seed", type=int, default=42, show_default=True)
@compression_option
@run_options
def sample(**given: Any) -> None:
    """Documents drawn over all parts to a target of tokens, repeated if there are too few; without one, all of them.

    What is taken whole is linked, not copied.
    """
    from hfassets.mds.convert import ShardShape
    from hfassets.mds.sample import Sampling, training_tokens

    tokens = given["tokens"]
    if given["sample_fraction"] is not None:
        if tokens is not None:
            raise UsageError("--tokens and --sample-fraction are two targets; give one")
        tokens = max(1, int(training_tokens(given["source"]) * given["sample_fraction"]))
    member = _member(given["source"], tokens=tokens)
    shape = ShardShape(compression_of(given, None))
    _make(Sampling(given["output"].absolute(), [member], given["seed"], shape=shape), given)


@click.command("mix")
@click.option("-o", "--output", type=PATH, required=True, help="Gets train/<name>/ and validation/<name>/.")
@click.option(
    "-m",
    "--member",
    "members",
    type=Named(),
    multiple=True,
    required=True,
    metavar="FOLDER=SHARE",
    help="A chunked or sampled MDS and its share; can be repeated.",
)
@click.option("-t", "--tokens", type=click.IntRange(1), help="In all [default: as many as without anything twice].")
@click.option("--seed", type=int, default=42, show_default=True)
@compression_option
@run_options
def mix(**given: Any) -> None:
    """A training set of several MDS by their shares, with one index a side."""
    from hfassets.mds.convert import ShardShape
    from hfassets.mds.sample import Sampling, by_share, training_tokens

    shares = {Path(folder).name: share for folder, share in given["members"]}
    if len(shares) < len(given["members"]):
        raise UsageError("two members have folders of the same name; their shards would lie in one")
    members = [_member(Path(folder)) for folder, _ in given["members"]]
    there = {member.name: training_tokens(member.root) for member in members}
    found = by_share(members, shares, there, given["tokens"])
    shape = ShardShape(compression_of(given, None))
    output = given["output"].absolute()
    _make(Sampling(output, found, given["seed"], "training_mds", True, shape), given)


@click.command("extend")
@click.option(
    "-s",
    "--source",
    "domains",
    type=Named(),
    multiple=True,
    required=True,
    metavar="FOLDER=SHARE",
    help="A tokenized MDS and its share of the budget; can be repeated.",
)
@click.option("-o", "--output", type=PATH, required=True)
@click.option(
    "--num_tokens",
    "--num-tokens",
    "tokens",
    type=click.IntRange(1),
    default=10_000_000,
    show_default=True,
    help="The budget, in tokens of documents.",
)
@click.option("-c", "--chunk-size", "--chunk_size", type=click.IntRange(1), default=8192, show_default=True)
@click.option(
    "--bucket",
    "buckets",
    type=Named(),
    multiple=True,
    metavar="LENGTH=SHARE",
    help="Documents from so many tokens on, and their share [default: the chunk size, all of it].",
)
@click.option("--seed", type=int, default=12345, show_default=True)
@click.option("--tokenizer", metavar="NAME", help="[default: the one that the first source was tokenized with]")
@revision_option
@compression_option
@cache_option
@run_options
def extend(**given: Any) -> None:
    """Rows of a longer context from documents that are long enough, drawn uniformly over the training side."""
    from hfassets.mds.convert import ShardShape
    from hfassets.mds.extend import Domain, Extension
    from hfassets.mds.tokenize import specials_of
    from hfassets.mds.upstream import upstream
    from hfassets.tokens.engine import Engine, TokenizerSource
    from hfassets.tokens.rules import ChunkRule

    domains = [
        Domain(Path(folder).name, upstream(Path(folder).absolute()), share) for folder, share in given["domains"]
    ]
    if given["tokenizer"] is None:
        _, specials = specials_of(domains[0].tokens.root)
    else:
        specials = Engine(TokenizerSource.read(tokenizer_path(given)), "tokenizers").specials
    rule = ChunkRule(given["chunk_size"])
    try:
        buckets = {int(length): share for length, share in given["buckets"]} or {given["chunk_size"]: 1.0}
    except ValueError as error:
        raise UsageError(f"--bucket: {error}; it looks like 8192=0.5") from None
    made = Extension(
        given["output"].absolute(), domains, given["tokens"], rule, specials, buckets, given["seed"],
        ShardShape(compression_of(given, None)),
    )  # fmt: skip
    make(made.stage(), given)
