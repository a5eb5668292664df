"""`s3://` for `datasets` and everything else that goes through fsspec, read by pyarrow.

The usual s3fs rests on aiobotocore, which takes older versions of botocore than boto3 does: the two do not fit into one
environment. pyarrow is there anyway, and finds its credentials where boto3 finds them.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

import fsspec  # type: ignore[import-untyped]
from fsspec.implementations.arrow import ArrowFSWrapper  # type: ignore[import-untyped]


class S3FileSystem(ArrowFSWrapper):  # type: ignore[misc]
    """An fsspec filesystem for s3://; `endpoint_url` and `region` as boto3 has them."""

    protocol = "s3"

    def __init__(self, endpoint_url: str | None = None, region: str | None = None, **options: Any) -> None:
        from pyarrow import fs

        address = endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        settings: dict[str, Any] = {}
        if address:
            parts = urlsplit(address)
            settings = {"endpoint_override": parts.netloc, "scheme": parts.scheme}
        if region:
            settings["region"] = region
        super().__init__(fs.S3FileSystem(**settings), **options)


def register() -> None:
    """From now on, in this process, s3:// addresses are read by this filesystem."""
    fsspec.register_implementation("s3", S3FileSystem, clobber=True)
