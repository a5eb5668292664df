"""A real S3 server on loopback (moto), that can be stopped and started again with all its objects."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
import requests
from moto.server import ThreadedMotoServer

BUCKET = "training-data"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "2",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class S3Server:
    """The server, one bucket in it, and a client to look into that bucket."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.client: Any = boto3.client(
            "s3", endpoint_url=self.url, region_name="us-east-1", aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )  # fmt: skip

    @property
    def variables(self) -> dict[str, str]:
        """The environment of clients."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.url}

    def stop(self) -> None:
        """Refuse connections from now on; objects stay."""
        self._server.stop()

    def start(self) -> None:
        """Serve again, at the same address."""
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()

    @contextmanager
    def limited_user(self, policy: Mapping[str, Any]) -> Iterator[dict[str, str]]:
        """For the body, rights are enforced; yields the environment of a user who has these."""
        iam: Any = boto3.client(
            "iam", endpoint_url=self.url, region_name="us-east-1", aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )  # fmt: skip
        iam.create_user(UserName="limited")
        iam.put_user_policy(UserName="limited", PolicyName="limited", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName="limited")["AccessKey"]
        requests.post(f"{self.url}/moto-api/reset-auth", data=b"0", timeout=10).raise_for_status()
        try:
            yield {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
        finally:
            requests.post(f"{self.url}/moto-api/reset-auth", data=b"inf", timeout=10).raise_for_status()
            iam.delete_access_key(UserName="limited", AccessKeyId=key["AccessKeyId"])
            iam.delete_user_policy(UserName="limited", PolicyName="limited")
            iam.delete_user(UserName="limited")

    def empty(self) -> None:
        """One new, empty bucket."""
        for bucket in self.client.list_buckets()["Buckets"]:
            for key in self.objects(bucket["Name"]):
                self.client.delete_object(Bucket=bucket["Name"], Key=key)
            self.client.delete_bucket(Bucket=bucket["Name"])
        self.client.create_bucket(Bucket=BUCKET)

    def objects(self, bucket: str = BUCKET) -> dict[str, str]:
        """Key -> SHA-256 of the bytes."""
        entries = self.client.list_objects_v2(Bucket=bucket).get("Contents", [])
        return {entry["Key"]: hashlib.sha256(self.read(entry["Key"], bucket)).hexdigest() for entry in entries}

    def read(self, key: str, bucket: str = BUCKET) -> bytes:
        """The bytes of an object."""
        body: bytes = self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        return body


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One server for the session; tests take `s3`."""
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server with an empty bucket, and the environment of its clients."""
    s3_server.empty()
    for name, value in s3_server.variables.items():
        monkeypatch.setenv(name, value)
    return s3_server
