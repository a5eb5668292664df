"""What response headers say about limits."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfassets.hub.ratelimit import Quota, Remaining, bucket_of, quotas, remaining, retry_after

pytestmark = pytest.mark.unit


def test_reads_the_headers_as_the_hub_documents_them() -> None:
    """The documented pair gives what is left, when the window ends, and the quota."""
    headers = {"RateLimit": '"api";r=0;t=55', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    assert remaining(headers) == [Remaining("api", 0, 55.0)]
    assert quotas(headers) == {"api": Quota(500, 300.0, learned=True)}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"api"; r=3; t=1.5', [Remaining("api", 3, 1.5)]),
        ('"api";t=55;r=7', [Remaining("api", 7, 55.0)]),
        ('"api";r=1;t=2, "resolvers";r=3;t=4', [Remaining("api", 1, 2.0), Remaining("resolvers", 3, 4.0)]),
        ('"api";r=1', []),
        ("r=1;t=2", []),
        ("", []),
        ("limit=10, remaining=3, reset=5", []),
    ],
)
def test_reads_what_can_be_read_of_other_spellings(value: str, expected: list[Remaining]) -> None:
    """Order, spaces and several buckets are accepted; what says nothing is left out."""
    assert remaining({"RateLimit": value}) == expected


@given(st.text(max_size=60))
def test_survives_any_header(text: str) -> None:
    """No header value raises."""
    headers = {"RateLimit": text, "RateLimit-Policy": text, "Retry-After": text}
    assert isinstance(remaining(headers), list)
    assert all(quota.requests >= 1 for quota in quotas(headers).values())
    assert (retry_after(headers, time.time()) or 0.0) >= 0


def test_reads_both_forms_of_retry_after() -> None:
    """Seconds and an HTTP date; a date gone by means at once; rubbish means nothing was said."""
    now = 1_800_000_000.0
    assert retry_after({"Retry-After": "12"}, now) == 12
    assert retry_after({"Retry-After": formatdate(now + 30, usegmt=True)}, now) == 30
    assert retry_after({"Retry-After": formatdate(now - 30, usegmt=True)}, now) == 0
    assert retry_after({"Retry-After": "soon"}, now) is None
    assert retry_after({}, now) is None


@pytest.mark.parametrize(
    ("path", "bucket"),
    [
        ("/datasets/o/n/resolve/main/a.txt", "resolvers"),
        ("/o/n/resolve/main/a.txt", "resolvers"),
        ("/gpt2/resolve/main/a.txt", "resolvers"),
        ("/api/datasets/o/n/tree/main", "api"),
        ("/api/datasets/o/n/resolve/main", "api"),
        ("/cdn/datasets/o/n/resolve/main/a.txt", "pages"),
        ("/datasets/o/n", "pages"),
    ],
)
def test_names_the_bucket_of_a_request(path: str, bucket: str) -> None:
    """Files count as resolvers, the API as api, all else as pages."""
    assert bucket_of(f"https://huggingface.co{path}?download=true") == bucket
