"""Objects below one prefix of an S3 bucket: put, proven, read back, removed.

Invariant: `put` returns only when the server holds exactly the bytes of the file, by the SHA-256 that it took of what
it received; it replaces an object only when told that this one may be replaced. Nothing here needs rights on anything
but the objects below the prefix: no bucket is listed, no account asked.

Checksums: Amazon S3 User Guide, "Checking object integrity". An object of one part has the SHA-256 of its bytes, one of
several the SHA-256 of its parts' digests; the number of parts that may stand behind it is left away here.
"""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hfassets.errors import HfassetsError, IntegrityError, UsageError

PART_SIZE = 8 * 1024 * 1024
PARTS_AT_ONCE = 2
MAX_PARTS = 10_000
READ_SIZE = 1 << 20
ATTEMPTS = 5
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_SHA256 = {"ChecksumAlgorithm": "SHA256"}
_NOT_THERE = ("404", "NoSuchKey", "NotFound")
_EXISTS = ("PreconditionFailed", "412", "ConditionalRequestConflict")


class S3Error(HfassetsError):
    """S3 refused or failed a request after all retries."""


class ObjectExistsError(S3Error):
    """There is an object of that name, and it is not the one that was to be put there."""


@dataclass(frozen=True, slots=True)
class S3Settings:
    """Which S3, and as whom, beyond what boto3 finds in the environment: address, region, profile of ~/.aws."""

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None


@dataclass(frozen=True, slots=True)
class S3Prefix:
    """A bucket and a prefix in it ("" = its top)."""

    bucket: str
    prefix: str
    settings: S3Settings = field(default_factory=S3Settings, compare=False)

    @classmethod
    def parse(cls, text: str, settings: S3Settings) -> S3Prefix:
        """`s3://bucket/prefix`; slashes at its end and doubled ones mean nothing. Raises UsageError."""
        scheme, _, rest = text.partition("://")
        if scheme != "s3":
            raise UsageError(f"{text!r} is no destination; it is a folder, or s3://bucket/prefix")
        bucket, _, prefix = rest.partition("/")
        if not bucket:
            raise UsageError(f"{text!r} names no bucket; it looks like s3://bucket/prefix")
        if not _BUCKET.fullmatch(bucket):
            raise UsageError(f"{bucket!r} cannot be a bucket: 3 to 63 lower-case letters, digits, dots and hyphens")
        steps = [step for step in prefix.split("/") if step]
        if any(step in (".", "..") or not step.isprintable() for step in steps):
            raise UsageError(f"{text!r} has a step in its prefix that many tools cannot read back; use plain names")
        return cls(bucket, "/".join(steps), settings)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def key(self, name: str) -> str:
        """The key of an object: `<prefix>/<name>`, or the name alone at the top of a bucket."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def uri(self, name: str) -> str:
        """`s3://bucket/prefix/name`."""
        return f"s3://{self.bucket}/{self.key(name)}"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What the server says of an object: bytes, and its checksum (see `checksum`) if it keeps one."""

    size: int
    checksum: str | None


class Put(NamedTuple):
    """What a put came to: the object's checksum (see `checksum`), and whether anything had to be sent."""

    checksum: str
    sent: bool


class S3Store:
    """The objects of a prefix; safe to use by threads."""

    def __init__(self, place: S3Prefix) -> None:
        self.place = place
        self._lock = threading.Lock()
        self._made: Any = None

    def put(self, name: str, path: Path, *, replace: bool = False) -> Put:
        """Upload a file as an object, in parts if it is large, unless the equal object is there already.

        Raises ObjectExistsError for another object of that name unless it is to be `replace`d, S3Error for what S3
        refuses, IntegrityError when it holds other bytes afterwards.
        """
        size = path.stat().st_size
        part = part_size(size)
        expected = checksum(path, part)
        condition = {} if replace else {"IfNoneMatch": "*"}
        try:
            with self._asking(name):
                if size <= part:
                    self._put_whole(name, path.read_bytes(), expected, condition)
                else:
                    self._put_parts(name, path, size, part, condition)
        except ObjectExistsError:
            if self._holds(name, path, size, expected):
                return Put(expected, sent=False)
            raise
        except S3Error as error:
            if replace or _code(error) != "NotImplemented":
                raise
            # A server without conditional writes: looking first is the best that can be done there.
            if self.find(name) is not None:
                if self._holds(name, path, size, expected):
                    return Put(expected, sent=False)
                raise ObjectExistsError(_taken(self.place, name)) from None
            return self.put(name, path, replace=True)
        if not self._holds(name, path, size, expected):
            raise IntegrityError(f"{self.place.uri(name)}: S3 does not hold the bytes that were sent; run again")
        return Put(expected, sent=True)

    def has(self, name: str, path: Path) -> bool:
        """Whether an object is this file, by its size and the server's checksum, or by its bytes without one."""
        size = path.stat().st_size
        return self._holds(name, path, size, checksum(path, part_size(size)))

    def _holds(self, name: str, path: Path, size: int, expected: str) -> bool:
        """Whether the object is the file; a server that has kept no checksum of it is asked for the bytes."""
        found = self.find(name)
        if found is None or found.size != size:
            return False
        return found.checksum == expected if found.checksum else self.sha256(name) == _sha256(path)

    def _put_whole(self, name: str, data: bytes, expected: str, condition: Mapping[str, str]) -> None:
        self._client.put_object(
            Bucket=self.place.bucket,
            Key=self.place.key(name),
            Body=data,
            **_SHA256,
            ChecksumSHA256=expected,
            **condition,
        )

    def _put_parts(self, name: str, path: Path, size: int, part: int, condition: Mapping[str, str]) -> None:
        """A multipart upload; the server takes the SHA-256 of each part as it arrives. Aborted when anything fails."""
        where = {"Bucket": self.place.bucket, "Key": self.place.key(name)}
        upload = self._client.create_multipart_upload(**where, **_SHA256)["UploadId"]

        def send(number: int) -> dict[str, Any]:
            with path.open("rb") as file:
                file.seek((number - 1) * part)
                data = file.read(part)
            digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
            answer = self._client.upload_part(
                **where, UploadId=upload, PartNumber=number, Body=data, **_SHA256, ChecksumSHA256=digest
            )
            return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": digest}

        try:
            with ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="s3-part") as pool:
                sent = list(pool.map(send, range(1, -(-size // part) + 1)))
            self._client.complete_multipart_upload(
                **where, UploadId=upload, MultipartUpload={"Parts": sent}, **condition
            )
        except BaseException:
            with suppress(Exception):
                self._client.abort_multipart_upload(**where, UploadId=upload)
            raise

    def put_bytes(self, name: str, data: bytes) -> None:
        """Write a small object whole, over whatever was there."""
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        with self._asking(name):
            self._client.put_object(
                Bucket=self.place.bucket, Key=self.place.key(name), Body=data, **_SHA256, ChecksumSHA256=digest
            )

    def find(self, name: str) -> StoredObject | None:
        """What is known of an object; None when it is not there, or not for us to see. Raises S3Error."""
        try:
            with self._asking(name):
                answer = self._client.head_object(
                    Bucket=self.place.bucket, Key=self.place.key(name), ChecksumMode="ENABLED"
                )
        except S3Error as error:
            # Whoever may not list a bucket gets 403 for a key that is not there.
            if _code(error) in (*_NOT_THERE, "403"):
                return None
            raise
        told = answer.get("ChecksumSHA256")
        return StoredObject(int(answer["ContentLength"]), told.partition("-")[0] if told else None)

    def read(self, name: str, first: int | None = None) -> Iterator[bytes]:
        """The bytes of an object (the `first` ones), in pieces; raises S3Error."""
        wanted = {} if first is None else {"Range": f"bytes=0-{first - 1}"}
        with self._asking(name):
            body = self._client.get_object(Bucket=self.place.bucket, Key=self.place.key(name), **wanted)["Body"]
            try:
                while piece := body.read(READ_SIZE):
                    yield piece
            finally:
                body.close()

    def read_bytes(self, name: str) -> bytes | None:
        """A small object whole, None when it is not there, or not for us to see."""
        try:
            return b"".join(self.read(name))
        except S3Error as error:
            if _code(error) in (*_NOT_THERE, "AccessDenied"):
                return None
            raise

    def sha256(self, name: str, on_bytes: Callable[[int], None] = lambda _: None) -> str:
        """SHA-256 of an object's bytes, read anew, as hex digits."""
        digest = hashlib.sha256()
        for piece in self.read(name):
            digest.update(piece)
            on_bytes(len(piece))
        return digest.hexdigest()

    def names(self) -> Iterator[str]:
        """Names of all objects right below the prefix; the one thing that needs the right to list it."""
        start = self.place.key("")
        with self._asking(""):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.place.bucket, Prefix=start, Delimiter="/"):
                for entry in page.get("Contents", ()):
                    yield str(entry["Key"])[len(start) :]

    def listing(self) -> Iterator[tuple[str, int, int]]:
        """Name, bytes and time of writing (ns) of all objects at any depth; needs the right to list the prefix."""
        start = self.place.key("")
        with self._asking(""):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.place.bucket, Prefix=start):
                for entry in page.get("Contents", ()):
                    written = int(entry["LastModified"].timestamp()) * 1_000_000_000
                    yield str(entry["Key"])[len(start) :], int(entry["Size"]), written

    def remove(self, name: str) -> None:
        """Delete an object; one that is not there is no error."""
        with self._asking(name):
            self._client.delete_object(Bucket=self.place.bucket, Key=self.place.key(name))

    @property
    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = _client(self.place.settings)
            return self._made

    @contextmanager
    def _asking(self, name: str) -> Iterator[None]:
        """Turn what boto3 raises into one line that says what to do."""
        import botocore.exceptions

        try:
            yield
        except botocore.exceptions.ClientError as error:
            raise _refusal(self.place, name, error) from error
        except (botocore.exceptions.NoCredentialsError, botocore.exceptions.PartialCredentialsError) as error:
            raise S3Error(
                f"{self.place}: no credentials; set AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role"
            ) from error
        except (botocore.exceptions.BotoCoreError, OSError) as error:
            if isinstance(error, OSError) and error.filename is not None:
                raise
            raise S3Error(f"{self.place.uri(name)}: {_one_line(error)}; is the address right, and S3 up?") from error


def part_size(size: int) -> int:
    """Bytes of each part of an upload: 8 MiB, more where that would make over 10,000 parts."""
    most = -(-size // MAX_PARTS)
    return max(PART_SIZE, -(-most // (1 << 20)) * (1 << 20))


def checksum(path: Path, part: int) -> str:
    """What S3 says as `ChecksumSHA256` of this file when it was sent in parts of `part` bytes."""
    digests: list[bytes] = []
    with path.open("rb") as file:
        left = path.stat().st_size
        while left > 0 or not digests:
            digest = hashlib.sha256()
            of_part = min(part, left)
            while of_part > 0 and (piece := file.read(min(READ_SIZE, of_part))):
                digest.update(piece)
                of_part, left = of_part - len(piece), left - len(piece)
            digests.append(digest.digest())
            if of_part > 0:
                break
    if len(digests) == 1:
        return base64.b64encode(digests[0]).decode()
    return base64.b64encode(hashlib.sha256(b"".join(digests)).digest()).decode()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _client(settings: S3Settings) -> Any:
    import boto3
    import botocore.exceptions
    from botocore.config import Config

    config = Config(
        retries={"mode": "standard", "max_attempts": ATTEMPTS},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=16,
    )
    try:
        session = boto3.Session(profile_name=settings.profile, region_name=settings.region)
        return session.client("s3", endpoint_url=settings.endpoint_url, config=config)
    except (botocore.exceptions.BotoCoreError, ValueError) as error:
        raise S3Error(f"S3 cannot be reached as configured: {_one_line(error)}") from error


_REMEDIES: Mapping[str, str] = {
    "NoSuchKey": "there is no such object",
    "404": "there is no such object",
    "NoSuchBucket": "there is no such bucket; make it, or correct its name",
    "AccessDenied": "access is denied; the role needs GetObject, PutObject and DeleteObject below the prefix",
    "403": "access is denied; the role needs GetObject, PutObject and DeleteObject below the prefix",
    "InvalidAccessKeyId": "the access key is not known there; check the credentials and the endpoint",
    "SignatureDoesNotMatch": "the secret key is wrong",
    "ExpiredToken": "the session token has expired; renew it and run again",
    "PermanentRedirect": "the bucket is in another region; set the region",
}


def _refusal(place: S3Prefix, name: str, error: Any) -> S3Error:
    code = str(error.response.get("Error", {}).get("Code", ""))
    if code in _EXISTS:
        return ObjectExistsError(_taken(place, name))
    what = _REMEDIES.get(code) or _one_line(error)
    return S3Error(f"{f's3://{place.bucket}' if code == 'NoSuchBucket' else place.uri(name)}: {what}")


def _taken(place: S3Prefix, name: str) -> str:
    return f"{place.uri(name)}: there is another object of that name, not written by hfassets"


def _code(error: S3Error) -> str:
    """The server's code of what it refused, "" for what never reached it."""
    return str(getattr(error.__cause__, "response", {}).get("Error", {}).get("Code", ""))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
