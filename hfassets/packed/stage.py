"""A file of text, or a folder of them, to packed Parquet: `shard_0000.parquet` and so on in one folder.

Invariant: the shards are in their places before the manifest is, and are the same bytes whatever the number of workers;
the tail of a part is padded, never joined to the next part's head.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hfassets.distillation.account import STEPS_PER_DOUBLING
from hfassets.errors import DataError, IntegrityError, UsageError
from hfassets.mds.batches import batched, source_documents
from hfassets.mds.convert import Conversion
from hfassets.mds.documents import Documents, Reading
from hfassets.mds.stage import Finished, Stage, write_stats
from hfassets.mds.tokenize import loaded_engine
from hfassets.packed.shards import PARTS, place_parts, stats_name
from hfassets.parts import PartOutput, PartsResult, Plan
from hfassets.tokens.account import TokenAccount, total
from hfassets.tokens.chunking import Rows, Specials, check_rule, chunked
from hfassets.tokens.engine import Engine, EngineName, TokenizerSource
from hfassets.tokens.loss_mask import encode_masked, spread
from hfassets.tokens.packed import PackRule, with_bos, write_files
from hfassets.tokens.ragged import Ragged
from hfassets.tokens.rules import LONGEST_ROW
from hfassets.tokens.vocabulary import Vocabulary

STAGE = "distillation_tokens"
FORMAT = 2
RATIONALE = "metadata.rationale_span"
SHARD_BYTES = 2048 << 20


@dataclass(frozen=True)
class Packing:
    """What is packed. `root`: gets the shards; its name is the split's. `size`, `mode`, `shifted`: as PackRule;
    `add_bos`: the tokenizer's begin token in front of each document; `loss_mask`: one that is 0 for the tokens of
    rationales, as the files of a mix name them in their metadata.
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
    loss_mask: bool = False

    def stage(self) -> Stage:
        """The folder as a stage. Raises UsageError for a size that no row can have, or when the tokenizer lacks an end
        token, or a begin token that is asked for.
        """
        if not 1 <= self.size <= LONGEST_ROW:
            raise UsageError(f"rows of {self.size} tokens: from 1 to {LONGEST_ROW:,} can be made")
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
            self.loss_mask,
        )
        check_rule(rule.chunks, Specials(eos=eos))
        conversion = self.conversion
        if self.loss_mask:
            conversion = replace(conversion, columns=replace(conversion.columns, span=RATIONALE))
        text = conversion.stage().plan
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
            "vocabulary": reference.vocabulary.to_dict(),
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
    learnt: list[Ragged] = []
    names: list[bytes] = []
    empty = 0
    for batch in batched(source_documents(part, context, reading)):
        found, flags = _encoded(engine, batch, context["dtype"], masked=rule.masked)
        full = np.flatnonzero(found.lengths)
        empty += len(batch.texts) - len(full)
        offsets = np.append(found.offsets[full], found.offsets[-1])
        tokens.append(with_bos(Ragged(found.values, offsets), rule.bos))
        if flags is not None:
            learnt.append(with_bos(Ragged(flags, offsets), None if rule.bos is None else 1))
        names += [batch.ids[place] for place in full.tolist()]
    specials = Specials(eos=context["eos"], ids=frozenset(context["special_ids"]))
    rows = chunked(tokens, rule.chunks, specials)
    mask = spread(learnt, rows.tokens) if rule.masked else None
    if len(rows):
        vocabulary = Vocabulary(**context["vocabulary"])
        write_files(rows, names, rule, vocabulary, folder, context["shard_bytes"], mask)
    sizes = np.bincount(rows.sizes) if len(rows) else np.zeros(0, dtype=np.int64)
    account = _account(rows, rule, len(names), empty)
    details = {
        "lengths": {str(length): int(sizes[length]) for length in np.flatnonzero(sizes)},
        "document_lengths": _binned(rows.tokens.lengths),
        "not_learnt": 0 if mask is None else int(len(mask) - mask.sum()),
        "read": {"rows_read": reading.read, **{f"refused_{name}": n for name, n in sorted(reading.refused.items())}},
        "engine": engine.engine,
    }
    return PartOutput(account.to_dict(), details)


def _binned(lengths: Any) -> dict[str, int]:
    """How many documents are how long, end tokens included, in steps of equal ratio; see STEPS_PER_DOUBLING."""
    if not len(lengths):
        return {}
    places, counts = np.unique(np.floor(np.log2(lengths) * STEPS_PER_DOUBLING).astype(np.int64), return_counts=True)
    return {str(place): int(count) for place, count in zip(places, counts, strict=True)}


def _encoded(engine: Engine, batch: Documents, dtype: str, *, masked: bool) -> tuple[Ragged, Any]:
    """The tokens of documents, and which of them are learnt, uint8 of shape (tokens,); None when nobody asks."""
    if not masked:
        return engine.encode(batch.texts, dtype), None
    tokens, flags = encode_masked(engine, batch.texts, batch.spans, dtype)
    return tokens, flags.values


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
    documents: Counter[int] = Counter()
    engines = sorted({str(manifest.details["engine"]) for manifest in result.manifests})
    not_learnt = 0
    for manifest in result.manifests:
        not_learnt += manifest.details["not_learnt"]
        read.update(manifest.details["read"])
        lengths.update({int(length): count for length, count in manifest.details["lengths"].items()})
        documents.update({int(place): count for place, count in manifest.details["document_lengths"].items()})
    refused = sum(count for name, count in read.items() if name.startswith("refused_"))
    if read["rows_read"] != account.documents_in + refused:
        raise IntegrityError(f"{root.parent}: the account does not close: {dict(read)}; this is a defect of hfassets")
    if not account.rows:
        raise DataError(f"{root.parent}: no row came out of {read['rows_read']:,} rows of text; nothing to write")
    folder, context = root.parent, result.context
    number = place_parts(folder, result.manifests)
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
        "vocab_size": context["vocabulary"]["size"],
        **({"not_learnt": not_learnt} if context["rule"]["masked"] else {}),
        "vocabulary": context["vocabulary"],
        "account": account.to_dict(),
        "read": dict(sorted(read.items())),
        "lengths": {str(length): count for length, count in sorted(lengths.items())},
        "document_lengths": {str(place): count for place, count in sorted(documents.items())},
        "engines": engines,
    }
    # Beside the folder, where only rows lie for whoever reads all of it.
    write_stats(folder.parent, stats, stats_name(folder))
    return Finished(account.to_dict(), stats)


def close_account(account: Mapping[str, int]) -> None:
    """Raise IntegrityError when a token of packed rows is in no count or in two."""
    TokenAccount.from_dict(account).close()
