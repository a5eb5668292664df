"""Retries, waits, limits and timeouts below every request to the Hub, its own library's included.

Invariant: a request that may be repeated is repeated after each passing failure, never earlier than the server asked,
and within `max_retries`; each wait is announced. The Authorization header goes to the endpoint's own origin only.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from tenacity import RetryCallState, Retrying

from hfassets.errors import HubError
from hfassets.hub import ratelimit
from hfassets.hub.budget import RequestBudget
from hfassets.hub.options import HubOptions
from hfassets.hub.refusals import no_answer
from hfassets.progress import Note, ProgressCallback
from hfassets.report.units import format_seconds

MAX_BACKOFF_S = 120.0
MAX_TOLD_WAIT_S = 3600.0
"""A server that asks for more than this is not waited for: the request fails and says so."""

_RATIONED_FACTOR = 10
_READING_POSTS = ("/paths-info/",)


@dataclass(frozen=True, slots=True)
class Wait:
    """One wait of one request: `started` on the monotonic clock, `seconds`, and why."""

    started: float
    seconds: float
    reason: str


class Patience:
    """Where all threads of a client wait, so that each wait is announced, added up and can be cut short."""

    def __init__(self, options: HubOptions, progress: ProgressCallback) -> None:
        self.options = options
        self.waits: list[Wait] = []
        self._progress = progress
        self.passed = 0
        """Requests that got through: what tells rationing from refusal."""
        self.refused_in_a_row: Counter[str] = Counter()
        """Answers of 429 since the last request that got through, by bucket."""
        self._stop = threading.Event()
        self._announced: dict[str, float] = {}

    def pause(self, seconds: float, reason: str) -> None:
        """Wait; raises HubError when the client is closed meanwhile. Waits of threads for the same moment: one note."""
        wait = Wait(time.monotonic(), seconds, reason)
        self.waits.append(wait)
        until = wait.started + seconds
        if until > self._announced.get(reason, 0.0) + 0.5:
            self._announced[reason] = until
            self._progress(Note(f"waiting {format_seconds(seconds)}: {reason}"))
        if self._stop.wait(seconds):
            raise HubError("stopped while waiting for the Hub")

    def stop(self) -> None:
        """End all waits."""
        self._stop.set()

    def backoff(self, failures: int) -> float:
        """Seconds before retry number `failures` (from 1): factor * 2^(n-1), ±25 % so that many do not come at once."""
        base = min(self.options.backoff_factor * 2.0 ** (failures - 1), MAX_BACKOFF_S)
        return base * random.uniform(0.75, 1.25)  # noqa: S311

    @property
    def waited(self) -> float:
        """Seconds in which at least one request waited."""
        total, end = 0.0, 0.0
        for wait in sorted(self.waits, key=lambda wait: wait.started):
            until = wait.started + wait.seconds
            total += max(0.0, until - max(end, wait.started))
            end = max(end, until)
        return total


class HubAdapter(HTTPAdapter):
    """requests' transport, patient."""

    def __init__(self, patience: Patience, budget: RequestBudget) -> None:
        super().__init__(pool_connections=16, pool_maxsize=64, max_retries=0)
        self._patience = patience
        self._budget = budget

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send with retries; what is left after the last one (a response or requests' exception) is handed on."""
        options = self._patience.options
        if options.offline:
            raise HubError(f"HF_HUB_OFFLINE is set: {options.endpoint} may not be asked; unset it to allow requests")
        limits = (options.connect_timeout, options.read_timeout)
        attempts = _Attempts(self._patience, self._budget, request, limits)

        def once() -> requests.Response:
            attempts.take_from_budget()
            response = super(HubAdapter, self).send(request, stream, timeout or limits, verify, cert, proxies)
            attempts.learn(response)
            if not stream or response.status_code >= 400:
                _ = response.content  # a body that is cut is a failure of this attempt
            return response

        retrying = Retrying(
            retry=attempts.is_passing,
            stop=attempts.is_over,
            wait=attempts.delay,
            sleep=attempts.pause,
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        response: requests.Response = retrying(once)
        return response


class _Attempts:
    """What one request has met so far, in the form that tenacity asks."""

    def __init__(
        self, patience: Patience, budget: RequestBudget, request: requests.PreparedRequest, limits: tuple[float, float]
    ) -> None:
        self._patience = patience
        self._budget = budget
        self._url = request.url or ""
        self._limits = limits
        self._bucket = ratelimit.bucket_of(self._url) if same_origin(self._url, patience.options.endpoint) else ""
        reads = request.method == "POST" and any(part in self._url for part in _READING_POSTS)
        self._repeatable = request.method in ("GET", "HEAD", "OPTIONS") or reads
        self._failures = 0
        self._rationed = 0
        self._passed = patience.passed
        self._reason = ""

    def take_from_budget(self) -> None:
        """Wait until the shared budget lets this request start."""
        while self._bucket:
            wait = self._budget.acquire(self._bucket)
            if wait <= 0:
                return
            reason = f"the Hub's request budget is used up ({self._bucket} bucket)"
            self._patience.pause(wait + _spread(wait), reason)

    def learn(self, response: requests.Response) -> None:
        """Take in an answer: what it says of the limits, and whether requests get through."""
        if self._bucket:
            self._budget.learn(response.headers)
        if response.status_code == 429:
            self._patience.refused_in_a_row[self._bucket] += 1
        elif response.status_code < 400:
            self._patience.refused_in_a_row[self._bucket] = 0
            self._patience.passed += 1

    def is_passing(self, state: RetryCallState) -> bool:
        """Whether the outcome is a failure that may be gone the next time."""
        outcome = state.outcome
        if outcome is None or not self._repeatable:
            return False
        error = outcome.exception()
        if error is not None:
            return _is_passing_error(error)
        status = outcome.result().status_code
        return status in (408, 429) or status >= 500

    def is_over(self, state: RetryCallState) -> bool:
        """Whether the allowance is used up.

        A 429 while other requests get through is rationing, not refusal: the request's turn comes. It has an allowance
        of its own, so that many workers can share a small quota.
        """
        response = self._response(state)
        told = _told(response)[0] if response is not None else None
        if told is not None and told > MAX_TOLD_WAIT_S:
            return True
        retries = self._patience.options.max_retries
        passed_before, self._passed = self._passed, self._patience.passed
        if response is not None and response.status_code == 429 and self._passed > passed_before:
            self._rationed += 1
            return self._rationed > retries * _RATIONED_FACTOR
        self._failures += 1
        return self._failures > retries

    def delay(self, state: RetryCallState) -> float:
        """Seconds until the next attempt: what the server asked, else the backoff."""
        response = self._response(state)
        if response is None:
            error = state.outcome.exception() if state.outcome else None
            self._reason = no_answer(error if isinstance(error, Exception) else OSError(), self._url, self._limits)
            return self._patience.backoff(self._failures + 1)
        told, header = _told(response)
        status = response.status_code
        if told is None:
            self._reason = f"{status} from the Hub ({self._bucket or 'file'} bucket)"
            return self._patience.backoff(max(self._failures, self._rationed) + 1)
        self._reason = f"{status} from the Hub ({self._bucket or 'file'} bucket, {header})"
        # One refusal may be about one request; two in a row say that the bucket is empty, for everybody.
        if self._bucket and self._patience.refused_in_a_row[self._bucket] >= 2:
            self._budget.block(self._bucket, told)
        return told + _spread(told)

    def pause(self, seconds: float) -> None:
        """Wait for the next attempt."""
        self._patience.pause(seconds, self._reason)

    @staticmethod
    def _response(state: RetryCallState) -> requests.Response | None:
        if state.outcome is None or state.outcome.failed:
            return None
        response: requests.Response = state.outcome.result()
        response.close()
        return response


class BearerAuth(AuthBase):
    """Sends the token to the endpoint's origin and to no other; also keeps `.netrc` from speaking in its place."""

    def __init__(self, endpoint: str, token: str | None) -> None:
        self._endpoint = endpoint
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Set the header where it belongs."""
        if self._token and same_origin(request.url or "", self._endpoint):
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class HubSession(requests.Session):
    """A session whose requests are patient. Proxies and CA bundle come from the environment, as requests reads it."""

    def __init__(self, patience: Patience, budget: RequestBudget) -> None:
        super().__init__()
        options = patience.options
        self.auth = BearerAuth(options.endpoint, options.token)
        self.mount("http://", HubAdapter(patience, budget))
        self.mount("https://", HubAdapter(patience, budget))
        self._settings: dict[tuple[str, str], dict[str, Any]] = {}

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """Proxies and CA bundle for a URL. requests reads the whole environment for each request: here once a host."""
        if proxies or verify is not None or cert is not None:
            return super().merge_environment_settings(url, proxies, stream, verify, cert)
        parts = urlsplit(url)
        host = (parts.scheme, parts.netloc)
        if host not in self._settings:
            self._settings[host] = dict(super().merge_environment_settings(url, proxies, stream, verify, cert))
        return {**self._settings[host], "stream": bool(stream), "proxies": dict(self._settings[host]["proxies"])}

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """On a redirect to another origin, drop the header; `.netrc` is not asked."""
        before = response.request.url or ""
        if "Authorization" in prepared_request.headers and not same_origin(prepared_request.url or "", before):
            del prepared_request.headers["Authorization"]


def same_origin(url: str, other: str) -> bool:
    """Whether two URLs have scheme, host and port in common."""
    first, second = urlsplit(url), urlsplit(other)
    ports = {"http": 80, "https": 443}
    return (first.scheme, first.hostname, first.port or ports.get(first.scheme)) == (
        second.scheme, second.hostname, second.port or ports.get(second.scheme)
    )  # fmt: skip


def _told(response: requests.Response | None) -> tuple[float | None, str]:
    """Seconds that the server asks to wait, and in which header; the longer of the two when both do."""
    if response is None:
        return None, ""
    told: list[tuple[float, str]] = []
    with suppress(OverflowError):
        asked = ratelimit.retry_after(response.headers, time.time())
        if asked is not None:
            told.append((asked, "Retry-After"))
    told += [(item.reset_s, "RateLimit") for item in ratelimit.remaining(response.headers) if item.requests == 0]
    return max(told, default=(None, ""), key=lambda item: item[0] or 0.0)


def _spread(seconds: float) -> float:
    """A little more, never less, than a server asked, so that many workers do not come back at the same moment."""
    return random.uniform(0.02, 0.1) * min(seconds, 20.0)  # noqa: S311


def _is_passing_error(error: BaseException) -> bool:
    if isinstance(error, requests.exceptions.SSLError):
        return "CERTIFICATE_VERIFY_FAILED" not in str(error)
    return isinstance(
        error,
        requests.exceptions.ConnectionError | requests.exceptions.Timeout | requests.exceptions.ChunkedEncodingError,
    )
