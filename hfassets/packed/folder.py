"""A folder of text files to packed Parquet, a split each, and the manifest that an older reader asks for.

Invariant: the folder's manifest names exactly the splits that are finished; a split that fails costs no other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from hfassets.errors import DataError, HfassetsError, PartialFailureError
from hfassets.mds.documents import Columns
from hfassets.mds.inputs import Cut, is_data
from hfassets.mds.origins import Target, from_files
from hfassets.mds.stage import StageOutput, StageRun, find_stage
from hfassets.packed.shards import PARTS, find_shards, make_shards, stats_name
from hfassets.packed.stage import SHARD_BYTES, Packing
from hfassets.progress import Note, ProgressCallback, silent
from hfassets.storage.atomic import write_atomic
from hfassets.storage.lease import lease
from hfassets.storage.manifest import provenance
from hfassets.tokens.engine import TokenizerSource

MANIFEST = "manifest.json"
# s. The manifest of a folder takes moments, and several runs may finish a split of it at once.
_PATIENCE = 600.0
_OF_SPLIT = ("max_seq_length", "packing", "labels", "fill_rate", "tokenizer", "vocab_size")
_ENDINGS = (".gz", ".zst", ".jsonl", ".json", ".ndjson", ".parquet")


@dataclass(frozen=True)
class FolderPacking:
    """What is packed: the text files of `source` (one file, or a folder; `recursive`: at any depth) into `output`, a
    folder each. `skip_existing`: a split that is finished stays, whatever it was made with. The rest is Packing's.
    """

    source: Path
    output: Path
    tokenizer: TokenizerSource
    tokenizer_path: Path
    size: int = 8192
    mode: str = "concat"
    shifted: bool = True
    add_bos: bool = False
    shard_bytes: int = SHARD_BYTES
    part_bytes: int = 1 << 30
    recursive: bool = False
    skip_existing: bool = False
    columns: Columns = field(default_factory=Columns)
    loss_mask: bool = False


@dataclass
class FolderResult:
    """What became of each split. `skipped`: finished before, and left as they are."""

    manifest: Path
    made: dict[str, StageOutput] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)

    def check(self) -> None:
        """Raise PartialFailureError naming each split that failed."""
        if self.failures:
            raise PartialFailureError("files", self.failures, len(self.made) + len(self.failures) + len(self.skipped))


def pack_folder(wanted: FolderPacking, run: StageRun, progress: ProgressCallback = silent) -> FolderResult:
    """Pack each file, and write the manifest over all that are finished.

    Raises DataError when there is no file, or when two would make one split; what goes wrong with a file is in the
    result.
    """
    started = time.monotonic()
    result = FolderResult(wanted.output / MANIFEST)
    for split, path in splits(wanted.source, recursive=wanted.recursive).items():
        root = wanted.output / split
        if wanted.skip_existing and not run.force and find_shards(root) is not None:
            result.skipped.append(split)
            continue
        progress(Note(f"{split}: {path}"))
        try:
            result.made[split] = make_shards(_packing(wanted, root, path, run, progress).stage(), run, progress)
        except HfassetsError as error:
            result.failures.append((split, str(error)))
            progress(Note(f"{split}: {error}", "warning"))
    if result.made or result.skipped:
        told = {
            "tokenizer": wanted.tokenizer.name,
            "max_seq_length": wanted.size,
            "shard_size_gb": wanted.shard_bytes / (1 << 30),
            "input_path": str(wanted.source),
            "workers": run.workers,
            "labels": "shifted" if wanted.shifted else "not shifted",
            "packing": wanted.mode,
            "seconds": round(time.monotonic() - started, 3),
        }
        write_splits(wanted.output, told, run)
    return result


def splits(source: Path, *, recursive: bool) -> dict[str, Path]:
    """The text files of a source by the names of their splits, in order; raises DataError."""
    if not source.exists():
        raise DataError(f"{source}: not there")
    walk: Callable[[str], Any] = source.rglob if recursive else source.glob
    paths = (
        [source]
        if source.is_file()
        else sorted(path for path in walk("*") if path.is_file() and _is_text(path, source))
    )
    found: dict[str, Path] = {}
    for path in paths:
        name = path.name
        while name.lower().endswith(_ENDINGS):
            name = name.rpartition(".")[0]
        if name in found:
            raise DataError(f"{path} and {found[name]} would both be the split {name}; pack one folder after the other")
        found[name] = path
    if not found:
        hint = "" if recursive else "; --recursive looks below it as well"
        raise DataError(f"{source}: no JSON lines or Parquet in it{hint}")
    return found


def _is_text(path: Path, source: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(source).parts)
    ours = path.name == "download_summary.json" or path.name.endswith(".stats.json")
    return not hidden and not ours and is_data(path.name)


def _packing(wanted: FolderPacking, root: Path, path: Path, run: StageRun, progress: ProgressCallback) -> Packing:
    target = Target(root, run.state, wanted.columns, cut=Cut(wanted.part_bytes))
    return Packing(
        root,
        from_files(path, target, progress),
        wanted.tokenizer,
        wanted.tokenizer_path,
        wanted.size,
        wanted.mode,
        wanted.shifted,
        wanted.add_bos,
        wanted.shard_bytes,
        loss_mask=wanted.loss_mask,
    )


def write_splits(output: Path, told: Mapping[str, Any], run: StageRun) -> Path:
    """The manifest of a folder with the older tool's keys, over every finished split in it, and ours; its path."""
    path = output / MANIFEST
    with lease(run.state.lease(f"splits:{output.absolute()}"), str(path), run_id=run.run_id, wait=_PATIENCE):
        named = {
            name: {
                "path": name,
                "shards": stats["shards_created"],
                "sequences": stats["total_sequences"],
                "samples": stats["total_samples"],
                "tokens": stats["total_tokens"],
                **{key: stats[key] for key in _OF_SPLIT},
            }
            for name, stats in finished_splits(output).items()
        }
        document = {
            **told,
            "output_path": str(output),
            "files_processed": len(named),
            "splits": named,
            "recorded": provenance(),
        }
        write_atomic(path, orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    return path


def finished_splits(output: Path) -> dict[str, Mapping[str, Any]]:
    """The stats of every finished split of a folder, by name, in order."""
    found: dict[str, Mapping[str, Any]] = {}
    for root in sorted(output.iterdir()):
        stats = output / stats_name(root)
        if root.is_dir() and stats.exists() and find_stage(root / PARTS) is not None:
            found[root.name] = orjson.loads(stats.read_bytes())
    return found
