"""`hfassets mds hf_to_mds | jsonl_to_mds | dolma_to_mds`: text of any source to MDS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hfassets.cli.backend import backend_options
from hfassets.cli.mds_options import (
    cache_option,
    compression_of,
    compression_option,
    make,
    part_option,
    run_options,
    upload_options,
    validation_options,
)
from hfassets.cli.options import PATH, options, places
from hfassets.errors import UsageError

if TYPE_CHECKING:
    from hfassets.mds.origins import Target

# The sections of dolma 1.7 by the tags that its users know; `wiki-` is not wikiref_megawika.
DOLMA_TAGS = (
    *("falcon", "c4", "books", "cc_en_head", "cc_en_tail", "cc_en_middle", "megawika", "cc_news", "pes2o"),
    *("tulu_flan", "starcoder", "stackexchange", "arxiv", "open-web-math", "reddit", "algebraic-stack", "wiki-"),
)
DOLMA_REPO = "allenai/dolma"
DOLMA_URLS = "urls/v1_7.txt"

columns_options = options(
    click.option("--text-column", default="text", show_default=True),
    click.option("--id-column", default="id", show_default=True, help="Missing ids are made of file and row."),
    click.option("--mapper", metavar="NAME|MODULE:FUNCTION", help="What makes a row's text, in place of the column."),
)


def _target(root: Path, given: dict[str, Any], **more: Any) -> Target:
    from hfassets.mds.convert import ShardShape
    from hfassets.mds.documents import Columns
    from hfassets.mds.inputs import Cut
    from hfassets.mds.origins import Target
    from hfassets.mds.sides import ValidationRule

    base: dict[str, Any] = {
        "columns": Columns(given["text_column"], given["id_column"]),
        "mapper": given["mapper"],
        "validation": ValidationRule(given["validation_seed"], given["validation_fraction"]),
        "shape": ShardShape(compression_of(given, ShardShape().compression)),
        "cut": Cut(given["part_size"]),
    }
    return Target(root.absolute(), places(given["state_dir"]).state, **{**base, **more})


@click.command("hf_to_mds")
@click.option("-r", "--repo", required=True, metavar="REPO", help="A dataset of the Hub.")
@click.option("-s", "--split", default="train", show_default=True)
@click.option("-c", "--config", help="[default: the repo's default]")
@click.option("--revision", default="main", show_default=True, help="Branch, tag or commit.")
@click.option("-o", "--output", type=PATH, help="[default: data/text/<repo>---<split>---<config>]")
@click.option("-m", "--max-shards", hidden=True, help="Accepted; it never had a meaning.")
@click.option("--resume", hidden=True, is_flag=False, flag_value="yes", help="Accepted; it resumes by itself.")
@columns_options
@part_option
@validation_options
@compression_option
@cache_option
@upload_options
@backend_options
@run_options
def hf_to_mds(**given: Any) -> None:
    """A dataset of the Hub: its files, pinned and proven, as MDS with the columns id and text."""
    from hfassets.cli.progress import ProgressDisplay
    from hfassets.hub.download import resolve_revision
    from hfassets.hub.layout import RepoCache
    from hfassets.hub.options import hub_options
    from hfassets.hub.session import HubClient
    from hfassets.mds.origins import from_hub

    name = f"{given['repo'].replace('/', '---')}---{given['split']}---{given['config'] or 'default'}"
    target = _target(given["output"] or Path("data/text") / name, given, name_of=lambda index: f"split_{index}")
    where = places(given["state_dir"], given["cache_dir"])
    with ProgressDisplay() as progress, HubClient(hub_options(), progress) as client:
        repo = RepoCache(where.hub_cache, given["repo"])
        commit = resolve_revision(client, repo, given["revision"])
        found = from_hub(client, repo, commit, given["config"], given["split"], target, progress=progress)
    make(found.stage(), given)


@click.command("jsonl_to_mds")
@click.option(
    "-i",
    "--input",
    "source",
    type=PATH,
    required=True,
    help="A folder of JSON lines or Parquet, one such file, or an MDS.",
)
@click.option("-o", "--output", type=PATH, required=True)
@click.option("--shard", is_flag=True, help="Parts of --shard-size rows, as folders shard_00000 and so on.")
@click.option("--shard-size", type=click.IntRange(1), default=10_000, show_default=True)
@click.option("-v", "--verbose", is_flag=True, hidden=True, help="Accepted.")
@columns_options
@part_option
@validation_options
@compression_option
@upload_options
@backend_options
@run_options
def jsonl_to_mds(**given: Any) -> None:
    """Files of JSON lines, JSON or Parquet (gzip and zstd too) as MDS with the columns id and text."""
    from hfassets.cli.progress import ProgressDisplay
    from hfassets.mds.inputs import Cut
    from hfassets.mds.origins import from_folder

    more: dict[str, Any] = {}
    if given["shard"]:
        more = {"cut": Cut(rows=given["shard_size"]), "name_of": lambda index: f"shard_{index:05}"}
    target = _target(given["output"], given, **more)
    with ProgressDisplay() as progress:
        found = from_folder(given["source"], target, progress)
    make(found.stage(), given)


@click.command("dolma_to_mds")
@click.option("-s", "--section", required=True, metavar="TAG", help=f"One of {', '.join(DOLMA_TAGS)}.")
@click.option("-o", "--output", type=PATH, help="[default: data/text/dolma-<section>]")
@click.option("--urls", type=PATH, help=f"A list of URLs [default: {DOLMA_URLS} of {DOLMA_REPO}].")
@click.option("-d", "--dataset", hidden=True, help="Accepted; it never had a meaning.")
@click.option("--max-retries", type=click.IntRange(0), default=5, show_default=True, help="For each file.")
@columns_options
@part_option
@validation_options
@compression_option
@cache_option
@upload_options
@backend_options
@run_options
def dolma_to_mds(**given: Any) -> None:
    """A section of Dolma, or of any list of URLs: each file fetched, proven and converted as a part of its own."""
    from hfassets.mds.origins import from_urls
    from hfassets.mds.urls import read_url_list

    section = given["section"]
    if given["urls"] is None and section not in DOLMA_TAGS:
        raise UsageError(f"no section {section!r} in Dolma; there are {', '.join(DOLMA_TAGS)}, or give --urls FILE")
    path = given["urls"] or _dolma_urls(given)
    target = _target(given["output"] or Path("data/text") / f"dolma-{section.strip('-')}", given)
    make(from_urls(read_url_list(path, section), target, given["max_retries"]).stage(), given)


def _dolma_urls(given: dict[str, Any]) -> Path:
    """The list that the dataset's repo has, from the Hub cache or the Hub."""
    from hfassets.cli.progress import ProgressDisplay
    from hfassets.hub.acquire import commit_listing
    from hfassets.hub.download import resolve_revision
    from hfassets.hub.layout import RepoCache
    from hfassets.hub.memory import VerifyMemory
    from hfassets.hub.options import hub_options
    from hfassets.hub.session import HubClient
    from hfassets.sources.cached import fetch_sources

    where = places(given["state_dir"], given["cache_dir"])
    repo = RepoCache(where.hub_cache, DOLMA_REPO)
    with ProgressDisplay() as progress, HubClient(hub_options(), progress) as client:
        commit = resolve_revision(client, repo, "main")
        listing = commit_listing(client, repo, commit, where.state, progress)
        wanted = listing.select([DOLMA_URLS])
        fetch_sources(client, repo, wanted, VerifyMemory.open(where.state, repo), progress)
    return repo.snapshot(commit) / DOLMA_URLS
