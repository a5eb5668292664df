"""`hfassets c4`: a shard set made, verified, brought back; with the flags that users of the older script know."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hfassets.cli.backend import backend_of, backend_options
from hfassets.cli.options import PATH, no_token, places, s3_options, state_option
from hfassets.cli.output import json_option, show
from hfassets.cli.progress import ProgressDisplay
from hfassets.errors import HfassetsError, IntegrityError, PartialFailureError, UsageError
from hfassets.report.tables import build_table
from hfassets.report.units import counted, format_bytes, format_seconds

if TYPE_CHECKING:
    from hfassets.c4.request import ShardSetRequest
    from hfassets.c4.shard_set import ShardSet
    from hfassets.storage.s3 import S3Settings

DEFAULT_FOLDER = Path("data/c4_subset")
# s. A command waits for whoever writes the same shard set, saying so.
LEASE_WAIT = 86_400.0


@click.group(invoke_without_command=True)
@click.option("--num-samples", type=click.IntRange(1), default=1000, show_default=True, help="Rows in all.")
@click.option("--split", default="train", show_default=True, help="train, validation, or what the dataset has.")
@click.option(
    "--streaming/--no-streaming",
    default=None,
    help="Read only what is needed of the sources, or fetch them whole first [default: stream up to 10,000 samples].",
)
@click.option("--output-dir", type=PATH, default=DEFAULT_FOLDER, show_default=True, help="The folder for the parts.")
@click.option("--cache-dir", type=PATH, help="The Hub cache for source files [default: the catalog's, HF_HUB_CACHE].")
@click.option("--s3-path", metavar="URI", help="Upload the parts below s3://bucket/prefix.")
@click.option("--cleanup-local", is_flag=True, help="Keep no local copy of what is in S3; the default with --s3-path.")
@click.option("--no-cleanup", is_flag=True, help="Keep the local copies in --output-dir.")
@click.option("--max-lines-per-file", type=click.IntRange(1), help="Begin a new part after so many rows.")
@click.option("--repo", metavar="REPO", default="allenai/c4", show_default=True, help="JSON lines or Parquet.")
@click.option("--config", help="[default: en for allenai/c4, else the repo's default]")
@click.option("--revision", default="main", show_default=True, help="A branch, a tag or a commit.")
@click.option("--shuffle", is_flag=True, help="A random sample over the split in place of its first rows.")
@click.option("--seed", type=click.IntRange(0), help="Of the sample [default: 42]; implies --shuffle.")
@click.option("--compression", type=click.Choice(["none", "gzip", "zstd"]), default="none", show_default=True)
@click.option(
    "--on-shortfall",
    type=click.Choice(["fail", "report"]),
    default="fail",
    show_default=True,
    help="What to do when the split has fewer rows.",
)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes for whole sources.")
@backend_options
@click.option("--max-retries", type=click.IntRange(0), default=5, show_default=True, help="For each request.")
@click.option("--backoff-factor", type=click.FloatRange(0), default=1.0, show_default=True, help="In s, doubled.")
@click.option("--offline", is_flag=True, help="Use what the Hub cache holds; as HF_HUB_OFFLINE=1 does.")
@click.option("--force", is_flag=True, help="Make everything again, over whatever has these names.")
@s3_options
@state_option
@json_option
@no_token
@click.pass_context
def c4(context: click.Context, /, **given: Any) -> None:
    """Write rows of C4 as JSON lines, in parts, to a folder or to S3.

    Without a command: make the shard set. What an earlier run has finished is kept; a run that was killed goes on where
    it stopped. The parts are c4_SPLIT_N.jsonl, or c4_SPLIT_N_part001.jsonl and so on with --max-lines-per-file.
    """  # fmt: skip
    if context.invoked_subcommand is None:
        _make(given)


def _make(given: dict[str, Any]) -> None:
    from hfassets.c4.make import make_shard_set
    from hfassets.hub.download import resolve_revision
    from hfassets.hub.layout import RepoCache
    from hfassets.hub.options import hub_options
    from hfassets.hub.session import HubClient

    if given["cleanup_local"] and given["no_cleanup"]:
        raise UsageError("--cleanup-local and --no-cleanup contradict each other; give one")
    if given["cleanup_local"] and not given["s3_path"]:
        raise UsageError(
            "--cleanup-local without --s3-path would remove the only copy; give --s3-path, or leave it out"
        )
    if given["offline"]:
        os.environ["HF_HUB_OFFLINE"] = "1"
    where = places(given["state_dir"], given["cache_dir"])
    hub = hub_options(max_retries=given["max_retries"], backoff_factor=given["backoff_factor"])
    repo = RepoCache(where.hub_cache, given["repo"])
    with ProgressDisplay() as progress, HubClient(hub, progress) as client:
        destination = _destination(given)
        commit = resolve_revision(client, repo, given["revision"])
        request = _request(given, repo, commit, where.state, destination)
        made = make_shard_set(client, request, progress)
    _show(given["json_path"], request, made)


def _destination(given: dict[str, Any]) -> Any:
    from hfassets.c4.request import parse_destination

    if given["s3_path"] is None:
        return given["output_dir"].absolute()
    if not given["s3_path"].startswith("s3://"):
        raise UsageError(f"--s3-path {given['s3_path']!r} is no address in S3; it looks like s3://bucket/prefix")
    return parse_destination(given["s3_path"], _settings(given))


def _settings(given: dict[str, Any]) -> S3Settings:
    from hfassets.storage.s3 import S3Settings

    return S3Settings(given["endpoint_url"], given["region"], given["profile"])


def _request(given: dict[str, Any], repo: Any, commit: str, state: Any, destination: Any) -> ShardSetRequest:
    from hfassets.c4.request import DEFAULT_CONFIG, DEFAULT_REPO, DEFAULT_SEED, ShardSetRequest

    seed = given["seed"]
    if seed is None and given["shuffle"]:
        seed = DEFAULT_SEED
    return ShardSetRequest(
        repo=repo,
        commit=commit,
        destination=destination,
        state=state,
        local=given["output_dir"].absolute(),
        config=given["config"] or (DEFAULT_CONFIG if repo.repo_id == DEFAULT_REPO else None),
        split=given["split"],
        num_samples=given["num_samples"],
        max_lines_per_file=given["max_lines_per_file"],
        compression=given["compression"],
        seed=seed,
        streaming=given["streaming"],
        keep_local=given["no_cleanup"],
        on_shortfall=given["on_shortfall"],
        workers=given["workers"],
        backend=backend_of(given),
        force=given["force"],
        lease_wait=LEASE_WAIT,
    )


def _show(json_path: str | None, request: ShardSetRequest, made: ShardSet) -> None:
    account = made.account
    document = _document(request, made)
    done = "was there already" if made.reused else f"made in {format_seconds(made.seconds)}"
    shown = made.urls if len(made.urls) <= 12 else (*made.urls[:10], f"… and {len(made.urls) - 10} more")
    lines = [
        f"Samples: {made.rows:,}" + (f" of {made.asked:,} asked for" if made.rows < made.asked else ""),
        f"Files: {len(made.parts):,}, {format_bytes(made.size)} ({done})",
        f"Mean text length: {account.mean_length:,.1f} characters",
    ]
    if account.malformed or account.blank:
        lines.append(f"Kept out: {counted(account.malformed, 'malformed line')}, {account.blank:,} blank")
        lines += [f"  {path}, line {line + 1}: {reason}" for path, line, reason, _ in account.listed[:5]]
    lines += ["First 200 characters:", f"  {' '.join(account.first_text.split())}", *shown]
    show(json_path, document, *lines)


def _document(request: ShardSetRequest, made: ShardSet) -> dict[str, Any]:
    account = made.account
    return {
        "name": made.name,
        "repo_id": request.repo.repo_id,
        "commit": made.commit,
        "destination": made.place,
        "asked": made.asked,
        "samples": made.rows,
        "files": [
            {"name": part.name, "url": url, "rows": part.rows, "bytes": part.size, "sha256": part.sha256}
            for part, url in zip(made.parts, made.urls, strict=True)
        ],
        "made": made.made,
        "reused": made.reused,
        "bytes": made.size,
        "mean_length": account.mean_length,
        "malformed": account.malformed,
        "blank": account.blank,
        "without_text": account.without_text,
        "sources": made.sources,
        "fingerprint": made.fingerprint,
        "seconds": made.seconds,
    }


@c4.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--workers", type=click.IntRange(1), help="Processes for whole sources [default: as the catalog says].")
@click.option("--force", is_flag=True, help="Make everything again, over whatever has these names.")
@json_option
@no_token
def make(names: tuple[str, ...], workers: int | None, force: bool, json_path: str | None) -> None:
    """Make shard sets of the catalog: those named, else all."""
    from hfassets.c4.from_catalog import shard_set_request
    from hfassets.c4.make import make_shard_set
    from hfassets.catalog import ShardSetPartition, accept, catalog_path
    from hfassets.hub.options import hub_options
    from hfassets.hub.session import HubClient

    accepted = accept(catalog_path(), record=False)
    for line in accepted.errors:
        click.echo(f"warning: {line}", err=True)
    catalog = accepted.require()
    if catalog.storage.umask is not None:
        os.umask(catalog.storage.umask)
    known = {one.key: one for one in accepted.partitions if isinstance(one, ShardSetPartition) and not one.retired}
    unknown = [name for name in names if name not in known]
    if unknown:
        declared = ", ".join(entry.name for entry in catalog.c4) or "none"
        raise UsageError(f"{unknown[0]} is no synchronised shard set of {accepted.path}; its section c4 has {declared}")
    rows: list[tuple[object, ...]] = []
    document, failures = [], []
    with ProgressDisplay() as progress:
        for name in names or tuple(known):
            entry = known[name].shard_set
            hub = hub_options(
                endpoint=catalog.hub.endpoint,
                token_env=entry.token_env,
                max_retries=catalog.hub.max_retries,
                backoff_factor=catalog.hub.backoff_factor,
            )
            request = shard_set_request(
                catalog, entry, known[name].commit, force=force, workers=workers, lease_wait=LEASE_WAIT
            )
            try:
                with HubClient(hub, progress) as client:
                    made = make_shard_set(client, request, progress)
            except HfassetsError as error:
                failures.append((name, str(error)))
                rows.append((name, "FAILED", None, None, "", request.place))
                continue
            state = "was ready" if made.reused else "ok"
            rows.append((name, state, made.rows, len(made.parts), format_bytes(made.size), made.place))
            document.append(_document(request, made))
    columns = ["set", "state", "rows>", "files>", "size>", "destination"]
    show(json_path, {"sets": document, "failures": failures}, build_table(columns, rows).rich())
    if failures:
        raise PartialFailureError("shard sets", failures, len(rows))


@c4.command()
@click.argument("place", metavar="FOLDER|S3_URI")
@click.option("--split", default="train", show_default=True)
@click.option("--num-samples", type=click.IntRange(1), help="Which shard set of the place [default: all of them].")
@s3_options
@json_option
@no_token
def verify(place: str, split: str, num_samples: int | None, json_path: str | None, **given: Any) -> None:
    """Read every byte of a shard set, in a folder or in S3, and hold it against its manifest."""
    from hfassets.c4.prove import prove_shard_set
    from hfassets.c4.stores import manifests

    stem = f"c4_{split}_{num_samples}" if num_samples is not None else None
    with ProgressDisplay() as progress:
        proofs = [
            prove_shard_set(manifest, store, progress=progress)
            for manifest, store in manifests(place, _settings(given), stem)
        ]
    rows = [
        (one.stem, one.parts, one.rows, format_bytes(one.size), "intact" if one.intact else "DAMAGED") for one in proofs
    ]
    bad = [(name, reason) for one in proofs for name, reason in (*one.damage, *one.invalid)]
    document = {"place": place, "intact": not bad, "sets": proofs}
    lines = [f"{name}: {reason}" for name, reason in bad]
    show(json_path, document, build_table(["set", "parts>", "rows>", "size>", "state"], rows).rich(), *lines)
    if bad:
        total = sum(one.parts for one in proofs)
        raise IntegrityError(f"{place}: {len(bad)} of {total} parts are damaged: {bad[0][0]}: {bad[0][1]}")


@c4.command()
@click.argument("place", metavar="S3_URI")
@click.option("--output-dir", type=PATH, default=DEFAULT_FOLDER, show_default=True, help="The folder for the parts.")
@click.option("--split", default="train", show_default=True)
@click.option("--num-samples", type=click.IntRange(1), help="Which shard set [default: the only one there].")
@click.option("--workers", type=click.IntRange(1), default=4, show_default=True, help="Parts fetched at once.")
@s3_options
@json_option
@no_token
def fetch(
    place: str, output_dir: Path, split: str, num_samples: int | None, workers: int, json_path: str | None, **given: Any
) -> None:
    """Bring a shard set back from S3, each part proven by its SHA-256."""
    from hfassets.c4.fetch import fetch_shard_set, find_manifest
    from hfassets.storage.s3 import S3Prefix

    source = S3Prefix.parse(place, _settings(given))
    stem = f"c4_{split}_{num_samples}" if num_samples is not None else None
    with ProgressDisplay() as progress:
        fetched = fetch_shard_set(
            source, find_manifest(source, stem), output_dir.absolute(), workers=workers, progress=progress
        )
    document = {
        "place": fetched.place,
        "folder": fetched.folder,
        "files": [part.name for part in fetched.parts],
        "kept": fetched.kept,
        "bytes": fetched.size,
        "received": fetched.received,
        "seconds": fetched.seconds,
    }
    files = f"{counted(len(fetched.parts), 'file')}, {format_bytes(fetched.size)}, {fetched.kept} were there already"
    show(json_path, document, f"{fetched.place} -> {fetched.folder}: {files}")
