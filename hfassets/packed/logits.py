"""What a teacher expects behind each token of packed rows, as Parquet: `shard_0000.parquet` and so on in one folder.

Invariant: rows are in the order of the packed ones, each named by its number there; a position of a row is in the
shards or in a named count; the shards are in their places before the manifest is.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import orjson

from hfassets.errors import DataError, IntegrityError
from hfassets.mds.stage import Finished, Stage, write_stats
from hfassets.packed.positions import followers, positions
from hfassets.packed.shards import PARTS, place_parts, stats_name
from hfassets.packed.source import PackedRows, read_rows
from hfassets.packed.teacher import DType, Expected, Teacher
from hfassets.packed.teacher_model import TeacherModel, check_vocabulary
from hfassets.parts import PartOutput, PartsResult, Plan

if TYPE_CHECKING:
    import pyarrow as pa

STAGE = "teacher_logits"
FORMAT = 1
_WINDOW_BYTES = 32 << 20
"""Of what is expected of rows that are sorted by length together: bounds a process's memory."""
_REST_STEPS = 4
"""Bins of the mass that is not among the top k, in each power of ten."""
_LEAST_REST = 1e-9


@dataclass(frozen=True, slots=True)
class LogitRule:
    """What decides about the numbers. `top_k`: tokens a position; `temperature`: divides logits; `longest`: positions
    of a row that are looked at, None = all; `values`: how log-probabilities are stored; `dtype`: as Teacher has it.
    """

    top_k: int = 32
    temperature: float = 1.0
    longest: int | None = None
    values: Literal["float32", "float16"] = "float32"
    dtype: DType = "auto"

    @property
    def bytes_per_position(self) -> int:
        """Of ids, log-probabilities, rest and position, not compressed."""
        return self.top_k * (4 + (4 if self.values == "float32" else 2)) + 8


@dataclass(frozen=True)
class Logits:
    """What is asked of a teacher. `folder`: gets the shards; `batch_size`: rows of a forward pass, at most;
    `shard_bytes`: of a file, at most; `threads`: of a process, None = as torch has it.
    """

    folder: Path
    rows: PackedRows
    teacher: TeacherModel
    rule: LogitRule
    batch_size: int = 8
    shard_bytes: int = 256 << 20
    device: str = "auto"
    threads: int | None = None

    def stage(self) -> Stage:
        """The folder as a stage. Raises DataError for a teacher of another vocabulary, or one that does not read rows
        of that length.
        """
        vocabulary = check_vocabulary(f"the rows of {self.rows.folder}", self.rows.vocabulary, self.teacher)
        longest = min(self.rows.size, self.rule.longest or self.rows.size)
        if self.too_long and not self.teacher.reads_on:
            raise DataError(self.too_long)
        most = max(1, self.shard_bytes // (self.rule.bytes_per_position * longest))
        parameters = {
            "rule": asdict(self.rule),
            "teacher": self.teacher.identity,
            "shard_bytes": self.shard_bytes,
        }
        context = {
            **parameters,
            "teacher_path": str(self.teacher.path.absolute()),
            "teacher_name": self.teacher.name,
            "rows": str(self.rows.folder.absolute()),
            "shifted": self.rows.shifted,
            "size": self.rows.size,
            "vocabulary": vocabulary,
            "batch_size": self.batch_size,
            "device": self.device,
            "threads": self.threads,
        }
        plan = Plan(STAGE, FORMAT, {"rows": self.rows.identity}, parameters, self.rows.parts(most), context)
        return Stage(self.folder / PARTS, plan, teach_part, _finish)

    @property
    def too_long(self) -> str:
        """What is wrong with the rows when the teacher has not learnt to read such long ones; "" when it has."""
        limit, longest = self.teacher.max_positions, min(self.rows.size, self.rule.longest or self.rows.size)
        if limit is None or longest <= limit:
            return ""
        return (
            f"{self.teacher.name} reads {limit:,} tokens, and the rows of {self.rows.folder} have {longest:,}: choose "
            f"--max-seq-length {limit}, or pack shorter rows"
        )


@lru_cache(maxsize=1)
def _teacher(_identity: bytes, path: str, name: str, dtype: DType, device: str, threads: int | None) -> Teacher:
    """A model is large, and a process makes many parts with it. Another one at the same path is another identity."""
    return Teacher(Path(path), name, dtype, device, threads)


def teach_part(part: dict[str, Any], folder: Path) -> PartOutput:
    """Worker: what is expected behind the positions of a run of rows."""
    import pyarrow.parquet as pq

    context = part["context"]
    rule = LogitRule(**context["rule"])
    teacher = _teacher(
        orjson.dumps(context["teacher"]),
        context["teacher_path"],
        context["teacher_name"],
        rule.dtype,
        context["device"],
        context["threads"],
    )
    counts: Counter[str] = Counter()
    rests: Counter[int] = Counter()
    surprise = 0.0
    began = time.perf_counter()
    window = max(context["batch_size"], _WINDOW_BYTES // (context["size"] * rule.bytes_per_position))
    path = Path(context["rows"]) / part["shard"]
    kind = schema(min(rule.top_k, teacher.vocab_size), rule.values)
    with pq.ParquetWriter(folder / "00000.parquet", kind, **_stored()) as writer:
        first = int(part["first"])
        for columns in read_rows(path, first, int(part["stop"]), window):
            block = _Block(columns, context["shifted"], rule.longest)
            if block.largest >= teacher.vocab_size:
                raise DataError(
                    f"{path}: token {block.largest} in it, and {context['teacher_name']} knows {teacher.vocab_size:,}"
                )
            if not block.padded_behind:
                raise DataError(f"{path}: a row has padding before or between its tokens; it has to come behind them")
            found = block.expected(teacher, rule, context["batch_size"])
            writer.write_table(block.table(found, int(part["row"]) + first - int(part["first"]), kind))
            first += len(block)
            counts.update(block.counts)
            there = ~np.isnan(found.followed)
            counts["followed"] += int(there.sum())
            surprise -= float(found.followed[there].sum(dtype=np.float64))
            rests.update(_binned(found.rest))
    seconds = time.perf_counter() - began
    details = {
        "surprise": surprise,
        "rests": {str(place): count for place, count in sorted(rests.items())},
        "seconds": round(seconds, 3),
        "device": teacher.device,
        "dtype": teacher.dtype,
        "batch_size": context["batch_size"],
    }
    return PartOutput(dict(counts), details)


class _Block:
    """Consecutive rows, and which of their positions a teacher is asked about."""

    def __init__(self, columns: Mapping[str, Any], shifted: bool, longest: int | None) -> None:
        self.ids = columns["input_ids"]
        attention = columns["attention_mask"]
        self.lengths = (attention != 0).sum(axis=1)
        there = np.arange(self.ids.shape[1])[None, :] < self.lengths[:, None]
        self.padded_behind = bool(np.array_equal(attention != 0, there))
        self.asked = positions(attention, columns.get("loss_mask"), shifted=shifted, longest=longest)
        self.followers = followers(self.ids, self.lengths)
        # Causal: nothing behind the last wanted position has a say.
        behind = self.ids.shape[1] - np.argmax(self.asked.wanted[:, ::-1], axis=1)
        self.needed = np.where(self.asked.wanted.any(axis=1), behind, 0)
        self.largest = int(self.ids.max(initial=0))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def counts(self) -> dict[str, int]:
        """Every position, by what becomes of it."""
        return {
            "rows": len(self),
            "positions": self.ids.size,
            "padding": self.ids.size - self.asked.tokens,
            "tokens": self.asked.tokens,
            "not_learnt": self.asked.not_learnt,
            "beyond_longest": self.asked.beyond,
            "written": int(self.asked.wanted.sum()),
        }

    def expected(self, teacher: Teacher, rule: LogitRule, batch_size: int) -> Expected:
        """Batches of rows that need about the same number of positions; what is found is in the order of the rows."""
        order = np.argsort(-self.needed, kind="stable")
        order = order[: int((self.needed > 0).sum())]
        k = min(rule.top_k, teacher.vocab_size)
        per_row = self.asked.wanted.sum(axis=1)
        starts = np.concatenate(([0], np.cumsum(per_row)))
        count = int(starts[-1])
        found = Expected(
            np.empty((count, k), dtype=np.int32),
            np.empty((count, k), dtype=np.float32),
            np.empty(count, dtype=np.float32),
            np.empty(count, dtype=np.float32),
        )
        for begin in range(0, len(order), batch_size):
            # In their own order, so that what is found of a batch goes where its rows are.
            batch = np.sort(order[begin : begin + batch_size])
            width = int(self.needed[batch].max())
            some = teacher.expect(
                self.ids[batch, :width],
                np.minimum(self.lengths[batch], width),
                self.asked.wanted[batch, :width],
                self.followers[batch, :width],
                k,
                rule.temperature,
            )
            place = 0
            for row in batch.tolist():
                target, source = slice(starts[row], starts[row + 1]), slice(place, place + int(per_row[row]))
                found.ids[target], found.logprobs[target] = some.ids[source], some.logprobs[source]
                found.rest[target], found.followed[target] = some.rest[source], some.followed[source]
                place = source.stop
        return found

    def table(self, found: Expected, first: int, kind: pa.Schema) -> pa.Table:
        """One row each, as `schema` has it. `first`: the number of the first one."""
        import pyarrow as pa

        k = found.ids.shape[1]
        offsets = pa.array(np.concatenate(([0], np.cumsum(self.asked.wanted.sum(axis=1)))).astype(np.int32))
        places = np.nonzero(self.asked.wanted)[1].astype(np.int32)
        values = found.logprobs.astype(kind.field("top_logprobs").type.value_type.value_type.to_pandas_dtype())
        columns = [
            pa.array(np.arange(first, first + len(self))),
            pa.ListArray.from_arrays(offsets, pa.array(places)),
            pa.ListArray.from_arrays(offsets, pa.FixedSizeListArray.from_arrays(pa.array(found.ids.reshape(-1)), k)),
            pa.ListArray.from_arrays(offsets, pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), k)),
            pa.ListArray.from_arrays(offsets, pa.array(found.rest)),
        ]
        return pa.Table.from_arrays(
            [column.cast(one.type) for column, one in zip(columns, kind, strict=True)], schema=kind
        )


def schema(k: int, values: str) -> pa.Schema:
    """`row`: its number among the packed ones; a list each of `positions`, `top_ids` and `top_logprobs` (lists of k,
    the likeliest first) and `rest_mass`, which is the mass of all other tokens.
    """
    import pyarrow as pa

    of = {"float32": pa.float32(), "float16": pa.float16()}[values]
    return pa.schema(
        [
            ("row", pa.int64()),
            ("positions", pa.list_(pa.int32())),
            ("top_ids", pa.list_(pa.list_(pa.int32(), k))),
            ("top_logprobs", pa.list_(pa.list_(of, k))),
            ("rest_mass", pa.list_(pa.float32())),
        ]
    )


def _stored() -> dict[str, Any]:
    inner = "list.element"
    split = (f"top_ids.{inner}.{inner}", f"top_logprobs.{inner}.{inner}", f"rest_mass.{inner}")
    return {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": False,
        "column_encoding": {
            **dict.fromkeys(split, "BYTE_STREAM_SPLIT"),
            "row": "DELTA_BINARY_PACKED",
            f"positions.{inner}": "DELTA_BINARY_PACKED",
        },
        "write_page_checksum": True,
    }


def _binned(rest: Any) -> dict[int, int]:
    """How many positions leave how much mass to other tokens, in steps of equal ratio."""
    places = np.floor(np.log10(np.maximum(rest, _LEAST_REST)) * _REST_STEPS).astype(np.int64)
    found, counts = np.unique(places, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def rest_edges(place: int) -> tuple[float, float]:
    """The mass from which, and to which, a bin of the details goes."""
    return 10.0 ** (place / _REST_STEPS), 10.0 ** ((place + 1) / _REST_STEPS)


def _finish(root: Path, result: PartsResult) -> Finished:
    """Shards in their places, and how sure the teacher is."""
    account, context = dict(result.account), result.context
    close_account(account)
    rests: Counter[int] = Counter()
    for manifest in result.manifests:
        rests.update({int(place): count for place, count in manifest.details["rests"].items()})
    number = place_parts(root.parent, result.manifests)
    surprise = sum(manifest.details["surprise"] for manifest in result.manifests)
    size = sum(file.size for manifest in result.manifests for file in manifest.files)
    seconds = sum(manifest.details["seconds"] for manifest in result.manifests)
    stats = {
        "teacher": context["teacher_name"],
        "rows": account["rows"],
        "tokens": account["tokens"],
        "positions_written": account["written"],
        "shards_created": number,
        "bytes": size,
        "bytes_per_position": round(size / max(1, account["written"]), 2),
        "tokens_per_second": round(account["tokens"] / max(seconds, 1e-9), 1),
        # In nats for each token that follows another one in its row.
        "cross_entropy": surprise / max(1, account["followed"]),
        **context["rule"],
        "vocabulary": context["vocabulary"],
        "devices": _each(result.manifests, "device"),
        "dtypes": _each(result.manifests, "dtype"),
        "batch_sizes": _each(result.manifests, "batch_size"),
        "account": account,
        "rests": {str(place): count for place, count in sorted(rests.items())},
    }
    write_stats(root.parent.parent, stats, stats_name(root.parent))
    return Finished(account, stats)


def close_account(account: Mapping[str, int]) -> None:
    """Raise IntegrityError when a position is in no count or in two."""
    said = account["written"] + account["not_learnt"] + account["beyond_longest"]
    if account["tokens"] != said or account["positions"] != account["tokens"] + account["padding"]:
        raise IntegrityError(f"the account does not close: {dict(account)}; this is a defect of hfassets")


def _each(manifests: Sequence[Any], name: str) -> list[Any]:
    return sorted({manifest.details[name] for manifest in manifests})
