"""`hfassets stage`: data made once, and brought to the disk of the node that works with it."""

from __future__ import annotations

import gc
import os
import re
import shlex
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hfassets.cli.options import s3_options
from hfassets.cli.output import json_option, show
from hfassets.errors import DataError, HfassetsError, IntegrityError, UsageError
from hfassets.progress import Note
from hfassets.report.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from hfassets.catalog import StagingPartition
    from hfassets.progress import ProgressCallback
    from hfassets.staging import SourceTree
    from hfassets.staging.from_catalog import StagingRecipes

_OBJECTS_PER_COLLECTION = 100_000


@click.command()
@click.argument("recipe", required=False)
@click.option("--from", "source", metavar="PATH", help="An output (MDS, Parquet, C4 …), any folder, or s3://…")
@click.option("--to", "target", metavar="DIR", help="Where to; in single quotes, $SLURM_TMPDIR is the node's own.")
@click.option("--prepare", is_flag=True, help="Make the RECIPE first, as far as it is not made; without --to no more.")
@click.option("--mode", type=click.Choice(["copy", "cache"]), default="copy", show_default=True,
              help="cache: a `datasets` cache, in which .map finds all that it has made before.")  # fmt: skip
@click.option("--dataset", "datasets", metavar="NAME", multiple=True, help="With --mode cache: only this one of it.")
@click.option("--read", type=click.File("r"), metavar="FILE", help="With --mode cache: the files that are read, one a "
              "line (- for stdin); they are copied, other data is linked. Without it all data is copied.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1), help="Cores to use [default: _DATA_PREP_WORKERS, the job's CPUs].")
@click.option("--no-hash", is_flag=True, help="Do not hash what is copied: such a copy cannot be verified.")
@click.option("--list", "listed", is_flag=True, help="Print the files, one a line, and copy nothing.")
@click.option("--verify", is_flag=True, help="Read the folder --to again and hold it against what was copied.")
@click.option("--print-env", is_flag=True, help="Print the environment for training on --to, and copy nothing.")
@s3_options
@json_option
def stage(**given: Any) -> None:
    """Bring a RECIPE of the catalog, or any folder, to this node: once a node, before training.

    Copied in parallel, each file proven; what is there already stays; a copy that was killed goes on; a second job on
    the node waits for the first one's copy and shares it. Room for bytes and files is looked for first.
    """
    from hfassets.cli.progress import ProgressDisplay

    gc.set_threshold(_OBJECTS_PER_COLLECTION)
    _check(given)
    with ProgressDisplay() as progress:
        if given["print_env"]:
            _print_env(given)
        elif given["verify"]:
            _verify(given, progress)
        elif given["listed"]:
            _list(_tree(given), given["json_path"])
        else:
            _stage(given, progress)


def _check(given: Mapping[str, Any]) -> None:
    """Raise UsageError for options that do not go together."""
    recipe, source, cache = given["recipe"], given["source"], given["mode"] == "cache"
    if recipe and source:
        raise UsageError(f"RECIPE {recipe} and --from {source}: one of the two")
    if given["prepare"] and (recipe is None or cache):
        raise UsageError("--prepare makes a RECIPE of the catalog; name one, without --mode cache")
    if not cache and (given["datasets"] or given["read"]):
        raise UsageError("--dataset and --read are for --mode cache")
    if not (recipe or source or cache or given["verify"] or given["print_env"]):
        raise UsageError("nothing to stage: name a RECIPE of the catalog, or --from a folder")


def _stage(given: Mapping[str, Any], progress: ProgressCallback) -> None:
    from hfassets.staging import StagingRequest, stage_tree
    from hfassets.staging.ahead import TargetListing

    seconds = None
    if given["prepare"]:
        seconds = _prepare(given, progress)
        if given["target"] is None:
            return
    cache, target = given["mode"] == "cache", _target(given["target"])
    # Begun before the process has threads, and before the source is looked at: the two go on side by side.
    listing = None if cache or given["prepare"] else TargetListing(target)
    tree = _tree(given)
    request = StagingRequest(tree, target, _workers(given), not given["no_hash"], keeps=cache)
    made = stage_tree(request, progress, listing)
    document = {
        "from": str(tree.root),
        "to": str(made.to),
        "files": made.files,
        "bytes": made.bytes,
        "links": made.links,
        "copied_files": made.copied_files,
        "copied_bytes": made.copied_bytes,
        "prepare_seconds": seconds,
        "seconds": round(made.seconds, 3),
    }
    size = f"{made.files:,} files, {format_bytes(made.bytes)}" + (f", {made.links:,} links" if made.links else "")
    copied = f"{made.copied_files:,} files, {format_bytes(made.copied_bytes)} copied in {format_seconds(made.seconds)}"
    done = copied if made.copied_files else f"all there already, seen in {format_seconds(made.seconds)}"
    show(given["json_path"], document, f"{made.to}: {size}; {done}")


def _tree(given: Mapping[str, Any]) -> SourceTree:
    """What is staged; raises DataError for a recipe that is not made, or a source that cannot be staged."""
    from hfassets.staging import read_tree
    from hfassets.staging.cache import read_cache
    from hfassets.staging.environment import default_cache

    recipe, source = given["recipe"], given["source"]
    if given["mode"] == "cache":
        names, root = list(given["datasets"]), Path(source).expanduser() if source else default_cache(os.environ)
        if recipe:
            recipes, part = _recipe(recipe)
            if part.dataset is None:
                raise UsageError(f"{recipe} is made from a mirror; --mode cache --from names the cache it is in")
            names, root = [part.dataset.dataset.repo], recipes.catalog.storage.datasets_cache
        lines = None if given["read"] is None else [line for line in given["read"].read().splitlines() if line]
        return read_cache(root, names, lines)
    if recipe:
        recipes, part = _recipe(recipe)
        found = recipes.find(part)
        if found is None:
            raise DataError(
                f"{recipe}: not made yet; materialise preprocessed_dataset, or hfassets stage {recipe} --prepare"
            )
        return read_tree(found.root)
    if "://" in source:
        from hfassets.staging.objects import read_objects
        from hfassets.storage.s3 import S3Prefix, S3Settings

        settings = S3Settings(given["endpoint_url"], given["region"], given["profile"])
        return read_objects(S3Prefix.parse(source, settings))
    return read_tree(Path(source).expanduser())


def _recipe(name: str) -> tuple[StagingRecipes, StagingPartition]:
    """A recipe of the catalog; raises UsageError when there is none that is pinned."""
    from hfassets.catalog import StagingPartition, accept, catalog_path
    from hfassets.catalog.load import nearest
    from hfassets.staging.from_catalog import StagingRecipes

    accepted = accept(catalog_path(), record=False)
    catalog = accepted.require()
    known = {one.key: one for one in accepted.partitions if isinstance(one, StagingPartition) and not one.retired}
    if name not in known:
        close = nearest(name, known)
        hint = f"did you mean {close!r}?" if close else f"there are {', '.join(known) or 'none'}"
        raise UsageError(f"no staging recipe {name!r} that is pinned; {hint} (hfassets catalog sync pins what is new)")
    if catalog.storage.umask is not None:
        os.umask(catalog.storage.umask)
    return StagingRecipes(catalog), known[name]


def _prepare(given: Mapping[str, Any], progress: ProgressCallback) -> float:
    """Make the recipe, or find that it is made; the seconds it took."""
    recipes, part = _recipe(given["recipe"])
    recipes = replace(recipes, workers=_workers(given))
    began = time.monotonic()
    recipes.bring(part, progress)
    made = recipes.make(part, progress)
    seconds = time.monotonic() - began
    rows = sum(made.details["rows"].values())
    size = format_bytes(made.manifest.total_bytes)
    said = f"{part.key}: {rows:,} rows, {size} in {made.root}; "
    said += "made before" if made.reused else f"made in {format_seconds(seconds)}"
    # Where it is staged as well, its line is the result, and this one goes with the progress.
    if given["target"] is None:
        document = {"recipe": part.key, "folder": str(made.root), "made": not made.reused, "seconds": seconds}
        show(given["json_path"], {**document, "rows": made.details["rows"]}, said)
    else:
        progress(Note(said))
    return round(seconds, 3)


def _list(tree: SourceTree, json_path: str | None) -> None:
    files = [(_shown(one.path), one.size) for one in tree.files]
    links = [_shown(path) for path in sorted(tree.links)]
    show(json_path, {"files": files, "links": links}, "\n".join(name for name, _ in files))


def _verify(given: Mapping[str, Any], progress: ProgressCallback) -> None:
    from hfassets.staging.copy import verify_staged

    folder = _target(given["target"])
    faults = verify_staged(folder, progress)
    lines = [f"  FAULT: {_shown(one)}" for one in faults]
    state = "damaged" if faults else "intact"
    show(given["json_path"], {"to": str(folder), "faults": faults}, f"{folder}: {state}", *lines)
    if faults:
        raise IntegrityError(f"{folder}: {len(faults)} files are not what was copied; first: {_shown(faults[0])}")


def _print_env(given: Mapping[str, Any]) -> None:
    """One line that `export $(…)` and `env $(…)` take; the folders in it are made."""
    from hfassets.staging.environment import training_environment

    target = _target(given["target"] or "$SLURM_TMPDIR/data")
    found = training_environment(target, os.environ, cache=given["mode"] == "cache")
    temporary = Path(found["TMPDIR"])
    temporary.parent.parent.mkdir(parents=True, exist_ok=True)
    for folder in (temporary.parent, temporary):
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid() or folder.is_symlink():
            raise HfassetsError(f"{folder}: another user's; remove it, or choose another folder --to")
    show(given["json_path"], found, " ".join(f"{name}={shlex.quote(value)}" for name, value in found.items()))


def _target(text: str | None) -> Path:
    """The folder, variables of this node's environment put in; raises UsageError for one that is not set."""
    if not text:
        raise UsageError("--to is missing: a folder of this node")
    path = os.path.expandvars(text)
    if unset := re.search(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)", path):
        raise UsageError(f"--to {text}: {unset[1]} is not set on this node")
    return Path(path).expanduser()


def _shown(path: str) -> str:
    """A name as text, a line of its own: what is no text, and line ends, are escaped."""
    return os.fsencode(path).decode(errors="backslashreplace").replace("\n", "\\n")


def _workers(given: Mapping[str, Any]) -> int:
    from hfassets.staging.environment import job_workers

    return given["workers"] or job_workers(os.environ, len(os.sched_getaffinity(0)))
