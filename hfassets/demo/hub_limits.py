"""The Hub's three request quotas: api, resolvers, pages, each a fixed window per token (or per nobody)."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

BUCKETS = ("api", "resolvers", "pages")


@dataclass(frozen=True, slots=True)
class Quota:
    """`requests` per `window` s."""

    requests: int
    window: float


DEFAULT_QUOTAS: Mapping[str, Quota] = {
    "api": Quota(1_000_000, 300.0),
    "resolvers": Quota(5_000_000, 300.0),
    "pages": Quota(100_000, 300.0),
}


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a caller stands after one more request; `reset` in s."""

    allowed: bool
    remaining: int
    reset: float
    quota: Quota


class Limits:
    """Counts requests against the quotas."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._quotas = dict(DEFAULT_QUOTAS)
        self._windows: dict[tuple[str, str], tuple[float, int]] = {}

    def set(self, quotas: Mapping[str, Quota]) -> None:
        """Change some quotas (the others go back to the default) and begin new windows."""
        with self._lock:
            self._quotas = {**DEFAULT_QUOTAS, **quotas}
            self._windows = {}

    def take(self, bucket: str, caller: str) -> Standing:
        """Count one request of a caller."""
        now = time.monotonic()
        with self._lock:
            quota = self._quotas[bucket]
            began, used = self._windows.get((bucket, caller), (now, 0))
            if now - began >= quota.window:
                began, used = now, 0
            allowed = used < quota.requests
            used += allowed
            self._windows[bucket, caller] = (began, used)
            return Standing(allowed, quota.requests - used, began + quota.window - now, quota)
