"""Context extension: rows of another size, from documents that are long enough, drawn to a budget of tokens.

Invariant: each domain and each bucket of lengths gets its share of the budget, drawn uniformly from the training side
of the whole pool; a document is taken once at most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hfassets.errors import DataError, UsageError
from hfassets.mds.chunk import chunk_stats, write_rows
from hfassets.mds.convert import ShardShape
from hfassets.mds.draw import Survey, Threshold, survey_of, threshold
from hfassets.mds.index import write_merged
from hfassets.mds.reader import MdsReader
from hfassets.mds.stage import SIDES, STATS, Finished, Stage, write_stats
from hfassets.mds.upstream import Upstream, side_folders
from hfassets.parts import PartOutput, PartsResult, Plan
from hfassets.tokens.account import TokenAccount, total
from hfassets.tokens.chunking import Specials, check_rule, chunked
from hfassets.tokens.ragged import Ragged, concatenated
from hfassets.tokens.rules import ChunkRule

STAGE = "context_extension_mds"
FORMAT = 1


@dataclass(frozen=True)
class Domain:
    """A tokenized MDS and its share of the budget."""

    name: str
    tokens: Upstream
    share: float


@dataclass(frozen=True)
class Extension:
    """What is drawn. `budget`: content tokens of documents; `buckets`: the least length of each bucket of documents and
    its share within a domain; a bucket ends where the next begins.
    """

    root: Path
    domains: Sequence[Domain]
    budget: int
    rule: ChunkRule
    specials: Specials
    buckets: Mapping[int, float]
    seed: int = 0
    shape: ShardShape = field(default_factory=lambda: ShardShape(compression=None))

    def stage(self) -> Stage:
        """The folder as a stage; the documents are looked through for it.

        Raises UsageError for shares that do not add up to 1, DataError for a bucket that has too few tokens.
        """
        check_rule(self.rule, self.specials)
        for what, shares in (("domains", [one.share for one in self.domains]), ("buckets", self.buckets.values())):
            if abs(sum(shares) - 1) > 1e-6 or min(shares) <= 0:
                raise UsageError(f"the shares of the {what} have to be positive and add up to 1, not {sum(shares):g}")
        parts: list[dict[str, Any]] = []
        for domain in self.domains:
            parts += self._parts_of(domain)
        parameters = {
            "budget": self.budget,
            "domains": [[domain.name, domain.share] for domain in self.domains],
            "buckets": [[least, self.buckets[least]] for least in sorted(self.buckets)],
            "seed": self.seed,
            "rule": self.rule.identity(),
            "specials": [*map(list, (self.specials.before, self.specials.after)), self.specials.eos],
            "shape": self.shape.to_dict(),
        }
        roots = {domain.name: str(domain.tokens.root.absolute()) for domain in self.domains}
        context: dict[str, Any] = {
            **parameters,
            "rule": asdict(self.rule),
            "ids": sorted(self.specials.ids),
            "roots": roots,
        }
        inputs = {domain.name: domain.tokens.fingerprint for domain in self.domains}
        plan = Plan(STAGE, FORMAT, inputs, parameters, parts, context)
        return Stage(self.root, plan, extend_part, _finish, roots)

    def _parts_of(self, domain: Domain) -> list[dict[str, Any]]:
        """The parts of a domain that documents are taken of, with the threshold of each bucket."""
        bounds = _bounds(self.buckets)
        read = [_survey(domain.tokens.root / below, self.seed) for _, below, _ in domain.tokens.entries]
        stops: list[dict[str, Any]] = []
        for least, most in bounds:
            wanted = int(self.budget * domain.share * self.buckets[least])
            surveys = [partial(_within, one, least, most) for one in read]
            try:
                stops.append(asdict(threshold(surveys, wanted)))
            except DataError as error:
                kind = f"from {least:,}" if most is None else f"from {least:,} to {most:,}"
                raise DataError(f"{domain.name}, documents of {kind} tokens: {error}") from None
        return [
            {"name": f"{domain.name}-{name}", "domain": domain.name, "source": below, "number": number, "stops": stops}
            for number, (name, below, _) in enumerate(domain.tokens.entries)
        ]


def _bounds(buckets: Mapping[int, float]) -> list[tuple[int, int | None]]:
    ordered = sorted(buckets)
    return list(zip(ordered, [*ordered[1:], None], strict=True))


def _training(part: Path) -> Path | None:
    return next((folder for side, folder in side_folders(part) if side == SIDES[0]), None)


def _survey(part: Path, seed: int) -> Survey:
    folder = _training(part)
    if folder is None:
        return survey_of([], [], seed)
    blocks = list(MdsReader(folder).blocks())
    ids = [one for block in blocks for one in block.encoded("id")]
    lengths = np.concatenate([block.array_lengths("input_ids") for block in blocks])
    # Two documents of one id are two: the row tells them apart.
    return survey_of([b"%d\0%b" % (row, one) for row, one in enumerate(ids)], lengths, seed)


def _within(survey: Survey, least: int, most: int | None) -> Survey:
    """The documents of a bucket."""
    kept = _in_bucket(survey.tokens, least, most)
    return Survey(survey.priorities[kept], survey.tokens[kept], survey.rows[kept])


def _in_bucket(lengths: Any, least: int, most: int | None) -> Any:
    return np.flatnonzero((lengths >= least) & (True if most is None else lengths < most))


def extend_part(part: dict[str, Any], folder: Path) -> PartOutput:
    """Worker: the documents of a part that were drawn, as rows."""
    context = part["context"]
    before, after, eos = context["specials"]
    specials = Specials(tuple(before), tuple(after), eos, frozenset(context["ids"]))
    rule, shape = ChunkRule(**context["rule"]), ShardShape.from_dict(context["shape"])
    source = Path(context["roots"][part["domain"]]) / part["source"]
    survey = _survey(source, context["seed"])
    chosen: list[int] = []
    for (least, most), stop in zip(_bounds(dict(context["buckets"])), part["stops"], strict=True):
        kept = _in_bucket(survey.tokens, least, most)
        extra = tuple((number, place) for number, place in stop["extra"])
        of_bucket = Survey(survey.priorities[kept], survey.tokens[kept], survey.rows[kept])
        taken = Threshold(stop["priority"], stop["part"], stop["place"], extra).takes(of_bucket, part["number"])
        chosen += kept[taken].tolist()
    training = _training(source)
    if training is None or not chosen:
        return PartOutput(TokenAccount().to_dict(), {"lengths": {}})
    blocks = list(MdsReader(training).blocks())
    documents = concatenated([block.arrays("input_ids") for block in blocks])
    names = [name for block in blocks for name in block.encoded("id")]
    picked = sorted(chosen)
    rows = chunked(Ragged.of([documents[place] for place in picked], documents.values.dtype.name), rule, specials)
    if len(rows):
        write_rows(rows, [names[place] for place in picked], rule, specials, folder / SIDES[0], shape)
    lengths = Counter((rows.sizes + specials.count).tolist())
    return PartOutput(rows.account.to_dict(), {"lengths": {str(length): count for length, count in lengths.items()}})


def _finish(root: Path, result: PartsResult) -> Finished:
    account = total(TokenAccount.from_dict(manifest.account) for manifest in result.manifests).close()
    lengths: Counter[int] = Counter()
    for manifest in result.manifests:
        lengths.update({int(length): count for length, count in manifest.details["lengths"].items()})
    write_merged(root)
    stats = chunk_stats(account, lengths)
    of: dict[str, int] = {}
    for manifest in result.manifests:
        domain = str(manifest.parameters["part"]["domain"])
        of[domain] = of.get(domain, 0) + manifest.account["tokens_in"]
    stats["domains"] = of
    stats["sides"] = {SIDES[0]: chunk_stats(account, lengths)}
    write_stats(root, stats)
    return Finished(account.to_dict(), stats, (STATS,))
