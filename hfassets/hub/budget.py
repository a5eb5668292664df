"""One budget of Hub requests for all processes and threads of a host that use one endpoint with one token.

Invariant: no request starts in a bucket that the Hub has said to be empty before the time it has said. The state is a
small JSON file under `flock` in a private folder; it holds counts and times, never a token. Losing it (or finding it
damaged, or written by a clock that was wrong) means learning anew from the next answer.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from hfassets.hub import ratelimit
from hfassets.hub.ratelimit import Quota

# The Hub's windows last 300 s; a reset further away than this comes from a clock that was wrong.
MAX_RESET_S = 3600.0
# The Hub tells whole seconds, so the end of one window is told within this.
_SAME_WINDOW_S = 2.0
_UNDER_WAY = 128
_MAX_FILE = 1 << 16

DEFAULT_QUOTAS = {False: Quota(500, 300.0), True: Quota(1000, 300.0)}
"""Requests per window without and with a token, until the Hub says better (its documentation on rate limits)."""

_State = dict[str, Any]


class RequestBudget:
    """The shared budget of (endpoint, token). `share`: the quota is divided by it (several hosts use one token)."""

    def __init__(self, folder: Path, endpoint: str, token: str | None, share: int = 1) -> None:
        identity = hashlib.sha256((token or "").encode()).hexdigest()
        name = hashlib.sha256(f"{endpoint}\0{identity}".encode()).hexdigest()[:16]
        self.file = folder / f"hub-budget-{name}.json"
        self.share = share
        self._authenticated = token is not None

    def acquire(self, bucket: str) -> float:
        """Take one request; 0 when it may start now, else the seconds to wait before asking again."""
        now = time.time()
        with self._locked() as state:
            entry = state.setdefault(bucket, {})
            wait = _blocked_for(entry, now)
            if wait > 0:
                return wait
            if not now < entry.get("reset_at", 0.0) <= now + MAX_RESET_S:
                _begin_window(entry, now)
            if entry.get("remaining", 1) <= 0 or self._share_is_used(entry):
                return max(0.001, float(entry["reset_at"]) - now)
            if "remaining" in entry:
                entry["remaining"] -= 1
            entry["used"] = entry.get("used", 0) + 1
            return 0.0

    def learn(self, headers: Mapping[str, str]) -> None:
        """Take in `RateLimit` and `RateLimit-Policy` of an answer."""
        told, policies = ratelimit.remaining(headers), ratelimit.quotas(headers)
        if not told and not policies:
            return
        now = time.time()
        with self._locked() as state:
            for name, quota in policies.items():
                state.setdefault(name, {})["quota"] = [quota.requests, quota.window_s]
            for item in told:
                if item.reset_s > MAX_RESET_S:
                    continue
                entry = state.setdefault(item.bucket, {})
                reset_at = now + item.reset_s
                same = abs(reset_at - entry.get("reset_at", 0.0)) <= _SAME_WINDOW_S
                ours = entry.get("remaining", item.requests) if same else item.requests
                # Ours is lower by the requests under way, which the Hub has not seen yet; by more, it has drifted.
                entry["remaining"] = min(item.requests, ours) if item.requests - ours <= _UNDER_WAY else item.requests
                entry["reset_at"] = max(reset_at, entry["reset_at"]) if same else reset_at
                if not same:
                    entry["used"] = 0

    def block(self, bucket: str, seconds: float) -> None:
        """No request of this bucket before `seconds` have passed (a 429 that says when to come back)."""
        with self._locked() as state:
            entry = state.setdefault(bucket, {})
            entry["blocked_until"] = max(entry.get("blocked_until", 0.0), time.time() + min(seconds, MAX_RESET_S))

    def quota(self, bucket: str) -> Quota:
        """The limit as last told by the Hub, else the documented one; divided by `share`."""
        with self._locked() as state:
            known = state.get(bucket, {}).get("quota")
        quota = Quota(int(known[0]), float(known[1]), learned=True) if known else DEFAULT_QUOTAS[self._authenticated]
        return Quota(max(1, quota.requests // self.share), quota.window_s, quota.learned)

    def _share_is_used(self, entry: _State) -> bool:
        if self.share == 1 or "quota" not in entry:
            return False
        return bool(entry.get("used", 0) >= max(1, entry["quota"][0] // self.share))

    @contextmanager
    def _locked(self) -> Iterator[_State]:
        descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            before = os.read(descriptor, _MAX_FILE)
            state = _load(before)
            yield state
            after = orjson.dumps(state)
            if after != before:
                os.pwrite(descriptor, after, 0)
                os.ftruncate(descriptor, len(after))
        finally:
            os.close(descriptor)


def _load(data: bytes) -> _State:
    """The state, without whatever in it is not as `acquire` and `learn` write it."""
    try:
        document = orjson.loads(data or b"{}")
    except ValueError:
        return {}
    if not isinstance(document, dict):
        return {}
    return {bucket: entry for bucket, entry in document.items() if _is_sound(entry)}


def _is_sound(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    quota = entry.get("quota", [1, 1.0])
    numbers = [entry.get(key, 0) for key in ("remaining", "used", "reset_at", "blocked_until")]
    if not isinstance(quota, list) or len(quota) != 2 or ("remaining" in entry and "reset_at" not in entry):
        return False
    return all(type(number) in (int, float) for number in [*quota, *numbers]) and quota[0] >= 1 and quota[1] > 0


def _blocked_for(entry: _State, now: float) -> float:
    wait = float(entry.get("blocked_until", 0.0)) - now
    if 0 < wait <= MAX_RESET_S:
        return wait
    entry.pop("blocked_until", None)
    return 0.0


def _begin_window(entry: _State, now: float) -> None:
    """The told window is over: nothing is known until the next answer, except the quota."""
    entry.pop("remaining", None)
    entry["used"] = 0
    entry["reset_at"] = now + (entry["quota"][1] if "quota" in entry else 0.0)
