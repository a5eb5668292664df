"""Text to chunked MDS in one go: no text and no tokenized MDS lie on disk in between.

Invariant: what is written is what the three stages would write for the same source, rule and parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hfassets.errors import IntegrityError
from hfassets.mds.batches import batched, source_documents
from hfassets.mds.chunk import chunk_details, finish_chunks, write_rows
from hfassets.mds.convert import Conversion, ShardShape
from hfassets.mds.documents import Documents, Reading
from hfassets.mds.sides import TRAIN, VALIDATION, ValidationRule
from hfassets.mds.stage import SIDES, Finished, Stage
from hfassets.mds.tokenize import loaded_engine
from hfassets.parts import PartOutput, PartsResult, Plan
from hfassets.tokens.account import TokenAccount, total
from hfassets.tokens.chunking import Specials, check_rule, chunked
from hfassets.tokens.engine import Engine, EngineName, TokenizerSource
from hfassets.tokens.ragged import Ragged
from hfassets.tokens.rules import ChunkRule

STAGE = "chunked_mds"
FORMAT = 1


@dataclass(frozen=True)
class FusedChunking:
    """A conversion whose documents are tokenized and chunked at once; see Tokenization and Chunking."""

    root: Path
    conversion: Conversion
    tokenizer: TokenizerSource
    tokenizer_path: Path
    rule: ChunkRule
    dtype: str | None = None
    engine: EngineName = "auto"
    shape: ShardShape = field(default_factory=lambda: ShardShape(compression=None))

    def stage(self) -> Stage:
        """The folder as a stage; raises what the stages of its three steps raise."""
        reference = Engine(self.tokenizer, "tokenizers")
        specials, dtype = reference.specials, reference.dtype(self.dtype)
        check_rule(self.rule, specials)
        text = self.conversion.stage().plan
        parameters = {
            "text": {key: value for key, value in text.parameters.items() if key != "shape"},
            "tokenizer": self.tokenizer.identity,
            "dtype": dtype,
            "rule": self.rule.identity(),
            "specials": [list(specials.before), list(specials.after), specials.eos, sorted(specials.ids)],
            "shape": self.shape.to_dict(),
        }
        context = {
            **text.context,
            **parameters,
            "rule": asdict(self.rule),
            "tokenizer_path": str(self.tokenizer_path.absolute()),
            "tokenizer_name": self.tokenizer.name,
            "prefix_space": self.tokenizer.prefix_space,
            "engine": self.engine,
        }
        plan = Plan(STAGE, FORMAT, text.inputs, parameters, text.parts, context)
        return Stage(self.root, plan, fused_part, _finish)


def fused_part(part: dict[str, Any], folder: Path) -> PartOutput:
    """Worker: the rows of a part's pieces, each side by itself."""
    context = part["context"]
    engine = loaded_engine(context)
    before, after, eos, ids = context["specials"]
    specials = Specials(tuple(before), tuple(after), eos, frozenset(ids))
    rule, shape = ChunkRule(**context["rule"]), ShardShape.from_dict(context["shape"])
    reading, counts = Reading(), Counter[str]()
    tokens: dict[int, list[Ragged]] = {TRAIN: [], VALIDATION: []}
    names: dict[int, list[bytes]] = {TRAIN: [], VALIDATION: []}
    for batch in batched(source_documents(part, context, reading)):
        _tokenize(batch, ValidationRule(*context["validation"]), engine, context["dtype"], tokens, names, counts)
    details: dict[str, Any] = {}
    for side in (TRAIN, VALIDATION):
        if names[side]:
            rows = chunked(tokens.pop(side), rule, specials)
            if len(rows):
                write_rows(rows, names[side], rule, specials, folder / SIDES[side], shape)
            details[SIDES[side]] = chunk_details(rows, specials)
    counts["rows_read"] = reading.read
    counts.update({f"refused_{name}": count for name, count in sorted(reading.refused.items())})
    accounts = [TokenAccount.from_dict(details[side]["account"]) for side in SIDES if side in details]
    details["text"] = dict(counts)
    details["engine"] = engine.engine
    return PartOutput(total(accounts).to_dict(), details)


def _tokenize(
    batch: Documents,
    rule: ValidationRule,
    engine: Engine,
    dtype: str,
    tokens: Mapping[int, list[Ragged]],
    names: Mapping[int, list[bytes]],
    counts: Counter[str],
) -> None:
    sides = rule.sides(batch.texts)
    for side in sorted(set(sides)):
        places = [place for place, one in enumerate(sides) if one == side]
        texts = batch.texts if len(places) == len(sides) else [batch.texts[place] for place in places]
        counts[f"documents_{(*SIDES, 'held_out')[side]}"] += len(texts)
        if side not in tokens:
            continue
        found = engine.encode(texts, dtype)
        full = np.flatnonzero(found.lengths)
        counts["documents_empty"] += len(texts) - len(full)
        tokens[side].append(Ragged(found.values, np.append(found.offsets[full], found.offsets[-1])))
        names[side] += [batch.ids[places[place]] for place in full.tolist()]


def _finish(root: Path, result: PartsResult) -> Finished:
    counts: Counter[str] = Counter()
    for manifest in result.manifests:
        counts.update(manifest.details["text"])
    refused = sum(count for name, count in counts.items() if name.startswith("refused_"))
    found = sum(counts[f"documents_{name}"] for name in (*SIDES, "held_out"))
    if counts["rows_read"] != found + refused:
        raise IntegrityError(f"{root}: the account does not close: {dict(counts)}; this is a defect of hfassets")
    engines = sorted({str(manifest.details["engine"]) for manifest in result.manifests})
    return finish_chunks(root, result, {"text": dict(sorted(counts.items()))}, {"engines": engines})
