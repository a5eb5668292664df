"""Contents that a source names only by their ids: The Stack v2 from the archive of Software Heritage.

Invariant: a content is handed out only if its git hash is the id that was asked for. Rows keep their order, and not
more requests are under way than were allowed.

Source: bigcode/the-stack-v2, README («Downloading the file contents»): s3://softwareheritage/content/<blob_id>, gzip,
in the encoding that `src_encoding` names; read without an account.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from hfassets.distillation.mapping import RowRefusedError, malformed
from hfassets.distillation.request import Contents
from hfassets.errors import HubError, IntegrityError

MISSING = "content_missing"
UNDECODABLE = "undecodable"
_BLOB = re.compile(r"[0-9a-f]{40}")
_ATTEMPTS = 2


class ContentStore:
    """Fetches contents; use as a context manager."""

    def __init__(self, contents: Contents, max_retries: int) -> None:
        self._contents = contents
        self._retries = max_retries

    def __enter__(self) -> Self:
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config

        self._client: Any = boto3.client(
            "s3",
            endpoint_url=self._contents.endpoint_url,
            region_name=self._contents.region,
            config=Config(
                signature_version=UNSIGNED,
                max_pool_connections=self._contents.workers,
                retries={"mode": "standard", "total_max_attempts": self._retries + 1},
                s3={"addressing_style": "path"} if self._contents.endpoint_url else {},
                user_agent_extra="hfassets",
            ),
        )
        self._pool = ThreadPoolExecutor(self._contents.workers, thread_name_prefix="contents")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._client.close()

    def fill(self, rows: Sequence[Any]) -> list[Any]:
        """The rows with a column `content`, or in its place the RowRefusedError that says why there is none.

        What is no object stays as it is. Raises HubError when the archive does not answer.
        """
        return list(self._pool.map(self._filled, rows))

    def _filled(self, row: Any) -> Any:
        if not isinstance(row, dict):
            return row
        try:
            return {**row, "content": self._content(row)}
        except RowRefusedError as refused:
            return refused

    def _content(self, row: dict[str, Any]) -> str:
        blob = row.get("blob_id")
        if not isinstance(blob, str) or not _BLOB.fullmatch(blob):
            raise malformed("blob_id is no git hash")
        data = self._proven(blob)
        encoding = row.get("src_encoding") or "UTF-8"
        try:
            return data.decode(str(encoding))
        except (UnicodeDecodeError, LookupError) as error:
            raise RowRefusedError(UNDECODABLE, f"{blob}: {error}") from None

    def _proven(self, blob: str) -> bytes:
        reason = ""
        for _ in range(_ATTEMPTS):
            try:
                data = gzip.decompress(self._get(blob))
            except (OSError, EOFError, zlib.error) as error:
                reason = str(error)
                continue
            if hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == blob:
                return data
            reason = "its hash is another"
        raise IntegrityError(f"{self._address(blob)}: damaged: {reason}; run again, or ask whoever serves it")

    def _get(self, blob: str) -> bytes:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = self._client.get_object(Bucket=self._contents.bucket, Key=f"{self._contents.prefix}{blob}")
            body: bytes = answer["Body"].read()
            return body
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in ("NoSuchKey", "404"):
                raise RowRefusedError(MISSING, f"{blob} is not in the archive") from None
            raise HubError(f"{self._address(blob)}: {error}") from None
        except (BotoCoreError, OSError) as error:
            raise HubError(f"{self._address(blob)}: {error} (after {self._retries} retries)") from None

    def _address(self, blob: str) -> str:
        return f"s3://{self._contents.bucket}/{self._contents.prefix}{blob}"
