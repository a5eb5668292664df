"""A file of text, or a folder of them, to packed Parquet: `shard_0000.parquet` and so on in one folder.

Invariant: the shards are in their places before the manifest is, and are the same bytes whatever the number of workers;
the tail of a part is padded, never joined to the next part's head.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hfassets.errors import DataError, IntegrityError, UsageError
from hfassets.mds.convert import Conversion
from hfassets.mds.documents import Reading
from hfassets.mds.fused import batched, source_documents
from hfassets.mds.stage import Finished, Stage, write_stats
from hfassets.mds.tokenize import loaded_engine
from hfassets.parts import PartOutput, PartsResult, Plan
from hfassets.storage.atomic import fsync_directory
from hfassets.tokens.account import TokenAccount, total
from hfassets.tokens.chunking import Rows, Specials, check_rule, chunked
from hfassets.tokens.engine import Engine, EngineName, TokenizerSource
from hfassets.tokens.packed import PackRule, with_bos, write_files
from hfassets.tokens.ragged import Ragged

STAGE = "distillation_tokens"
FORMAT = 1
PARTS = ".parts"
SHARD_BYTES = 2048 << 20
_WIDEST = 1 << 17


@dataclass(frozen=True)
class Packing:
    """What is packed. `root`: gets the shards; its name is the split's. `size`, `mode`, `shifted`: as PackRule;
    `add_bos`: the tokenizer's begin token in front of each document.
    """

    root: Path
    conversion: Conversion
    tokenizer: TokenizerSource
    tokenizer_path: Path
    size: int
    mode: str = "concat"
    shifted: bool = True
    add_bos: bool = False
    shard_bytes: int = SHARD_BYTES
    engine: EngineName = "auto"

    def stage(self) -> Stage:
        """The folder as a stage. Raises UsageError for a size that no row can have, or when the tokenizer lacks an end
        token, or a begin token that is asked for.
        """
        if not 1 <= self.size <= _WIDEST:
            raise UsageError(f"rows of {self.size} tokens: from 1 to {_WIDEST:,} can be made")
        reference = Engine(self.tokenizer, "tokenizers")
        bos = reference.special_id("bos_token")
        if self.add_bos and bos is None:
            raise UsageError(f"{self.tokenizer.name} has no begin token to put in front of documents")
        eos = reference.specials.eos
        pad = reference.special_id("pad_token")
        rule = PackRule(
            self.size,
            "best_fit" if self.mode == "best_fit" else "concat",
            self.shifted,
            bos if self.add_bos else None,
            pad if pad is not None else eos or 0,
        )
        check_rule(rule.chunks, Specials(eos=eos))
        text = self.conversion.stage().plan
        parameters = {
            "text": {key: value for key, value in text.parameters.items() if key in ("columns", "mapper")},
            "tokenizer": self.tokenizer.identity,
            "rule": rule.to_dict(),
            "eos": eos,
            "special_ids": sorted(reference.specials.ids),
            "shard_bytes": self.shard_bytes,
        }
        context = {
            **text.context,
            **parameters,
            "dtype": reference.dtype(),
            "vocab_size": reference.vocab_size,
            "tokenizer_path": str(self.tokenizer_path.absolute()),
            "tokenizer_name": self.tokenizer.name,
            "prefix_space": self.tokenizer.prefix_space,
            "engine": self.engine,
        }
        plan = Plan(STAGE, FORMAT, text.inputs, parameters, text.parts, context)
        return Stage(self.root / PARTS, plan, pack_part, _finish)


def pack_part(part: dict[str, Any], folder: Path) -> PartOutput:
    """Worker: the packed rows of a part's pieces."""
    context = part["context"]
    engine = loaded_engine(context)
    rule = PackRule(**context["rule"])
    reading = Reading()
    tokens: list[Ragged] = []
    names: list[bytes] = []
    empty = 0
    for batch in batched(source_documents(part, context, reading)):
        found = engine.encode(batch.texts, context["dtype"])
        full = np.flatnonzero(found.lengths)
        empty += len(batch.texts) - len(full)
        tokens.append(with_bos(Ragged(found.values, np.append(found.offsets[full], found.offsets[-1])), rule.bos))
        names += [batch.ids[place] for place in full.tolist()]
    specials = Specials(eos=context["eos"], ids=frozenset(context["special_ids"]))
    rows = chunked(tokens, rule.chunks, specials)
    shards = write_files(rows, names, rule, folder, context["shard_bytes"]) if len(rows) else 0
    sizes = np.bincount(rows.sizes) if len(rows) else np.zeros(0, dtype=np.int64)
    account = _account(rows, rule, len(names), empty)
    details = {
        "shards": shards,
        "lengths": {str(length): int(sizes[length]) for length in np.flatnonzero(sizes)},
        "read": {"rows_read": reading.read, **{f"refused_{name}": n for name, n in sorted(reading.refused.items())}},
        "engine": engine.engine,
    }
    return PartOutput(account.to_dict(), details)


def _account(rows: Rows, rule: PackRule, documents: int, empty: int) -> TokenAccount:
    """The account of packed rows: begin tokens are special ones, padding is put in and written."""
    begun = documents if rule.bos is not None else 0
    found = rows.account
    padding = len(rows) * rule.size - found.content_written
    return replace(
        found,
        documents_in=found.documents_in + empty,
        documents_empty=found.documents_empty + empty,
        tokens_in=found.tokens_in - begun,
        content_written=found.content_written - begun + padding,
        padding=padding,
        specials_added=begun,
    ).close()


def _finish(root: Path, result: PartsResult) -> Finished:
    """Shards in their places, numbered over all parts, and the stats that the older tool wrote."""
    account = total(TokenAccount.from_dict(manifest.account) for manifest in result.manifests).close()
    read: Counter[str] = Counter()
    lengths: Counter[int] = Counter()
    for manifest in result.manifests:
        read.update(manifest.details["read"])
        lengths.update({int(length): count for length, count in manifest.details["lengths"].items()})
    refused = sum(count for name, count in read.items() if name.startswith("refused_"))
    if read["rows_read"] != account.documents_in + refused:
        raise IntegrityError(f"{root.parent}: the account does not close: {dict(read)}; this is a defect of hfassets")
    if not account.rows:
        raise DataError(f"{root.parent}: no row came out of {read['rows_read']:,} rows of text; nothing to write")
    folder, context = root.parent, result.context
    number = 0
    for name, manifest in zip((part["name"] for part in _parts(result)), result.manifests, strict=True):
        for file in manifest.files:
            _place(root / name / file.path, folder / f"shard_{number:04}.parquet")
            number += 1
    for stray in folder.glob("shard_*.parquet"):
        if stray.stem[len("shard_") :].isdecimal() and int(stray.stem[len("shard_") :]) >= number:
            stray.unlink()
    fsync_directory(folder)
    tokens = account.content_written - account.padding + account.specials_added
    stats = {
        "total_samples": account.documents_written,
        "total_tokens": tokens,
        "total_sequences": account.rows,
        "shards_created": number,
        "max_seq_length": context["rule"]["size"],
        "packing": context["rule"]["mode"],
        "labels": "shifted" if context["rule"]["shifted"] else "not shifted",
        "fill_rate": tokens / (account.rows * context["rule"]["size"]),
        "tokenizer": context["tokenizer_name"],
        "vocab_size": context["vocab_size"],
        "account": account.to_dict(),
        "read": dict(sorted(read.items())),
        "lengths": {str(length): count for length, count in sorted(lengths.items())},
    }
    # Beside the folder, where only rows lie for whoever reads all of it.
    write_stats(folder.parent, stats, stats_name(folder))
    return Finished(account.to_dict(), stats)


def stats_name(folder: Path) -> str:
    """`<stem>_stats.json`, as the older tool names it."""
    return f"{folder.name}_stats.json"


def _parts(result: PartsResult) -> list[Mapping[str, Any]]:
    """The parts of the plan, as their manifests name them."""
    return [manifest.parameters["part"] for manifest in result.manifests]


def _place(source: Path, target: Path) -> None:
    """Give a part's file its place: the same file by a second name, or a copy where the disk has no such thing."""
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
    temporary.replace(target)
