"""A staging recipe, made once: a `save_to_disk` folder that has all it needs, with a manifest of its files.

Invariant: the folder appears whole, or not at all; its bytes follow from the source's rows and the recipe, whatever the
number of workers; each token of the source is in a row, or in the count of those that were dropped.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hfassets.errors import DataError, IntegrityError, UsageError
from hfassets.mds.stage import Finished, Stage, StageOutput, StageRun, find_stage, make_stage
from hfassets.parts import PartsResult, Plan
from hfassets.parts.make import Worker
from hfassets.progress import Note, ProgressCallback, silent
from hfassets.staging.blocks import BATCH_ROWS, Blocks, Remainders, carried, dropped
from hfassets.staging.rows import rows_part
from hfassets.staging.saved import SavedRows, save
from hfassets.staging.source import ArrowSource
from hfassets.staging.splits import TRAIN, SplitPlan
from hfassets.staging.tokens import BYTES_PER_TOKEN, block_part, token_features, tokenize_part
from hfassets.storage.lease import lease
from hfassets.storage.manifest import Manifest, OutputFile
from hfassets.storage.space import require_space
from hfassets.tokens.engine import Engine, EngineName, TokenizerSource

STAGE = "preprocessed_dataset"
FORMAT = 1
LONGEST_BLOCK = 512
"""Of the older pipeline: rows are that long, or as long as the model can take."""


@dataclass(frozen=True)
class TokenRule:
    """How text becomes rows. `block`: tokens of a row, None = as many as the model takes, at most LONGEST_BLOCK;
    `column`: of the text, None = `text`, else the first one; `add_eos`: an end token behind each document;
    `remainders`: see hfassets.staging.blocks.
    """

    tokenizer: TokenizerSource
    tokenizer_path: Path
    block: int | None = None
    column: str | None = None
    remainders: Remainders = "carry"
    add_eos: bool = False
    engine: EngineName = "auto"

    @property
    def size(self) -> int:
        """Tokens of a row; raises UsageError when there can be none."""
        longest = self.tokenizer.config.get("model_max_length")
        most = int(longest) if isinstance(longest, int | float) and 0 < longest < 1 << 31 else LONGEST_BLOCK
        size = min(most, LONGEST_BLOCK) if self.block is None else self.block
        if size < 1:
            raise UsageError(f"rows of {size} tokens: at least 1")
        return size


@dataclass(frozen=True)
class Preprocessing:
    """What is made: `root`, of `source`'s rows. `rule` None: rows as they are, with their images and audio in them.

    `work`: for what is between; as large as the tokens are, and gone in the end. Sizes in B.
    """

    root: Path
    work: Path
    source: ArrowSource
    splits: SplitPlan
    rule: TokenRule | None = None
    shard_bytes: int = 500 << 20
    part_bytes: int = 256 << 20

    @property
    def parameters(self) -> dict[str, Any]:
        """What of the recipe decides about bytes."""
        rule = self.rule
        told = {
            "splits": dict(self.splits.sources),
            "shares": dict(self.splits.shares),
            "seed": self.splits.seed if self.splits.shares else None,
        }
        if rule is None:
            return {**told, "part_bytes": self.part_bytes}
        return {
            **told,
            "tokenizer": rule.tokenizer.identity,
            "block": rule.size,
            "column": _column(self.source, rule.column),
            "remainders": rule.remainders,
            "add_eos": rule.add_eos,
            "shard_bytes": self.shard_bytes,
        }

    @property
    def expected(self) -> Manifest:
        """A manifest with the identity of what is asked for."""
        return Manifest(STAGE, FORMAT, self.source.inputs, self.parameters, ".", ())


def preprocess(wanted: Preprocessing, run: StageRun, progress: ProgressCallback = silent) -> StageOutput:
    """Make the folder, or find that it is made.

    Raises DataError for a source that cannot be used, SpaceError, LeaseHeldError, PartialFailureError naming parts.
    """
    started = time.monotonic()
    if not run.force and (found := _done(wanted)) is not None:
        return found
    with lease(
        run.state.lease(f"{STAGE}:{wanted.root.absolute()}"),
        str(wanted.root),
        run_id=run.run_id,
        wait=run.lease_wait,
        on_wait=lambda line: progress(Note(line)),
    ):
        if not run.force and (found := _done(wanted)) is not None:
            return found
        if run.force:
            shutil.rmtree(wanted.work, ignore_errors=True)
        made = _rows_as_they_are(wanted, run, progress) if wanted.rule is None else _blocks(wanted, run, progress)
        save(made, wanted.expected, wanted.root, wanted.work / "folder", seconds=time.monotonic() - started)
        shutil.rmtree(wanted.work, ignore_errors=True)
    output = find_stage(wanted.root)
    if output is None:
        raise IntegrityError(f"{wanted.root}: changed while it was published; run again")
    return StageOutput(output.root, output.manifest, False, time.monotonic() - started, made.parts_made, made.reused)


def _done(wanted: Preprocessing) -> StageOutput | None:
    found = find_stage(wanted.root)
    return found if found is not None and found.fingerprint == wanted.expected.fingerprint else None


def _column(source: ArrowSource, wanted: str | None) -> str:
    schema = source.schema()
    column = wanted or ("text" if "text" in schema.names else schema.names[0])
    if column not in schema.names:
        raise DataError(f"{source.name}: no column {column!r}; it has {', '.join(schema.names)}")
    kind = schema.field(column).type
    if str(kind) not in ("string", "large_string", "string_view", "binary", "large_binary"):
        texts = [one.name for one in schema if str(one.type) in ("string", "large_string")]
        hint = f"name one of {', '.join(texts)}" if texts else "it has no column of text"
        raise DataError(f"{source.name}: column {column!r} is {kind}, not text; {hint}")
    return column


def _parts(wanted: Preprocessing) -> list[dict[str, Any]]:
    """Rows of the source, so many at a time that a part is about as large as it is to be; the same for equal rows.

    Of rows that refer to images or audio BATCH_ROWS: what they refer to is much larger than they are.
    """
    parts, media = [], wanted.rule is None and _has_media(wanted.source)
    for name, theirs in wanted.splits.sources.items():
        rows = wanted.source.rows(theirs)
        each = max(1, wanted.source.bytes(theirs)) / max(1, rows)
        batches = 1 if media else max(1, int(wanted.part_bytes / each) // BATCH_ROWS)
        # A power of two: the same rows in other files take a few bytes more or less.
        step = BATCH_ROWS << (batches.bit_length() - 1)
        for number, start in enumerate(range(0, rows, step)):
            stop = min(rows, start + step)
            parts.append({"name": f"{name}_{number:05}", "split": name, "start": start, "stop": stop})
    if not any(part["split"] == TRAIN for part in parts):
        raise DataError(f"{wanted.source.name}: no rows in its split {wanted.splits.sources[TRAIN]}")
    return parts


def _has_media(source: ArrowSource) -> bool:
    from hfassets.hub import library

    return library.has_media(source.schema())


def _context(wanted: Preprocessing) -> dict[str, Any]:
    files = {
        name: [[str(path), rows] for path, rows in wanted.source.splits[theirs]]
        for name, theirs in wanted.splits.sources.items()
    }
    return {"files": files, "seed": wanted.splits.seed, "shares": dict(wanted.splits.shares)}


def _run_stage(
    wanted: Preprocessing, folder: str, plan: Plan, worker: Worker, run: StageRun, progress: ProgressCallback
) -> tuple[PartsResult, StageOutput]:
    """A stage of the work folder, and its parts."""
    held: list[PartsResult] = []

    def finish(_: Path, result: PartsResult) -> Finished:
        held.append(result)
        return Finished(result.account, {})

    stage = Stage(wanted.work / folder, plan, worker, finish)
    output = make_stage(stage, run, progress)
    if held:
        return held[0], output
    manifests = [plan.finished(stage.root, index) for index in range(len(plan.parts))]
    names = tuple(str(part["name"]) for part in plan.parts)
    return PartsResult(tuple(one for one in manifests if one is not None), (), names, plan.context), output


def _rows_as_they_are(wanted: Preprocessing, run: StageRun, progress: ProgressCallback) -> SavedRows:
    from hfassets.hub import library

    plan = Plan(f"{STAGE}_rows", FORMAT, wanted.source.inputs, wanted.parameters, _parts(wanted), _context(wanted))
    result, _ = _run_stage(wanted, "rows", plan, rows_part, run, progress)
    files: dict[str, list[tuple[Path, int, OutputFile]]] = {name: [] for name in wanted.splits.names}
    for manifest in result.manifests:
        folder = wanted.work / "rows" / str(manifest.parameters["part"]["name"])
        by_name = {file.path: file for file in manifest.files}
        for name, rows in manifest.details["rows"].items():
            if rows:
                file = by_name[f"data-{name}.arrow"]
                files[name].append((folder / file.path, rows, file))
    features = library.features_of(wanted.source.schema())
    told = {"source": wanted.source.name}
    return SavedRows(files, features, result.account, told, len(result.made), len(result.reused))


def _blocks(wanted: Preprocessing, run: StageRun, progress: ProgressCallback) -> SavedRows:
    rule = wanted.rule
    if rule is None:
        raise TypeError("no rule to make blocks by")
    reference = Engine(rule.tokenizer, "tokenizers")
    specials = reference.specials
    if rule.add_eos and specials.eos is None:
        raise UsageError(f"{rule.tokenizer.name} has no end token to put behind documents")
    dtype = reference.dtype()
    context = {
        **_context(wanted),
        "column": _column(wanted.source, rule.column),
        "dtype": dtype,
        "in_front": list(specials.before),
        "behind": list(specials.after),
        "eos": specials.eos if rule.add_eos else None,
        "tokenizer_path": str(rule.tokenizer_path.absolute()),
        "tokenizer_name": rule.tokenizer.name,
        "prefix_space": rule.tokenizer.prefix_space,
        "engine": rule.engine,
    }
    parameters = {key: value for key, value in wanted.parameters.items() if key not in ("block", "remainders")}
    plan = Plan(f"{STAGE}_tokens", FORMAT, wanted.source.inputs, parameters, _parts(wanted), context)
    _require_room(wanted, np.dtype(dtype).itemsize)
    tokenized, made = _run_stage(wanted, "tokens", plan, tokenize_part, run, progress)
    of_split = _tokens_of(wanted, tokenized)
    blocks = {name: _cut(rule, name, files) for name, files in of_split.items()}
    per_shard = max(1, wanted.shard_bytes // (rule.size * BYTES_PER_TOKEN))
    parts = [
        {"name": f"{name}_{number:05}", "split": name, "runs": [[one.start, one.tokens] for one in runs]}
        for name, found in blocks.items()
        for number, runs in enumerate(found.shards(per_shard))
    ]
    if not parts:
        raise DataError(f"{wanted.source.name}: no token came out of {tokenized.account['documents_in']:,} rows")
    tokens = {name: [[str(folder / f"tokens-{name}.bin"), n] for folder, n, _ in of_split[name]] for name in of_split}
    how = {"block": rule.size, "dtype": dtype}
    inputs = {"tokens": made.fingerprint}
    shards = Plan(f"{STAGE}_blocks", FORMAT, inputs, how, parts, {**how, "tokens": tokens})
    written, _ = _run_stage(wanted, "blocks", shards, block_part, run, progress)
    files: dict[str, list[tuple[Path, int, OutputFile]]] = {name: [] for name in wanted.splits.names}
    for manifest in written.manifests:
        part = manifest.parameters["part"]
        path = wanted.work / "blocks" / str(part["name"]) / "data.arrow"
        files[part["split"]].append((path, manifest.account["rows"], manifest.files[0]))
    account = {
        **tokenized.account,
        "tokens_written": sum(one.tokens for one in blocks.values()),
        "tokens_dropped": sum(one.dropped for one in blocks.values()),
        "rows": sum(one.rows for one in blocks.values()),
    }
    details = {
        "source": wanted.source.name,
        "tokens": {name: one.tokens for name, one in blocks.items()},
        "documents": {name: sum(n for _, _, n in of_split[name]) for name in of_split},
        "block": rule.size,
        "column": context["column"],
        "tokenizer": rule.tokenizer.name,
        "vocab_size": reference.vocab_size,
        "engines": sorted({str(one.details["engine"]) for one in tokenized.manifests}),
    }
    made_now = len(tokenized.made) + len(written.made)
    return SavedRows(files, token_features(), account, details, made_now, len(tokenized.reused) + len(written.reused))


def _tokens_of(wanted: Preprocessing, result: PartsResult) -> dict[str, list[tuple[Path, int, int]]]:
    """For each split the folders of its parts, in order, with the tokens and the documents in them."""
    found: dict[str, list[tuple[Path, int, int]]] = {name: [] for name in wanted.splits.names}
    for manifest in result.manifests:
        folder = wanted.work / "tokens" / str(manifest.parameters["part"]["name"])
        for name, count in manifest.details["tokens"].items():
            found[name].append((folder, count, manifest.details["documents"][name]))
    return found


def _cut(rule: TokenRule, split: str, files: Sequence[tuple[Path, int, int]]) -> Blocks:
    if rule.remainders == "carry":
        return carried(sum(count for _, count, _ in files), rule.size)
    return dropped([np.load(folder / f"lengths-{split}.npy") for folder, _, _ in files], rule.size)


def _require_room(wanted: Preprocessing, itemsize: int) -> None:
    """Tokens and rows, by what text usually gives: four bytes a token."""
    text = sum(wanted.source.bytes(theirs) for theirs in wanted.splits.sources.values())
    tokens = text // 4
    wanted.work.parent.mkdir(parents=True, exist_ok=True)
    require_space(wanted.work.parent, tokens * (itemsize + BYTES_PER_TOKEN), 100)
