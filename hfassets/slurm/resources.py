"""What a job asks of the cluster: checked before submission, merged by rule, rendered as sbatch options. Pure.

Invariant: a `Resources` that exists renders to options that sbatch parses as what they say; no value can end its option
and begin another. Forms and units are those of sbatch(1).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from hfassets.slurm.errors import ResourceError

_UNITS = {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2}
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,:@%+=\[\]()*&|/-]{0,199}")
_SIGNAL = re.compile(r"([RB]+:)?(SIG)?[A-Z][A-Z0-9]{1,9}(@\d{1,5})?|([RB]+:)?\d{1,2}(@\d{1,5})?")
_GPUS = re.compile(r"(?:([A-Za-z0-9_.-]+):)?(\d{1,4})")
_GRES = re.compile(
    r"[A-Za-z0-9_]+(:[A-Za-z0-9_.-]+)?(:\d{1,6}[KMG]?)?(,[A-Za-z0-9_]+(:[A-Za-z0-9_.-]+)?(:\d{1,6}[KMG]?)?)*"
)


def _text(value: Any) -> str:
    text = str(value)
    if not _SAFE.fullmatch(text):
        raise ValueError("must be a name without spaces and quotes, not beginning with a dash")
    return text


def _count(value: Any) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,7}", str(value)) or int(value) < 1:
        raise ValueError("must be a whole number of at least 1")
    return int(value)


def _flag(value: Any) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if str(value).lower() not in words:
        raise ValueError("must be true or false")
    return words[str(value).lower()]


def _mebibytes(value: Any) -> int:
    """MiB from `32G`, `500M`, `500` (MiB) and the like; a trailing B is read over."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?) ?([KMGT]?)(?:i?B)?", str(value), re.IGNORECASE)
    if isinstance(value, bool) or not found or float(found[1]) <= 0:
        raise ValueError("must be a size like 32G (G = 1024 M; a number alone is M)")
    size = float(found[1]) * _UNITS[found[2].upper()]
    return max(1, -int(-size // 1))


def _minutes(value: Any) -> int:
    """Minutes from sbatch's forms: m, m:s, h:m:s, d-h, d-h:m, d-h:m:s; seconds are rounded up."""
    text = str(value).strip()
    days, dash, rest = text.partition("-") if "-" in text else ("0", "", text)
    parts = rest.split(":")
    if isinstance(value, bool) or not days.isdecimal() or len(parts) > 3 or not all(part.isdecimal() for part in parts):
        raise ValueError('must be a time limit like "12:00:00", "2-00:00:00" or 90 (minutes)')
    numbers = [int(part) for part in parts]
    if dash:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:
        hours, (minutes, seconds) = 0, [*numbers, 0][:2]
    total = ((int(days) * 24 + hours) * 60 + minutes) * 60 + seconds
    if not 0 < total <= 366 * 86_400:
        raise ValueError("must be a time limit of more than 0 and at most 366 days")
    return -(-total // 60)


def _matching(pattern: re.Pattern[str], message: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if isinstance(value, bool) or not pattern.fullmatch(str(value)):
            raise ValueError(message)
        return str(value)

    return check


Text = Annotated[str, BeforeValidator(_text)]
Count = Annotated[int, BeforeValidator(_count)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Mebibytes = Annotated[int, BeforeValidator(_mebibytes)]
Minutes = Annotated[int, BeforeValidator(_minutes)]
Gpus = Annotated[str, BeforeValidator(_matching(_GPUS, "must be a number or type:number like a100:2"))]
Gres = Annotated[str, BeforeValidator(_matching(_GRES, "must be name[:type][:count], … like gpu:a100:2"))]
Signal = Annotated[str, BeforeValidator(_matching(_SIGNAL, "must be [B:]NAME[@seconds] like B:TERM@120"))]


class Resources(BaseModel):
    """A request; None = not said. `memory` and `tmp` in MiB a node, `time` in minutes, `cpus` a task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    partition: Text | None = None
    account: Text | None = None
    qos: Text | None = None
    reservation: Text | None = None
    constraint: Text | None = None
    nodes: Count | None = None
    cpus: Count | None = None
    memory: Mebibytes | None = None
    gpus: Gpus | None = None
    gres: Gres | None = None
    time: Minutes | None = None
    tmp: Mebibytes | None = None
    exclusive: Flag | None = None
    signal: Signal | None = None
    requeue: Flag | None = None


def parse_resources(values: Mapping[str, Any], where: str) -> Resources:
    """A request from a mapping, whose values may be text as well (run tags).

    Raises ResourceError: one line that begins with `where` and names every mistake.
    """
    try:
        return Resources(**values)
    except ValidationError as error:
        mistakes = "; ".join(_mistake(item) for item in error.errors())
        raise ResourceError(f"{where}{mistakes}") from None
    except TypeError:
        raise ResourceError(f"{where}the names of fields must be text") from None


def _mistake(item: Mapping[str, Any]) -> str:
    name = str(item["loc"][0])
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, Resources.model_fields, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the fields are {', '.join(Resources.model_fields)}"
        return f"{name} is no field; {hint}"
    reason = str(item["msg"]).removeprefix("Value error, ")
    return f"{name} {reason}, not {str(item['input'])[:80]!r}"


def override(*layers: Resources) -> Resources:
    """One request from several: what a later layer says wins, field by field."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged |= layer.model_dump(exclude_none=True)
    return Resources.model_construct(**merged)


def largest(requests: Sequence[tuple[str, Resources]]) -> Resources:
    """One request that meets all of several (owner, request): the largest of each field.

    `exclusive` holds if anybody needs it, `requeue` only if nobody objects. Raises ResourceError when names differ,
    which have no largest.
    """
    merged: dict[str, tuple[str, Any]] = {}
    for owner, request in requests:
        for name, value in request.model_dump(exclude_none=True).items():
            if name not in merged:
                merged[name] = owner, value
                continue
            first, known = merged[name]
            merged[name] = first, _larger(name, (first, known), (owner, value))
    return Resources.model_construct(**{name: value for name, (_, value) in merged.items()})


def _larger(name: str, one: tuple[str, Any], other: tuple[str, Any]) -> Any:
    if one[1] == other[1]:
        return one[1]
    if name in ("nodes", "cpus", "memory", "time", "tmp"):
        return max(one[1], other[1])
    if name == "exclusive":
        return one[1] or other[1]
    if name == "requeue":
        return one[1] and other[1]
    if name == "gpus":
        kind, count = _gpu_parts(one[1])
        other_kind, other_count = _gpu_parts(other[1])
        if kind == other_kind:
            return f"{kind}:{max(count, other_count)}" if kind else str(max(count, other_count))
    raise ResourceError(
        f"slurm/{name}: {one[0]} asks for {one[1]} and {other[0]} for {other[1]}, and they are in one run; set the run"
        f" tag slurm/{name}, or materialise them in runs of their own"
    )


def _gpu_parts(text: str) -> tuple[str, int]:
    kind, _, count = text.rpartition(":")
    return kind, int(count)


def clock(minutes: int) -> str:
    """A time limit as sbatch reads it: d-hh:mm:00."""
    hours, rest = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}-{hours:02}:{rest:02}:00"


def sbatch_options(request: Resources) -> tuple[str, ...]:
    """The options of sbatch that ask for it, in the order of the fields."""
    options = []
    for name, value in request.model_dump(exclude_none=True).items():
        if name in ("memory", "tmp"):
            options.append(f"--{'mem' if name == 'memory' else name}={value}M")
        elif name == "time":
            options.append(f"--time={clock(value)}")
        elif name == "cpus":
            options.append(f"--cpus-per-task={value}")
        elif name == "exclusive":
            options += ["--exclusive"] if value else []
        elif name == "requeue":
            options.append("--requeue" if value else "--no-requeue")
        else:
            options.append(f"--{name}={value}")
    return tuple(options)
