"""Shard sets in a real S3 server: objects, proof, clean-up, outages, foreign objects, bringing them back."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse

from hfassets.c4.fetch import fetch_shard_set, find_manifest
from hfassets.c4.journal import Journal
from hfassets.c4.prove import prove_shard_set
from hfassets.c4.shard_set import find_shard_set
from hfassets.c4.stores import manifests
from hfassets.c4.target import Folder, Objects
from hfassets.errors import DataError, PartialFailureError, UnsafePathError, UsageError
from hfassets.storage import s3 as domain
from hfassets.storage.manifest import manifest_bytes, parse_manifest
from hfassets.storage.s3 import ObjectExistsError, S3Error, S3Prefix, S3Settings, S3Store, checksum, part_size
from hfassets.storage.s3_files import register
from hfassets.storage.state import StateDir
from hfassets_tests.c4.conftest import C4, files_of, keys_of
from hfassets_tests.s3 import BUCKET, S3Server

pytestmark = pytest.mark.hub

FOUR = [f"c4/en/c4_train_1000_part00{number}.jsonl" for number in (1, 2, 3, 4)]


def test_parts_become_objects_and_no_local_file_is_left(c4: C4, s3: S3Server, prefix: str) -> None:
    """Four objects with the hashes of the manifest; neither the folder for parts nor its hidden one remain."""
    made = c4.make(c4.request(f"{prefix}/", num_samples=1000, max_lines_per_file=250))
    assert keys_of(s3) == set(FOUR)
    assert [s3.objects()[f"c4/en/{part.name}"] for part in made.parts] == [part.sha256 for part in made.parts]
    assert b"".join(s3.read(key) for key in FOUR) == c4.expect(1000)
    assert not (c4.root / "out").exists()
    assert not list((c4.root / "state").rglob("journal*"))
    head = s3.client.head_object(Bucket=BUCKET, Key=FOUR[0], ChecksumMode="ENABLED")
    assert head["ChecksumSHA256"]


def test_local_copies_stay_if_wanted(c4: C4, s3: S3Server, prefix: str) -> None:
    """Both places have the parts and the manifest."""
    c4.make(c4.request(prefix, num_samples=1000, max_lines_per_file=250, keep_local=True))
    assert set(files_of(c4.root / "out")) == {Path(key).name for key in keys_of(s3)}
    assert (c4.root / "out" / "c4_train_1000.manifest.json").exists()
    assert "c4/en/c4_train_1000.manifest.json" in s3.objects()


def test_a_server_that_goes_away_is_a_failure_and_costs_no_proven_part(
    c4: C4, s3: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after part 2: an error in one line; started again, two parts are uploaded, none fetched again."""
    monkeypatch.setattr(domain, "ATTEMPTS", 1)
    request = c4.request(prefix, num_samples=1000, max_lines_per_file=250)
    store = Journal.store

    def stop_after_two(self: Journal, index: int, checksum: str) -> None:
        store(self, index, checksum)
        if sum(part.stored for part in self.parts.values()) == 2:
            s3.stop()

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "store", stop_after_two)
        with pytest.raises(S3Error) as caught:
            c4.make(request)
    assert "\n" not in str(caught.value) and "is the address right" in str(caught.value)
    s3.start()
    journal = Journal.open(request.work / "journal.jsonl", request.fingerprint, ())
    proven = [f"c4/en/{part.name}" for part in journal.parts.values() if part.stored]
    times = {key: s3.client.head_object(Bucket=BUCKET, Key=key)["LastModified"] for key in proven}
    time.sleep(1.1)  # S3 tells times in whole seconds
    assert 2 <= len(proven) < 4 and c4.make(request).made == 4 - len(proven)
    assert b"".join(s3.read(key) for key in FOUR) == c4.expect(1000)
    assert times == {key: s3.client.head_object(Bucket=BUCKET, Key=key)["LastModified"] for key in proven}


def test_parts_are_uploaded_while_the_next_is_written(c4: C4, s3: S3Server, prefix: str) -> None:
    """The first part is in S3 before the last is begun, and at most a few wait on disk."""
    seen: list[int] = []

    def look(event: object) -> None:
        if "proven by its SHA-256" in getattr(event, "text", ""):
            seen.append(sum(1 for _ in (c4.root / "out").rglob("*.jsonl")))

    c4.make(c4.request(prefix, num_samples=3000, max_lines_per_file=100), look)
    assert len(seen) == 30 and max(seen) <= 5


def test_republished_parts_leave_no_stale_object(c4: C4, s3: S3Server, prefix: str) -> None:
    """Four become two; another's objects stay."""
    c4.make(c4.request(prefix, num_samples=1000, max_lines_per_file=250))
    s3.client.put_object(Bucket=BUCKET, Key="c4/en/other_train.jsonl", Body=b"{}\n")
    c4.make(c4.request(prefix, num_samples=1000, max_lines_per_file=500))
    assert keys_of(s3) == {*FOUR[:2], "c4/en/other_train.jsonl"}
    assert b"".join(s3.read(key) for key in FOUR[:2]) == c4.expect(1000)


def test_an_object_of_somebody_else_is_not_replaced(c4: C4, s3: S3Server, prefix: str) -> None:
    """Refused, and still there; --force replaces it. One with the same bytes is taken as it is."""
    s3.client.put_object(Bucket=BUCKET, Key="c4/en/c4_train_10.jsonl", Body=b"precious\n")
    with pytest.raises(ObjectExistsError, match="not written by hfassets"):
        c4.make(c4.request(prefix, num_samples=10))
    assert s3.read("c4/en/c4_train_10.jsonl") == b"precious\n"
    c4.make(c4.request(prefix, num_samples=10, force=True))
    assert s3.read("c4/en/c4_train_10.jsonl") == c4.expect(10)


def test_without_its_journal_a_set_is_found_by_its_objects(c4: C4, s3: S3Server, prefix: str) -> None:
    """Another machine: nothing is uploaded twice, no object is listed."""
    request = c4.request(prefix, num_samples=1000, max_lines_per_file=250)
    c4.make(request)
    s3.client.delete_object(Bucket=BUCKET, Key=FOUR[2])
    s3.client.delete_object(Bucket=BUCKET, Key="c4/en/c4_train_1000.manifest.json")
    c4.make(c4.request(prefix, num_samples=1000, max_lines_per_file=250, state=StateDir(c4.root / "elsewhere")))
    assert keys_of(s3) == set(FOUR)
    assert find_shard_set(request, by_hash=True) is not None


def test_damage_in_s3_is_found_by_reading_and_repaired_alone(c4: C4, s3: S3Server, prefix: str) -> None:
    """A changed object, one that is gone: both named; then only these are made again."""
    request = c4.request(prefix, num_samples=1000, max_lines_per_file=250)
    c4.make(request)
    s3.client.put_object(Bucket=BUCKET, Key=FOUR[0], Body=s3.read(FOUR[0]).replace(b"web", b"wed"))
    s3.client.delete_object(Bucket=BUCKET, Key=FOUR[3])
    [(manifest, store)] = manifests(prefix, S3Settings(), None)
    proof = prove_shard_set(manifest, store)
    assert [name for name, _ in proof.damage] == [Path(FOUR[0]).name, Path(FOUR[3]).name]
    assert "SHA-256" in proof.damage[0][1] and "no such object" in proof.damage[1][1]
    assert c4.make(request).made == 2
    assert prove_shard_set(manifest, store).intact


def test_a_set_is_brought_back_verified(c4: C4, s3: S3Server, prefix: str, tmp_path: Path) -> None:
    """Equal files; a second time only what is missing; a part that changed in S3 is not taken."""
    c4.make(c4.request(prefix, num_samples=1000, max_lines_per_file=250))
    place, back = S3Prefix.parse(prefix, S3Settings()), tmp_path / "back"
    fetched = fetch_shard_set(place, find_manifest(place, None), back)
    assert b"".join(files_of(back)[part.name] for part in fetched.parts) == c4.expect(1000)
    (back / fetched.parts[1].name).write_bytes(b"rot")
    assert fetch_shard_set(place, find_manifest(place, "c4_train_1000"), back).kept == 3
    proof = prove_shard_set(find_manifest(place, None), Folder(back, "c4_train_1000.manifest.json"))
    assert proof.intact and proof.sampled == 1000
    (back / fetched.parts[2].name).unlink()
    s3.client.put_object(Bucket=BUCKET, Key=FOUR[2], Body=b"{}\n")
    with pytest.raises(PartialFailureError, match="part003"):
        fetch_shard_set(place, find_manifest(place, None), back)
    assert not (back / fetched.parts[2].name).exists()


def test_large_files_go_in_parts_and_their_checksum_is_the_servers(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Multipart: what we compute is what S3 says; sizes around the border of a part."""
    monkeypatch.setattr(domain, "PART_SIZE", 5 << 20)
    store = S3Store(S3Prefix.parse(f"s3://{BUCKET}/big", S3Settings()))
    for size in (1, (5 << 20) - 1, 5 << 20, (5 << 20) + 1, 17 << 20):
        path = tmp_path / f"{size}"
        path.write_bytes(hashlib.shake_128(b"x").digest(size))
        assert store.put(path.name, path).sent
        assert not store.put(path.name, path).sent, "the equal object is there already"
        found = store.find(path.name)
        assert found is not None and (found.size, found.checksum) == (size, checksum(path, part_size(size)))
        assert store.sha256(path.name) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert s3.client.head_object(Bucket=BUCKET, Key=f"big/{17 << 20}")["ETag"].endswith('-4"')


def test_parts_of_an_upload_stay_below_ten_thousand() -> None:
    assert part_size(5 << 40) * 10_000 >= 5 << 40
    assert part_size(1) == 8 << 20


@pytest.mark.parametrize(
    "text", ["s3://", "s3:///prefix", "s3://UPPER/x", "s3://b", "gs://bucket/x", "s3://bucket/../x"]
)
def test_what_is_no_place_in_s3_is_one_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        S3Prefix.parse(text, S3Settings())
    assert "\n" not in str(caught.value)


def test_slashes_double_nothing() -> None:
    place = S3Prefix.parse("s3://bucket//a/b//", S3Settings())
    assert (str(place), place.key("x.jsonl")) == ("s3://bucket/a/b", "a/b/x.jsonl")
    assert S3Prefix.parse("s3://bucket", S3Settings()).key("x") == "x"


def test_a_bucket_that_is_not_there_is_said_before_anything_is_fetched(c4: C4, s3: S3Server) -> None:
    with pytest.raises(S3Error, match="s3://no-such-bucket: there is no such bucket"):
        c4.make(c4.request("s3://no-such-bucket/c4", num_samples=10))
    assert c4.hub.requests == []


def test_several_sets_of_a_prefix_have_to_be_named(c4: C4, s3: S3Server, prefix: str) -> None:
    place = S3Prefix.parse(prefix, S3Settings())
    with pytest.raises(DataError, match="no shard set is there"):
        find_manifest(place, None)
    for samples in (10, 20):
        c4.make(c4.request(prefix, num_samples=samples))
    with pytest.raises(UsageError, match="c4_train_10, c4_train_20"):
        find_manifest(place, None)
    assert Objects(place, "c4_train_10.manifest.json").manifest() is not None


def test_datasets_reads_the_parts_in_s3(c4: C4, s3: S3Server, prefix: str, tmp_path: Path) -> None:
    """By glob, whole and streamed, in the order of the rows, without s3fs."""
    import datasets

    c4.make(c4.request(prefix, num_samples=1000, max_lines_per_file=300))
    register()
    files = {"train": f"{prefix}/*train*.jsonl"}
    whole = datasets.load_dataset("json", data_files=files, split="train", cache_dir=str(tmp_path / "d"))
    assert whole["url"] == [f"http://example.com/{number}" for number in range(1000)]
    streamed = datasets.load_dataset("json", data_files=files, split="train", streaming=True)
    assert next(iter(streamed.skip(999)))["url"] == "http://example.com/999"


def test_names_in_a_manifest_from_the_network_stay_in_their_folder(
    c4: C4, s3: S3Server, prefix: str, tmp_path: Path
) -> None:
    """A manifest that names a file outside is refused, and nothing is written."""
    c4.make(c4.request(prefix, num_samples=10))
    place, key = S3Prefix.parse(prefix, S3Settings()), "c4/en/c4_train_10.manifest.json"
    manifest = parse_manifest(s3.read(key), key)
    for harm in ("../evil.jsonl", "/etc/evil", ".hidden/../../evil"):
        part = {**manifest.details["parts"][0], "name": harm}
        bad = replace(manifest, details={**manifest.details, "parts": [part]})
        s3.client.put_object(Bucket=BUCKET, Key=key, Body=manifest_bytes(bad))
        with pytest.raises(UnsafePathError, match="no plain file name"):
            fetch_shard_set(place, find_manifest(place, None), tmp_path / "back")
    assert not (tmp_path / "back").exists() and not (tmp_path / "evil.jsonl").exists()


def test_lost_local_copies_are_made_again(c4: C4, s3: S3Server, prefix: str) -> None:
    request = c4.request(prefix, num_samples=1000, max_lines_per_file=250, keep_local=True)
    c4.make(request)
    (c4.root / "out" / "c4_train_1000_part002.jsonl").unlink()
    assert c4.make(request).made == 1
    assert (c4.root / "out" / "c4_train_1000_part002.jsonl").read_bytes() == c4.expect(250, 250)


def test_a_server_without_conditional_writes_is_asked_before(s3: S3Server, tmp_path: Path) -> None:
    """It refuses If-None-Match as not implemented: what is there is looked at first, and not replaced."""

    def refuse(request: AWSPreparedRequest, **_: object) -> AWSResponse | None:
        if "If-None-Match" not in request.headers:
            return None
        body = b"<Error><Code>NotImplemented</Code><Message>no such header</Message></Error>"
        return AWSResponse(request.url, 501, {"Content-Type": "application/xml"}, BytesResponse(body))

    store = S3Store(S3Prefix.parse(f"s3://{BUCKET}/old", S3Settings()))
    store._client.meta.events.register("before-send.s3", refuse)
    (tmp_path / "a").write_bytes(b"ours")
    assert store.put("a", tmp_path / "a").sent and not store.put("a", tmp_path / "a").sent
    s3.client.put_object(Bucket=BUCKET, Key="old/b", Body=b"theirs")
    (tmp_path / "b").write_bytes(b"ours")
    with pytest.raises(ObjectExistsError):
        store.put("b", tmp_path / "b")
    assert s3.read("old/b") == b"theirs"


class BytesResponse(io.BytesIO):
    """A body as botocore reads it."""

    def stream(self, **_: object) -> Iterator[bytes]:
        yield self.getvalue()


def test_threads_share_a_store(s3: S3Server, tmp_path: Path) -> None:
    """One client, however many ask at once."""
    store = S3Store(S3Prefix.parse(f"s3://{BUCKET}/t", S3Settings()))
    clients: set[int] = set()
    threads = [threading.Thread(target=lambda: clients.add(id(store._client))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(clients) == 1


def test_rights_on_the_prefix_are_enough(c4: C4, s3: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who may only get and put objects below the prefix: no listing, no look at the account."""
    allowed = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["s3:GetObject", "s3:PutObject"],
                "Resource": [f"arn:aws:s3:::{BUCKET}/c4/en/*"],
            }
        ],
    }
    with s3.limited_user(allowed) as keys:
        for name, value in keys.items():
            monkeypatch.setenv(name, value)
        made = c4.make(c4.request(prefix, num_samples=1000, max_lines_per_file=250))
        assert c4.make(c4.request(prefix, num_samples=1000, max_lines_per_file=250)).reused
        with pytest.raises(S3Error, match="access is denied"):
            c4.make(c4.request(f"s3://{BUCKET}/elsewhere", num_samples=10))
    assert len(made.parts) == 4 and keys_of(s3) == set(FOUR)
