"""Faults on demand: frozen rules, each counting the requests it matches; those that are due act together.

Invariant: which requests a rule hits follows from their order of arrival alone, so one client gives one outcome.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from email.utils import formatdate
from fnmatch import fnmatchcase
from time import time
from typing import Any, Literal

from hfassets.demo.hub_log import LoggedRequest

Kind = Literal["status", "cut", "hang", "flip", "slow", "delay", "drop", "ignore-range"]
WaitHeader = Literal["retry-after", "retry-after-date", "ratelimit", "none"]

# These act on the bytes of a file: only answers that carry one are counted for them.
BODY_KINDS = frozenset({"cut", "flip", "slow", "ignore-range"})
KINDS = BODY_KINDS | {"status", "hang", "delay", "drop"}


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule. It hits every `every`-th matching request after the first `skip`, at most `times` times.

    - `status`: answers with `status`, telling the wait of `wait` s by `header` (429 and 503).
    - `cut`: closes the connection after `after` bytes of the body (`reset` by a TCP reset).
    - `hang`: stops answering, before the headers, or with `after` ≥ 0 after so many bytes of the body, until the client
      goes away or the faults are changed.
    - `flip`: flips one bit of the byte at `offset` of the file (negative = from its end).
    - `slow`: sends the body at `rate` bytes/s. `delay`: answers after `wait` s.
    - `drop`: closes the connection without any answer. `ignore-range`: answers 200 with the whole file.

    `path` is a glob on the URL path or on `<repo id>/<path in repo>`; `*` crosses slashes.
    """

    kind: Kind
    every: int = 1
    skip: int = 0
    times: int | None = None
    method: str = "*"
    path: str = "*"
    bucket: str = "*"
    status: int = 429
    header: WaitHeader = "retry-after"
    wait: float = 0.0
    after: int = -1
    reset: bool = False
    offset: int = 0
    rate: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"fault kind {self.kind!r}; one of {', '.join(sorted(KINDS))}")
        if self.every < 1:
            raise ValueError(f"fault every={self.every}; at least 1")
        if self.kind == "slow" and self.rate <= 0:
            raise ValueError(f"fault rate={self.rate}; bytes per second, more than 0")

    def applies(self, request: LoggedRequest) -> bool:
        """Whether a request is one of those that this rule counts."""
        return (
            fnmatchcase(request.method, self.method.upper())
            and fnmatchcase(request.bucket, self.bucket)
            and request.matches(self.path)
        )


def wait_headers(fault: Fault, request: LoggedRequest) -> dict[str, str]:
    """How a 429 or 503 tells the wait, in the form the rule asks for."""
    if fault.header == "retry-after":
        return {"Retry-After": f"{fault.wait:.0f}"}
    if fault.header == "retry-after-date":
        return {"Retry-After": formatdate(time() + fault.wait, usegmt=True)}
    if fault.header == "ratelimit":
        return rate_headers(request.bucket, 0, fault.wait, 500, 300)
    return {}


def rate_headers(bucket: str, remaining: int, reset: float, quota: int, window: float) -> dict[str, str]:
    """`RateLimit` and `RateLimit-Policy` as the Hub writes them (IETF draft httpapi-ratelimit-headers)."""
    return {
        "RateLimit": f'"{bucket}";r={remaining};t={max(0, round(reset))}',
        "RateLimit-Policy": f'"fixed window";"{bucket}";q={quota};w={round(window)}',
    }


class FaultBoard:
    """The rules in force and how often each has matched and hit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._seen: list[int] = []
        self._hits: list[int] = []
        self.generation = 0

    def set(self, faults: Iterable[Fault]) -> None:
        """Replace all rules; counting starts anew and what hangs is let go."""
        with self._lock:
            self._faults = list(faults)
            self._seen = [0] * len(self._faults)
            self._hits = [0] * len(self._faults)
            self.generation += 1

    def pick(self, request: LoggedRequest, *, body: bool) -> list[Fault]:
        """The rules that hit this request; `body` asks for those that act on a file's bytes, else for the others.

        Called once with each value for an answer that carries a file, and once without for any other.
        """
        picked = []
        with self._lock:
            for index, fault in enumerate(self._faults):
                on_body = fault.kind in BODY_KINDS or (fault.kind == "hang" and fault.after >= 0)
                if on_body != body or not fault.applies(request):
                    continue
                self._seen[index] += 1
                due = self._seen[index] - fault.skip
                if due > 0 and due % fault.every == 0 and (fault.times is None or self._hits[index] < fault.times):
                    self._hits[index] += 1
                    picked.append(fault)
        return picked

    def hits(self) -> list[int]:
        """How often each rule has hit, in the order set."""
        with self._lock:
            return list(self._hits)

    def as_json(self) -> list[dict[str, Any]]:
        """The rules with their counts, for GET /_faults."""
        with self._lock:
            return [{**asdict(fault), "hits": hits} for fault, hits in zip(self._faults, self._hits, strict=True)]


def fault_from_json(document: Mapping[str, Any]) -> Fault:
    """A rule as PUT /_faults takes it; raises ValueError for unknown keys or kinds."""
    unknown = set(document) - {field.name for field in fields(Fault)}
    if unknown:
        raise ValueError(f"fault key {sorted(unknown)[0]!r} is not known")
    return Fault(**document)
