"""`hfassets mds merge | verify | show | decode | …`: indexes, proofs and ways back to text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hfassets.cli.mds_options import cache_option, place_of, revision_option, tokenizer_path
from hfassets.cli.options import PATH, no_token, s3_options, state_option
from hfassets.cli.output import json_option, show
from hfassets.errors import DataError
from hfassets.report.tables import build_table
from hfassets.report.units import counted, format_bytes

if TYPE_CHECKING:
    from hfassets.tokens.engine import Engine


def _merge(folder: Path, json_path: str | None) -> None:
    from hfassets.mds.index import INDEX, write_merged

    shards = write_merged(folder)
    samples = sum(shard.samples for shard in shards)
    document = {"index": folder / INDEX, "shards": len(shards), "samples": samples}
    show(json_path, document, f"{folder / INDEX}: {samples:,} samples in {len(shards):,} shards")


@click.command("merge")
@click.argument("folder", type=PATH)
@json_option
def merge(folder: Path, json_path: str | None) -> None:
    """One index over every MDS below FOLDER, at any depth, sorted; again changes nothing."""
    _merge(folder, json_path)


@click.command("make_recursive_root")
@click.argument("folder", type=PATH)
@json_option
def make_recursive_root(folder: Path, json_path: str | None) -> None:
    """As `merge`: the index in FOLDER names the shards below it at any depth."""
    _merge(folder, json_path)


@click.command("create_final_dataset_index")
@click.argument("main_dir", type=PATH)
@click.option("--split", default="train", show_default=True)
@json_option
def create_final_dataset_index(main_dir: Path, split: str, json_path: str | None) -> None:
    """The index of a split's folder over all datasets in it, its samples counted."""
    _merge(main_dir / split, json_path)


@click.command("count_instances")
@click.argument("index", type=PATH)
@json_option
def count_instances(index: Path, json_path: str | None) -> None:
    """The samples that an index.json, or a folder's, has."""
    from hfassets.mds import export

    count = export.count_instances(index)
    show(json_path, {"index": index, "samples": count}, f"{count:,}")


@click.command("verify")
@click.argument("folder", type=PATH)
@json_option
def verify(folder: Path, json_path: str | None) -> None:
    """Read all of FOLDER again: hashes, counts, account, and what it was made from. Exit code 1 for any fault."""
    from hfassets.cli.progress import ProgressDisplay
    from hfassets.mds.verify import verify_mds

    with ProgressDisplay() as progress:
        found = verify_mds(folder.absolute(), progress)
    size = f"{found.files:,} files, {format_bytes(found.bytes)}" if found.ours else "no manifest: by its indexes"
    lines = [f"  made from {one}" for one in found.chain[1:]] + [f"  FAULT: {one}" for one in found.faults]
    state = "damaged" if found.faults else "intact"
    show(json_path, found, f"{folder}: {state}, {found.samples:,} samples, {size}", *lines)
    found.check()


@click.command("show")
@click.argument("folder", type=PATH)
@click.option("-n", "--rows", type=click.IntRange(1), default=5, show_default=True)
@click.option("-t", "--tokenizer", metavar="NAME", help="To show tokens as text.")
@click.option("--plot", type=PATH, help="Write the lengths as a picture (PNG).")
@revision_option
@cache_option
@state_option
@json_option
@no_token
def show_(**given: Any) -> None:
    """The first rows of an MDS as text, and how long all of them are."""
    from hfassets.mds.export import first_rows, lengths_of
    from hfassets.report.plots import counted_histogram

    engine = _engine(given)
    rows = first_rows(given["folder"], given["rows"], engine)
    lengths = lengths_of(given["folder"])
    count = sum(lengths.values())
    mean = sum(length * times for length, times in lengths.items()) / count
    if given["plot"] is not None:
        title, unit = f"{given['folder'].name}: lengths", "tokens" if "tokens" in rows[0] else "bytes"
        given["plot"].write_bytes(counted_histogram(lengths, title=title, unit=unit, of="rows"))
    cells = [(one.get("id"), one.get("tokens"), " ".join(str(one.get("text", "")).split())[:80]) for one in rows]
    told = f"{count:,} rows; lengths {min(lengths):,} to {max(lengths):,}, {mean:,.1f} on average"
    table = build_table(["id", "tokens>", "begins"], cells)
    document = {"rows": rows, "count": count, "lengths": {str(key): lengths[key] for key in sorted(lengths)}}
    show(given["json_path"], document, table.rich(), told)


@click.command("decode")
@click.argument("folder", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="A file of JSON lines.")
@click.option("-t", "--tokenizer", required=True, metavar="NAME")
@revision_option
@cache_option
@state_option
@json_option
@no_token
def decode(**given: Any) -> None:
    """Tokens back to text, as JSON lines with id, text and domain (the folder that a row lies in)."""
    _to_jsonl(given, _engine(given))


@click.command("to-jsonl")
@click.argument("folder", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="A file of JSON lines.")
@json_option
def to_jsonl(**given: Any) -> None:
    """All samples of an MDS as JSON lines."""
    _to_jsonl(given, None)


def _to_jsonl(given: dict[str, Any], engine: Engine | None) -> None:
    from hfassets.cli.progress import ProgressDisplay
    from hfassets.mds import export

    with ProgressDisplay() as progress:
        made = export.to_jsonl(given["folder"], given["output"], engine, progress)
    show(given["json_path"], made, f"{made.path}: {made.samples:,} rows, {format_bytes(made.bytes)}")


@click.command("decompress")
@click.option("--data_path", "--data-path", "folder", type=PATH, required=True)
@click.option("--delete_zip", "--delete-zip", "delete_zip", is_flag=True, help="Remove the compressed shards.")
@click.option("--decompress", "flag", is_flag=True, hidden=True, help="Accepted; that is what it does.")
@json_option
def decompress(folder: Path, delete_zip: bool, flag: bool, json_path: str | None) -> None:
    """Uncompressed shards beside the compressed ones, for readers that take no others."""
    from hfassets.cli.progress import ProgressDisplay
    from hfassets.mds import export

    with ProgressDisplay() as progress:
        made = export.decompress(folder, delete_zip=delete_zip, progress=progress)
    show(json_path, made, f"{folder}: {made.samples:,} samples, {format_bytes(made.bytes)} uncompressed")


@click.command("upload")
@click.argument("folder", type=PATH)
@click.argument("place", metavar="PLACE")
@s3_options
@json_option
@no_token
def upload(folder: Path, place: str, json_path: str | None, **given: Any) -> None:
    """FOLDER to s3://bucket/prefix, or to the dataset repo ORG/NAME[/folder] of the Hub, a commit for some files at a
    time; what is there already is not sent again.
    """
    from hfassets.cli.progress import ProgressDisplay
    from hfassets.mds.shipping import upload_folder

    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder")
    with ProgressDisplay() as progress:
        files, sent = upload_folder(folder, place_of(place, given), progress)
    document = {"folder": folder, "place": place, "files": files, "sent": sent}
    show(json_path, document, f"{folder}: {counted(files, 'file')} at {place}, {sent:,} of them sent now")


@click.command("move", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def move(arguments: tuple[str, ...]) -> None:
    """Nothing has to be moved: every command writes its output where it belongs."""
    click.echo(
        "nothing to move: tokenize_mds and split_dataset_into_chunks write to folders of their own, and sample and mix "
        "put train/ and validation/ together by links"
    )


def _engine(given: dict[str, Any]) -> Engine | None:
    from hfassets.tokens.engine import Engine, TokenizerSource

    if given["tokenizer"] is None:
        return None
    path = tokenizer_path(given)
    if not path.exists():
        raise DataError(f"{path}: no tokenizer there")
    return Engine(TokenizerSource.read(path, name=given["tokenizer"]), "tokenizers")
