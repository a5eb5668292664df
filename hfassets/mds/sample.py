"""Chunked MDS to `train` and `validation`: whole, drawn down to a target of tokens, repeated up to one, or mixed.

Invariant: what is taken whole costs no disk (hard links, where the file system has them); what is drawn follows from
the seed and the documents' ids; the validation side is always whole.
"""

from __future__ import annotations

import glob
import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hfassets.errors import DataError, UsageError
from hfassets.hub.hashing import hash_file
from hfassets.mds.convert import ShardShape
from hfassets.mds.draw import Survey, Threshold, row_mask, survey_of, threshold
from hfassets.mds.index import INDEX, read_index, write_merged
from hfassets.mds.reader import MdsReader, ShardData
from hfassets.mds.stage import SIDES, STATS, StageOutput, StageRun, find_stage, write_stats
from hfassets.parts import PartOutput, Plan
from hfassets.parts import run as run_parts
from hfassets.progress import Note, ProgressCallback, silent
from hfassets.storage.atomic import publish_directory, temporary_beside
from hfassets.storage.lease import lease
from hfassets.storage.manifest import MANIFEST_FILE, Manifest, OutputFile, provenance, read_manifest, write_manifest

STAGE = "sampled_mds"
FORMAT = 1
SURVEY = "survey.npz"


@dataclass(frozen=True, slots=True)
class Member:
    """A chunked or sampled MDS. `tokens`: how many of its training side, special ones included; None = as many as
    there are. `share`: of the whole, for the report.
    """

    name: str
    root: Path
    fingerprint: str
    tokens: int | None = None
    share: float | None = None


@dataclass(frozen=True)
class Sampling:
    """What is taken of which. `stage`: the name of the output's kind; `nested`: each member in a folder of its own."""

    root: Path
    members: Sequence[Member]
    seed: int = 0
    stage: str = STAGE
    nested: bool = False
    shape: ShardShape = field(default_factory=lambda: ShardShape(compression=None))

    @property
    def expected(self) -> Manifest:
        """A manifest with the identity of what is asked for."""
        inputs = {member.name: member.fingerprint for member in self.members}
        parameters = {
            "seed": self.seed,
            "members": [[member.name, member.tokens, member.share] for member in self.members],
            "nested": self.nested,
            "shape": self.shape.to_dict(),
        }
        return Manifest(self.stage, FORMAT, inputs, parameters, ".", ())


def by_share(
    members: Sequence[Member], shares: Mapping[str, float], available: Mapping[str, int], tokens: int | None
) -> list[Member]:
    """Members with their targets: the largest remainder first, so that the sum is exact.

    Without `tokens`: as many as there can be without anything twice. Raises UsageError for shares that cannot be.
    """
    total = sum(shares.values())
    if abs(total - 1) > 1e-6 or min(shares.values()) <= 0:
        raise UsageError(f"the shares {dict(shares)} add up to {total:g}; they have to be positive and add up to 1")
    whole = tokens if tokens is not None else min(int(available[name] / share) for name, share in shares.items())
    exact = {member.name: whole * shares[member.name] for member in members}
    found = {name: int(one) for name, one in exact.items()}
    for name in sorted(exact, key=lambda one: found[one] - exact[one])[: whole - sum(found.values())]:
        found[name] += 1
    return [
        Member(member.name, member.root, member.fingerprint, found[member.name], shares[member.name])
        for member in members
    ]


def leaves(root: Path) -> list[tuple[str, str, Path]]:
    """Side, part and folder of each MDS below a root, whether sides lie in parts or parts in sides."""
    found = []
    for path in sorted(root.rglob(INDEX)):
        below = path.parent.relative_to(root).parts
        sides = [one for one in below if one in SIDES]
        if sides and len(below) > 1 and not any(one.startswith(".") for one in below):
            found.append((sides[0], "-".join(one for one in below if one not in SIDES), path.parent))
    if not found:
        raise DataError(f"{root}: no MDS with the sides {' and '.join(SIDES)} in it; chunk it first")
    return found


def training_tokens(root: Path) -> int:
    """Tokens of the training side of a finished folder, special ones included, as its stats say."""
    output = find_stage(root)
    side = None if output is None else output.details.get("sides", {}).get(SIDES[0])
    if side is None:
        raise DataError(f"{root}: not finished, or nothing in it is for training")
    return int(side["total_tokens_written"])


def make_sampling(sampling: Sampling, run: StageRun, progress: ProgressCallback = silent) -> StageOutput:
    """Bring the folder to hold what is asked for.

    Raises DataError for a member that is not there, PartialFailureError, LeaseHeldError.
    """
    if not run.force and (found := _done(sampling)) is not None:
        return found
    started, root = time.monotonic(), sampling.root
    with lease(
        run.state.lease(f"{sampling.stage}:{root.absolute()}"),
        str(root),
        run_id=run.run_id,
        wait=run.lease_wait,
        on_wait=lambda line: progress(Note(line)),
    ):
        if not run.force and (found := _done(sampling)) is not None:
            return found
        _check_columns(sampling.members)
        root.parent.mkdir(parents=True, exist_ok=True)
        for left in root.parent.glob(f".{glob.escape(root.name)}.*.tmp"):
            shutil.rmtree(left)
        work = root.with_name(f".{root.name}.parts")
        plans = [_Plan(sampling, member, run, work, progress) for member in sampling.members]
        parts = [part for plan in plans for part in plan.parts()]
        plan = Plan(sampling.stage, FORMAT, sampling.expected.inputs, sampling.expected.parameters, parts, {
            "shape": sampling.shape.to_dict(), "seed": sampling.seed,
            "members": {member.name: str(member.root.absolute()) for member in sampling.members},
        })  # fmt: skip
        made = run_parts(plan, sample_part, run.pool, work / "draw", replace=True, progress=progress)
        temporary = temporary_beside(root)
        try:
            manifest = _assemble(sampling, plan, made.manifests, work / "draw", temporary, progress)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        shutil.rmtree(work)
    return StageOutput(root, manifest, False, time.monotonic() - started, len(made.made), len(made.reused))


def _done(sampling: Sampling) -> StageOutput | None:
    found = find_stage(sampling.root)
    return found if found is not None and found.fingerprint == sampling.expected.fingerprint else None


class _Plan:
    """What of one member goes into which part."""

    def __init__(
        self, sampling: Sampling, member: Member, run: StageRun, work: Path, progress: ProgressCallback
    ) -> None:
        self._sampling = sampling
        self._member = member
        self._run = run
        self._survey_root = work / f"survey-{sampling.members.index(member):04}"
        self._progress = progress
        self._leaves = leaves(member.root)

    def parts(self) -> list[dict[str, Any]]:
        """Training parts as often as they are wanted, drawn ones, and the validation side once."""
        member = self._member
        train = [(part, folder) for side, part, folder in self._leaves if side == SIDES[0]]
        found = [self._part(side, part, folder, 0) for side, part, folder in self._leaves if side == SIDES[1]]
        if member.tokens is None:
            return [self._part(SIDES[0], part, folder, 0) for part, folder in train] + found
        surveys = self._surveys(train)
        total = sum(int(np.load(path)["tokens"].sum()) for path in surveys)
        if not total:
            raise DataError(f"{member.name}: its training side has no tokens, {member.tokens:,} are asked for")
        repeats, rest = divmod(member.tokens, total)
        for copy in range(repeats):
            found += [self._part(SIDES[0], part, folder, copy) for part, folder in train]
        if rest:
            stop = threshold([partial(load_survey, path) for path in surveys], rest)
            for number, ((part, folder), path) in enumerate(zip(train, surveys, strict=True)):
                taken = stop.takes(load_survey(path), number)
                if taken.all():
                    found.append(self._part(SIDES[0], part, folder, repeats))
                elif taken.any():
                    extra = [one for one in stop.extra if one[0] == number]
                    drawn = {**asdict(stop), "extra": extra}
                    found.append(self._part(SIDES[0], part, folder, repeats, stop=drawn, number=number))
        return found

    def _part(self, side: str, part: str, folder: Path, copy: int, **drawn: Any) -> dict[str, Any]:
        name = part if not copy else f"{part}-repeat-{copy}"
        below = folder.relative_to(self._member.root).as_posix()
        whole = f"{self._member.name}~{side}~{name}"
        return {"name": whole, "member": self._member.name, "side": side, "part": name, "source": below, **drawn}

    def _surveys(self, train: Sequence[tuple[str, Path]]) -> list[Path]:
        parts = [{"name": part, "source": str(folder.relative_to(self._member.root))} for part, folder in train]
        context = {"root": str(self._member.root.absolute()), "seed": self._sampling.seed}
        plan = Plan("survey", 1, {"of": self._member.fingerprint}, {"seed": self._sampling.seed}, parts, context)
        root = self._survey_root
        run_parts(plan, survey_part, self._run.pool, root, replace=True, progress=self._progress)
        return [root / part / SURVEY for part, _ in train]


def survey_part(part: dict[str, Any], folder: Path) -> PartOutput:
    """Worker: the documents of a training part, by priority and tokens."""
    context = part["context"]
    survey = read_survey(Path(context["root"]) / part["source"], context["seed"])
    np.savez(folder / SURVEY, priorities=survey.priorities, tokens=survey.tokens, rows=survey.rows)
    return PartOutput()


def read_survey(folder: Path, seed: int) -> Survey:
    """The survey of an MDS of rows."""
    ids: list[bytes] = []
    tokens: list[Any] = []
    for block in MdsReader(folder).blocks():
        ids += block.encoded("id")
        tokens.append(block.array_lengths("input_ids"))
    return survey_of(ids, np.concatenate(tokens) if tokens else [], seed)


def load_survey(path: Path) -> Survey:
    """What a survey's part has written."""
    with np.load(path, allow_pickle=False) as found:
        return Survey(found["priorities"], found["tokens"], found["rows"])


def sample_part(part: dict[str, Any], folder: Path) -> PartOutput:
    """Worker: a part linked whole, or the rows of the documents that were drawn."""
    context = part["context"]
    source = Path(context["members"][part["member"]]) / part["source"]
    if "stop" not in part:
        link_mds(source, folder / "mds")
    else:
        survey = read_survey(source, context["seed"])
        stop = part["stop"]
        extra = tuple((number, place) for number, place in stop["extra"])
        taken = Threshold(stop["priority"], stop["part"], stop["place"], extra).takes(survey, part["number"])
        _write_some(MdsReader(source), row_mask(survey, taken), folder / "mds", ShardShape.from_dict(context["shape"]))
    lengths: Counter[int] = Counter()
    documents = 0
    for block in MdsReader(folder / "mds").blocks():
        found = block.array_lengths("input_ids")
        lengths.update(dict(enumerate(np.bincount(found).tolist())))
        documents += len(survey_of(block.encoded("id"), found, 0).tokens)
    counts = {str(length): count for length, count in sorted(lengths.items()) if count}
    tokens = sum(length * count for length, count in lengths.items())
    return PartOutput({"rows": sum(lengths.values()), "tokens": tokens, "documents": documents}, {"lengths": counts})


def link_mds(source: Path, target: Path) -> None:
    """The files of an MDS in another folder, by hard links; copied where there are none."""
    target.mkdir(parents=True)
    for shard in read_index(source):
        name = shard.zipped if shard.zipped is not None and (source / shard.zipped).exists() else shard.raw
        link_or_copy(source / name, target / name)
    link_or_copy(source / INDEX, target / INDEX)


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link, or a copy on a file system (or between two) that has none."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise DataError(f"{source}: the index names it, and it is not there") from None
    except OSError:
        shutil.copyfile(source, target)


def _write_some(reader: MdsReader, rows: Any, folder: Path, shape: ShardShape) -> None:
    place = 0
    with shape.writer(folder, reader.shards[0].columns) as writer:
        for block in reader.blocks():
            wanted = np.flatnonzero(rows[place : place + len(block)]).tolist()
            place += len(block)
            if wanted:
                writer.write_encoded({name: _taken(block, name, wanted) for name in block.columns})


def _taken(block: ShardData, name: str, wanted: Sequence[int]) -> list[bytes]:
    values = block.encoded(name)
    return [values[place] for place in wanted]


def _check_columns(members: Sequence[Member]) -> None:
    """All members have to have the same columns, or nobody could read them as one."""
    first: tuple[str, dict[str, str]] | None = None
    for member in members:
        columns = read_index(leaves(member.root)[0][2])[0].columns
        first = first or (member.name, columns)
        if columns != first[1]:
            told = [f"{name} has {', '.join(found)}" for name, found in (first, (member.name, columns))]
            raise DataError(f"{'; '.join(told)}: chunk them by one rule, with one dtype, to put them together")


def _assemble(
    sampling: Sampling,
    plan: Plan,
    manifests: Sequence[Manifest],
    work: Path,
    temporary: Path,
    progress: ProgressCallback,
) -> Manifest:
    """Put the parts together as `side/[member/]part`, with an index for each side, and publish the whole."""
    files: list[OutputFile] = []
    for part, manifest in zip(plan.parts, manifests, strict=True):
        below = Path(part["side"]) / (part["member"] if sampling.nested else "") / part["part"]
        (temporary / below).mkdir(parents=True)
        for file in manifest.files:
            name = file.path.removeprefix("mds/")
            link_or_copy(work / part["name"] / file.path, temporary / below / name)
            files.append(OutputFile((below / name).as_posix(), file.size, file.sha256))
    for side in SIDES:
        if (temporary / side).is_dir():
            write_merged(temporary / side)
    stats = _stats(sampling, plan, manifests)
    write_stats(temporary, stats)
    for name in (STATS, *(f"{side}/{INDEX}" for side in SIDES)):
        path = temporary / name
        if path.exists():
            files.append(OutputFile(name, path.stat().st_size, hash_file(path, "sha256")))
    expected = sampling.expected
    manifest = Manifest(
        expected.stage, expected.format, expected.inputs, expected.parameters, ".", tuple(files),
        account=stats["account"], details=stats,
        recorded=provenance() | {"made_from": {one.name: str(one.root.absolute()) for one in sampling.members}},
    )  # fmt: skip
    write_manifest(temporary / MANIFEST_FILE, manifest)
    if sampling.root.exists() and read_manifest(sampling.root / MANIFEST_FILE) is None and any(sampling.root.iterdir()):
        raise DataError(f"{sampling.root} is there already and was not written by hfassets; choose another folder")
    progress(Note(f"publishing {len(files):,} files to {sampling.root}"))
    publish_directory(temporary, sampling.root, replace=True)
    return manifest


def _stats(sampling: Sampling, plan: Plan, manifests: Sequence[Manifest]) -> dict[str, Any]:
    """Rows, tokens and documents by side and member; what was asked and what came."""
    sides: dict[str, dict[str, Any]] = {}
    got: Counter[str] = Counter()
    for part, manifest in zip(plan.parts, manifests, strict=True):
        side = sides.setdefault(part["side"], {"rows": 0, "tokens": 0, "documents": 0, "lengths": Counter(), "of": {}})
        of = side["of"].setdefault(part["member"], Counter())
        for name in ("rows", "tokens", "documents"):
            side[name] += manifest.account[name]
            of[name] += manifest.account[name]
        side["lengths"].update(manifest.details["lengths"])
        if part["side"] == SIDES[0]:
            got[part["member"]] += manifest.account["tokens"]
    whole = sum(got.values())
    members = [
        {
            "name": member.name,
            "asked": member.tokens,
            "got": got[member.name],
            "share_asked": member.share,
            "share_got": got[member.name] / whole if whole else 0.0,
        }
        for member in sampling.members
    ]
    account = {
        f"{name}_{side}": found[name] for side, found in sides.items() for name in ("rows", "tokens", "documents")
    }
    for found in sides.values():
        found["total_tokens_written"] = found["tokens"]
        found["of"] = {name: dict(counts) for name, counts in found["of"].items()}
        found["lengths"] = {key: found["lengths"][key] for key in sorted(found["lengths"], key=int)}
    return {"account": account, "members": members, "sides": sides}
