"""`hfassets stage`: data to the disk of the node that works with it."""

from __future__ import annotations

import gc
import os
import re
from pathlib import Path

import click

from hfassets.cli.options import PATH
from hfassets.cli.output import json_option, show
from hfassets.errors import IntegrityError, UsageError
from hfassets.report.units import format_bytes, format_seconds

_OBJECTS_PER_COLLECTION = 100_000


@click.command()
@click.option("--from", "source", type=PATH, help="A finished output (MDS, packed Parquet, Arrow …) or any folder.")
@click.option("--to", "target", metavar="DIR", help="Where to; in single quotes, $SLURM_TMPDIR is the node's own.")
@click.option("--workers", type=click.IntRange(1), help="Processes that copy [default: the job's CPUs, or the cores].")
@click.option("--no-hash", is_flag=True, help="Do not hash what is copied: faster, and cannot be verified.")
@click.option("--list", "listed", is_flag=True, help="Print the files, one a line, and copy nothing.")
@click.option("--verify", is_flag=True, help="Read the folder --to again and hold it against what was copied.")
@json_option
def stage(
    source: Path | None,
    target: str | None,
    workers: int | None,
    no_hash: bool,
    listed: bool,
    verify: bool,
    json_path: str | None,
) -> None:
    """Copy a folder to this node, in parallel, each file hashed while it is copied: once a node, before training.

    What is there already stays; a copy that was killed goes on; a second job on the node waits for the first one's
    copy and shares it. Room for bytes and files is looked for first.
    """
    from hfassets.cli.progress import ProgressDisplay
    from hfassets.staging import StagingRequest, read_tree, stage_tree
    from hfassets.staging.ahead import TargetListing
    from hfassets.staging.copy import verify_staged

    gc.set_threshold(_OBJECTS_PER_COLLECTION)
    listing = None if verify or listed else TargetListing(_target(target))

    with ProgressDisplay() as progress:
        if verify:
            folder = _target(target)
            faults = verify_staged(folder, progress)
            lines = [f"  FAULT: {_shown(one)}" for one in faults]
            state = "damaged" if faults else "intact"
            show(json_path, {"to": str(folder), "faults": faults}, f"{folder}: {state}", *lines)
            if faults:
                raise IntegrityError(f"{folder}: {len(faults)} files are not what was copied; first: {faults[0]}")
            return
        if source is None:
            raise UsageError("--from is missing: the folder to stage")
        tree = read_tree(source)
        if listed:
            files = [(_shown(one.path), one.size) for one in tree.files]
            show(json_path, {"files": files}, "\n".join(name for name, _ in files))
            return
        made = stage_tree(StagingRequest(tree, _target(target), workers or _cpus(), not no_hash), progress, listing)
    document = {
        "from": str(tree.root),
        "to": str(made.to),
        "files": made.files,
        "bytes": made.bytes,
        "copied_files": made.copied_files,
        "copied_bytes": made.copied_bytes,
        "seconds": round(made.seconds, 3),
    }
    copied = f"{made.copied_files:,} files, {format_bytes(made.copied_bytes)} copied in {format_seconds(made.seconds)}"
    done = copied if made.copied_files else "all there already"
    show(json_path, document, f"{made.to}: {made.files:,} files, {format_bytes(made.bytes)}; {done}")


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


def _cpus() -> int:
    return int(os.environ.get("SLURM_CPUS_PER_TASK") or 0) or len(os.sched_getaffinity(0))
