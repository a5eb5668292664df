"""What a server says about its limits, read from response headers. Pure.

Sources: RFC 9110, 10.2.3 (`Retry-After`: seconds or an HTTP date); draft-ietf-httpapi-ratelimit-headers, as the Hub
sends it: `RateLimit: "api";r=0;t=55` and `RateLimit-Policy: "fixed window";"api";q=500;w=300`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

_RESOLVE = re.compile(r"^/(?:(?:datasets|spaces)/)?[^/]+(?:/[^/]+)?/resolve/")
_STRINGS = re.compile(r'"([^"]*)"')
_PARAMETERS = re.compile(r";\s*([a-z]+)\s*=\s*(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Remaining:
    """`requests` are left in `bucket`; the window ends in `reset_s` seconds."""

    bucket: str
    requests: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class Quota:
    """`requests` per `window_s` seconds; `learned`: the Hub told so, else its documentation does."""

    requests: int
    window_s: float
    learned: bool = False


def bucket_of(url: str) -> str:
    """Which of the Hub's budgets a request counts against: `resolvers` (files of a repo), `api` or `pages`."""
    path = urlsplit(url).path
    if _RESOLVE.match(path):
        return "resolvers"
    return "api" if path.startswith("/api/") else "pages"


def remaining(headers: Mapping[str, str]) -> list[Remaining]:
    """What `RateLimit` says, one item a bucket; what cannot be read is left out."""
    return [
        Remaining(name, int(values["r"]), values["t"])
        for name, values in _items(headers.get("RateLimit", ""))
        if "r" in values and "t" in values
    ]


def quotas(headers: Mapping[str, str]) -> dict[str, Quota]:
    """What `RateLimit-Policy` says, by bucket."""
    return {
        name: Quota(int(values["q"]), values["w"], learned=True)
        for name, values in _items(headers.get("RateLimit-Policy", ""))
        if values.get("q", 0) >= 1 and values.get("w", 0) > 0
    }


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds from `now` (Unix time) that `Retry-After` asks to wait; None when it is absent or unreadable."""
    value = headers.get("Retry-After", "").strip()
    if not value:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)


def _items(value: str) -> Iterator[tuple[str, dict[str, float]]]:
    for item in value.split(","):
        names = _STRINGS.findall(item)
        if names:  # the policy names its kind first, its bucket last
            yield names[-1], {key: float(number) for key, number in _PARAMETERS.findall(item)}
