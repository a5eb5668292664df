"""Shard sets from the sample Hub to a folder: names, bytes, resume, damage, shortfall."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from hfassets.c4.journal import Journal
from hfassets.c4.shard_set import ShardSet, find_shard_set
from hfassets.demo.hub_faults import Fault
from hfassets.errors import DataError, HfassetsError, HubError, IntegrityError, SpaceError
from hfassets.storage.manifest import read_manifest
from hfassets_tests.c4.conftest import C4, files_of, lines, sources

pytestmark = pytest.mark.hub


def zstd_frames(data: bytes) -> zstandard.ZstdDecompressionReader:
    """A reader over frames one after the other."""
    return zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)


def joined(folder: Path, made: ShardSet) -> bytes:
    """All parts of a shard set, one after the other."""
    return b"".join((folder / part.name).read_bytes() for part in made.parts)


def test_parts_have_the_names_and_bytes_of_the_sources_first_lines(c4: C4) -> None:
    """Four parts of 250 lines, each the source's own lines; 1,000 samples are streamed, over a border of sources."""
    made = c4.make(c4.request(num_samples=1000, max_lines_per_file=250))
    expected = {f"c4_train_1000_part{n + 1:03}.jsonl": c4.expect(250, 250 * n) for n in range(4)}
    assert files_of(c4.root / "out") == expected
    assert (made.rows, len(made.parts), made.made, made.reused) == (1000, 4, 4, False)
    assert made.account.characters == sum(len(json.loads(line)["text"]) for line in c4.all_lines[:1000])
    assert [source["read"] for source in made.sources] == ["whole", "prefix, unverified"]
    assert not (c4.root / "hub" / "datasets--allenai--c4" / "blobs").exists(), "streaming leaves nothing in the cache"


@pytest.mark.parametrize("samples", [1, 749, 750, 751, 1000, 3000])
def test_both_ways_of_reading_write_the_same_bytes(c4: C4, samples: int) -> None:
    """--no-streaming is honoured at any size; one file without a part number."""
    c4.make(c4.request(c4.root / "a", num_samples=samples, streaming=True))
    made = c4.make(c4.request(c4.root / "b", num_samples=samples, streaming=False))
    assert files_of(c4.root / "a") == files_of(c4.root / "b") == {f"c4_train_{samples}.jsonl": c4.expect(samples)}
    assert {source["read"] for source in made.sources} == {"whole"}


def test_part_numbers_widen(c4: C4) -> None:
    """Past 999 parts."""
    c4.make(c4.request(num_samples=1001, max_lines_per_file=1))
    names = files_of(c4.root / "out")
    assert len(names) == 1001 and {"c4_train_1001_part001.jsonl", "c4_train_1001_part1001.jsonl"} < set(names)


def test_the_manifest_names_hashes_and_row_ranges(c4: C4) -> None:
    """Rows, bytes and SHA-256 of each part; source files and line ranges at the pinned commit."""
    c4.make(c4.request(num_samples=1000, max_lines_per_file=500))
    manifest = read_manifest(c4.root / "out" / "c4_train_1000.manifest.json")
    assert manifest is not None and manifest.inputs["commit"] == c4.commit
    second = manifest.details["parts"][1]
    assert second["sources"] == [
        ["en/c4-train.00000-of-00004.json.gz", 500, 750, 250], ["en/c4-train.00001-of-00004.json.gz", 0, 250, 250]
    ]  # fmt: skip
    assert manifest.account == {"lines_read": 1000, "rows": 1000, "blank": 0, "malformed": 0, "not_drawn": 0}


def test_a_second_run_asks_nobody(c4: C4) -> None:
    """No request, no part made; a missing part is made alone, a changed one too when all bytes are looked at."""
    request = c4.request(num_samples=1000, max_lines_per_file=250)
    c4.make(request)
    c4.hub.reset_log()
    again = c4.make(request)
    assert again.reused and c4.hub.requests == []
    (c4.root / "out" / "c4_train_1000_part002.jsonl").unlink()
    assert c4.make(request).made == 1
    assert files_of(c4.root / "out")["c4_train_1000_part002.jsonl"] == c4.expect(250, 250)
    part = c4.root / "out" / "c4_train_1000_part003.jsonl"
    part.write_bytes(part.read_bytes().replace(b"web", b"wed"))
    assert find_shard_set(request) is not None
    assert find_shard_set(request, by_hash=True) is None


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_compressed_parts_hold_the_same_lines(c4: C4, compression: str) -> None:
    """And are the same files however often they are made."""
    for name in ("a", "b"):
        c4.make(c4.request(c4.root / name, num_samples=600, max_lines_per_file=300, compression=compression))
    found = files_of(c4.root / "a")
    assert found == files_of(c4.root / "b")
    open_up = (
        gzip.decompress
        if compression == "gzip"
        else lambda data: zstandard.ZstdDecompressor().stream_reader(data).read()
    )
    assert b"".join(open_up(found[name]) for name in sorted(found)) == c4.expect(600)
    assert all(name.endswith(".jsonl.gz" if compression == "gzip" else ".jsonl.zst") for name in found)


def test_bad_lines_are_kept_out_counted_and_listed(c4: C4) -> None:
    """Cut, not JSON, not an object, undecodable, blank: rows go on behind them, and the account closes."""
    bad = [b'{"text": "cut\n', b"no json\n", b"[1, 2]\n", b'{"text": "\xff"}\n', b"\n", b'{"text": NaN}\n', b'"text"\n']
    good = lines(0, 40)
    c4.republish(sources(good[:10] + bad + good[10:], files=2))
    made = c4.make(c4.request(num_samples=40, max_lines_per_file=10))
    assert b"".join(files_of(c4.root / "out")[part.name] for part in made.parts) == b"".join(good)
    account = made.account
    assert (account.lines, account.rows, account.blank, account.malformed) == (47, 40, 1, 6)
    assert [line for _, line, _, _ in account.listed] == [10, 11, 12, 13, 15, 16]


def test_rows_that_are_odd_but_whole_pass_as_they_are(c4: C4) -> None:
    """Rows without text, CRLF, spaces, a last line without newline: bytes are not touched, the newline is added."""
    odd = [
        b'{"url": 1}\r\n',
        b'  {"text": null}\n',
        b'{"text": "a", "text": "b"}\n',
        b'{"text": ["x"]}\n',
        b'{"text": ""}',
    ]
    c4.republish({"en/c4-train.00000.json.gz": gzip.compress(b"".join(odd[:2])) + gzip.compress(b"".join(odd[2:]))})
    made = c4.make(c4.request(num_samples=5))
    assert files_of(c4.root / "out")["c4_train_5.jsonl"] == b"".join(odd) + b"\n"
    assert (made.account.without_text, made.account.empty, made.account.characters) == (3, 1, 1)


def test_other_repos_in_zstd_parquet_and_plain_lines(c4: C4) -> None:
    """Anything of JSON lines or Parquet; Parquet rows become JSON with their columns in order."""
    rows = [{"id": n, "text": f"row {n}", "score": n / 2, "tags": ["a", None]} for n in range(50)]
    text = b"".join(orjson.dumps(one) + b"\n" for one in rows)
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, c4.root / "t.parquet", row_group_size=7)
    packed = zstandard.ZstdCompressor()
    for name, data in {
        "train.jsonl": text,
        "train.jsonl.zst": packed.compress(text[: len(text) // 2]) + packed.compress(text[len(text) // 2 :]),
        "train.parquet": (c4.root / "t.parquet").read_bytes(),
    }.items():
        c4.hub.add_repo("org/other", {name: data})
        out = c4.root / name
        request = c4.request(out, num_samples=45, max_lines_per_file=20, config=None, commit=c4.hub.commit("org/other"))
        request = type(request)(**{
            field: getattr(request, field) for field in request.__dataclass_fields__
        } | {"repo": type(request.repo)(c4.root / "hub", "org/other")})  # fmt: skip
        made = c4.make(request)
        assert b"".join(files_of(out)[part.name] for part in made.parts) == b"".join(text.splitlines(True)[:45])


def test_too_few_rows_are_a_failure_unless_accepted(c4: C4) -> None:
    """By default a failure that says how many there are; with `report` the parts there are, and how many were asked."""
    with pytest.raises(DataError, match=r"3,000 rows of the 4,000 asked for"):
        c4.make(c4.request(num_samples=4000, max_lines_per_file=1600))
    assert not (c4.root / "out" / "c4_train_4000.manifest.json").exists()
    made = c4.make(c4.request(num_samples=4000, max_lines_per_file=1600, on_shortfall="report"))
    assert (made.rows, made.asked, [part.rows for part in made.parts]) == (3000, 4000, [1600, 1400])
    assert c4.make(c4.request(num_samples=4000, max_lines_per_file=1600, on_shortfall="report")).reused


def test_an_unknown_split_says_which_there_are(c4: C4) -> None:
    with pytest.raises(DataError, match=r"no split 'test'; it has train, validation"):
        c4.make(c4.request(split="test"))


def test_what_was_received_before_a_failure_is_not_asked_for_again(c4: C4) -> None:
    """A Hub that stops in the middle: the finished parts and the received bytes stay, the rest is asked for."""
    request = c4.request(num_samples=1400, max_lines_per_file=100, streaming=True)
    c4.hub.set_faults(Fault("status", path="*00001-of-00004*", status=404))
    with pytest.raises(HubError):
        c4.make(request)
    kept = files_of(c4.root / "out")
    assert len(kept) == 7
    c4.hub.set_faults()
    c4.hub.reset_log()
    made = c4.make(request)
    assert made.made == 7 and c4.hub.bytes_sent("*00000-of-00004*") == 0
    assert joined(c4.root / "out", made) == c4.expect(1400)


@pytest.mark.parametrize("offset", [5, 4000], ids=["nothing that gunzip would notice", "in the middle of the stream"])
def test_a_source_that_arrives_damaged_is_fetched_again_and_its_parts_made_again(c4: C4, offset: int) -> None:
    """A flipped bit is noticed at the source's end at the latest; what was made of it is not believed."""
    c4.hub.set_faults(Fault("flip", path="*00000-of-00004*", times=1, offset=offset))
    notes: list[str] = []
    made = c4.make(
        c4.request(num_samples=1000, max_lines_per_file=100), lambda event: notes.append(getattr(event, "text", ""))
    )
    assert joined(c4.root / "out", made) == c4.expect(1000)
    assert any("fetching it again" in note for note in notes)
    c4.hub.set_faults(Fault("flip", path="*00001-of-00004*", offset=offset))
    with pytest.raises(IntegrityError, match="that the Hub lists"):
        c4.make(c4.request(c4.root / "other", num_samples=2000, streaming=True))
    assert not (c4.root / "other" / "c4_train_2000.manifest.json").exists()


def test_parts_of_an_earlier_publication_go_away(c4: C4) -> None:
    """Four parts republished as two: nothing stale for a glob; another's files stay."""
    c4.make(c4.request(num_samples=1000, max_lines_per_file=250))
    (c4.root / "out" / "mine_train.jsonl").write_text("{}\n")
    c4.make(c4.request(num_samples=1000, max_lines_per_file=500))
    found = sorted(path.name for path in (c4.root / "out").glob("*train*.jsonl"))
    assert found == ["c4_train_1000_part001.jsonl", "c4_train_1000_part002.jsonl", "mine_train.jsonl"]
    c4.make(c4.request(num_samples=600, key="one"))
    c4.make(c4.request(num_samples=700, key="one"))
    assert not (c4.root / "out" / "c4_train_600.jsonl").exists()
    assert not (c4.root / "out" / "c4_train_600.manifest.json").exists()


def test_a_run_that_fails_before_its_first_part_harms_nothing(c4: C4) -> None:
    """The older publication under that name still has its manifest, and is whole."""
    older = c4.request(num_samples=1000, max_lines_per_file=250)
    c4.make(older)
    c4.hub.set_faults(Fault("status", path="*c4-train*", status=404))
    with pytest.raises(HubError):
        c4.make(c4.request(num_samples=1000, max_lines_per_file=500))
    assert find_shard_set(older, by_hash=True) is not None


def test_a_file_of_somebody_else_is_not_replaced(c4: C4) -> None:
    """Refused before anything is fetched; --force replaces it."""
    out = c4.root / "out"
    out.mkdir()
    (out / "c4_train_10.jsonl").write_text("precious\n")
    with pytest.raises(DataError, match="was not written by hfassets"):
        c4.make(c4.request(num_samples=10))
    assert (out / "c4_train_10.jsonl").read_text() == "precious\n" and c4.hub.requests == []
    c4.make(c4.request(num_samples=10, force=True))
    assert (out / "c4_train_10.jsonl").read_bytes() == c4.expect(10)


def test_a_full_disk_is_one_line_and_costs_no_finished_part(c4: C4) -> None:
    """A small tmpfs; with room again the rest is made."""
    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    out = c4.root / "small"
    out.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(out)], check=True)
    try:
        request = c4.request(out, num_samples=3000, max_lines_per_file=300, streaming=True)
        with pytest.raises(SpaceError, match=r"no space left on the device; \d of 10 parts are done") as caught:
            c4.make(request)
        assert "\n" not in str(caught.value)
        kept = sum(name.endswith(".jsonl") for name in files_of(out))
        assert 0 < kept < 10 and not [name for name in files_of(out) if name.endswith(".tmp")]
        subprocess.run(["mount", "-o", "remount,size=8m", str(out)], check=True)
        assert c4.make(request).made == 10 - kept
        assert b"".join(files_of(out)[f"c4_train_3000_part{n:03}.jsonl"] for n in range(1, 11)) == c4.expect(3000)
    finally:
        subprocess.run(["umount", str(out)], check=True)


def test_a_journal_that_was_cut_costs_one_part(c4: C4) -> None:
    """A torn last line counts as not there."""
    request = c4.request(num_samples=1000, max_lines_per_file=250)
    c4.hub.set_faults(Fault("status", path="*00001-of-00004*", status=404))
    with pytest.raises(HubError):
        c4.make(request)
    journal = request.work / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-10])
    assert len(Journal.open(journal, request.fingerprint, ()).parts) == 2
    c4.hub.set_faults()
    assert c4.make(request).made == 2


def test_offline_takes_what_the_cache_holds(c4: C4, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set made whole first can be made in another shape without a network."""
    c4.make(c4.request(c4.root / "a", num_samples=2000, streaming=False))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    c4.hub.reset_log()
    c4.make(c4.request(c4.root / "b", num_samples=1500, max_lines_per_file=700))
    assert c4.hub.requests == []
    with pytest.raises(HfassetsError, match="offline"):
        c4.make(c4.request(c4.root / "c", num_samples=10, split="validation"))


def test_the_readers_of_the_files_find_them(c4: C4, tmp_path: Path) -> None:
    """`datasets` loads the glob of a split, in the order of its rows."""
    import datasets

    c4.make(c4.request(num_samples=1000, max_lines_per_file=300))
    loaded = datasets.load_dataset(
        "json",
        data_files={"train": str(c4.root / "out" / "*train*.jsonl")},
        split="train",
        cache_dir=str(tmp_path / "d"),
    )
    assert loaded["url"] == [f"http://example.com/{number}" for number in range(1000)]
