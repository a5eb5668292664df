"""Staging from S3: every object proven by the manifest beside it; what cannot be a file is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import boto3
import pytest

from hfassets.errors import DataError, PartialFailureError
from hfassets.staging import StagingRequest, stage_tree
from hfassets.staging.copy import verify_staged
from hfassets.staging.objects import read_objects
from hfassets.storage.manifest import Manifest, OutputFile, manifest_bytes
from hfassets.storage.s3 import S3Error, S3Prefix, S3Settings
from hfassets_tests.s3 import BUCKET, S3Server, s3, s3_server

__all__ = ["s3", "s3_server"]


def put(s3: S3Server, objects: dict[str, bytes]) -> S3Prefix:
    """Objects below a prefix, which is returned."""
    client = boto3.client("s3", endpoint_url=s3.variables["AWS_ENDPOINT_URL"])
    for name, data in objects.items():
        client.put_object(Bucket=BUCKET, Key=f"sets/c4/{name}", Body=data)
    return S3Prefix.parse(f"s3://{BUCKET}/sets/c4", S3Settings())


def shard_set(data: dict[str, bytes], root: str) -> dict[str, bytes]:
    """The files of an output that shares its place, with its manifest."""
    files = tuple(OutputFile(name, len(one), hashlib.sha256(one).hexdigest()) for name, one in data.items())
    return {**data, "c4_train_2.manifest.json": manifest_bytes(Manifest("c4_shards", 1, {}, {}, root, files))}


def test_objects_become_files_proven_by_their_manifest(s3: S3Server, tmp_path: Path) -> None:
    """At any depth; the second time nothing is fetched; one that was replaced since is not what its manifest says."""
    data = {"a_part001.jsonl": b"x" * 700_000, "a_part002.jsonl": b""}
    place = put(s3, {**shard_set(data, f"s3://{BUCKET}/sets/c4"), "below/more": b"more", "empty/": b""})
    tree = read_objects(place)
    assert {one.path: bool(one.sha256) for one in tree.files} == {
        "a_part001.jsonl": True, "a_part002.jsonl": True, "below/more": False, "c4_train_2.manifest.json": False,
    }  # fmt: skip
    made = stage_tree(StagingRequest(tree, tmp_path / "to", 2))
    assert made.copied_files == 4
    assert {name: (tmp_path / "to" / name).read_bytes() for name in data} == data
    assert verify_staged(tmp_path / "to") == []
    assert stage_tree(StagingRequest(read_objects(place), tmp_path / "to", 2)).copied_files == 0
    put(s3, {"a_part001.jsonl": b"y" * 700_000})
    with pytest.raises(PartialFailureError, match=r"a_part001.jsonl: its SHA-256 is not what the manifest says"):
        stage_tree(StagingRequest(read_objects(place), tmp_path / "other", 1))
    put(s3, {"a_part001.jsonl": b"y"})
    with pytest.raises(DataError, match=r"a_part001.jsonl: 1 B, its manifest says 700,000"):
        read_objects(place)


def test_names_that_lead_elsewhere_are_refused(s3: S3Server) -> None:
    """Before anything is written."""
    place = put(s3, {"fine": b"1", "../../etc/passwd": b"2"})
    with pytest.raises(DataError, match=r"leads out of its folder|cannot be the name of a file"):
        read_objects(place)


def test_what_is_not_there_is_told(s3: S3Server) -> None:
    """A prefix without objects, a bucket that there is not."""
    with pytest.raises(DataError, match=f"s3://{BUCKET}/nothing: no files in it"):
        read_objects(S3Prefix.parse(f"s3://{BUCKET}/nothing", S3Settings()))
    with pytest.raises(S3Error, match="no-such-bucket"):
        read_objects(S3Prefix.parse("s3://no-such-bucket/x", S3Settings()))
