"""Samples over the source files, and large sets made by several processes."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfassets.c4 import sample
from hfassets.c4.account import Account
from hfassets.c4.counting import Counted, begins
from hfassets.c4.journal import Position
from hfassets.c4.sample import file_key, limits, row_numbers
from hfassets.errors import DataError, PartialFailureError
from hfassets.storage.manifest import read_manifest
from hfassets.storage.state import StateDir
from hfassets_tests.c4.conftest import C4, files_of, lines, sources
from hfassets_tests.s3 import S3Server


def urls(folder: Path) -> list[int]:
    """The numbers of the rows of all parts, in order."""
    text = b"".join(data for _, data in sorted(files_of(folder).items()))
    return [int(json.loads(line)["url"].rpartition("/")[2]) for line in text.splitlines()]


@pytest.mark.hub
def test_a_sample_is_the_same_every_time_and_another_with_another_seed(c4: C4, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the workers and the size of the buckets; no row twice; in random order; all accounted for."""
    c4.make(c4.request(c4.root / "a", num_samples=500, max_lines_per_file=120, seed=1))
    made = c4.make(c4.request(c4.root / "b", num_samples=500, max_lines_per_file=120, seed=1, workers=2))
    monkeypatch.setattr(sample, "BUCKET_BYTES", 9_000)
    c4.make(c4.request(c4.root / "c", num_samples=500, max_lines_per_file=120, seed=1, state=StateDir(c4.root / "x")))
    assert files_of(c4.root / "a") == files_of(c4.root / "b") == files_of(c4.root / "c")
    c4.make(c4.request(c4.root / "d", num_samples=500, max_lines_per_file=120, seed=2))
    first, second = urls(c4.root / "a"), urls(c4.root / "d")
    assert len(set(first)) == 500 and first != sorted(first) and set(first) != set(second)
    assert set(Counter(number // 750 for number in first)) == {0, 1, 2, 3}, "of all four source files"
    account = made.account
    assert (account.lines, account.rows, account.not_drawn) == (3000, 500, 2500)


@pytest.mark.hub
def test_only_as_many_sources_are_read_as_the_sample_needs(c4: C4) -> None:
    """Of twelve files at least four, and as many as hold the rows; the order is the seed's."""
    c4.republish(sources(c4.all_lines, files=12))
    made = c4.make(c4.request(num_samples=300, seed=3))
    assert len(made.sources) == 4
    assert sum(source["drawn"] for source in made.sources) == 300
    paths = [f"en/c4-train.{index:05}-of-00012.json.gz" for index in range(12)]
    assert [source["path"] for source in made.sources] == sorted(paths, key=lambda path: file_key(3, path))[:4]
    for source in paths:
        assert (c4.hub.bytes_sent(f"*{source}") > 0) == (source in [one["path"] for one in made.sources])
    many = c4.make(c4.request(c4.root / "many", num_samples=2100, seed=3, workers=2))
    assert len(many.sources) == 9


@pytest.mark.hub
def test_a_sample_of_more_than_there_is_takes_all(c4: C4) -> None:
    with pytest.raises(DataError, match="3,000 rows of the 3,500"):
        c4.make(c4.request(num_samples=3500, seed=1))
    c4.make(c4.request(c4.root / "all", num_samples=3000, seed=1))
    assert sorted(urls(c4.root / "all")) == list(range(3000))


@pytest.mark.hub
@pytest.mark.parametrize("each", [None, 7, 80, 100])
def test_many_processes_make_the_same_parts_as_one(c4: C4, each: int | None) -> None:
    """Over files with bad lines at their beginnings and ends; the manifests agree in all that is not a time."""
    bad = [b"{\n", b"\n"]
    rows = lines(0, 400)
    c4.republish(sources([*bad, *rows[:98], *bad, *rows[98:250], *bad, *rows[250:], *bad], files=5))
    asked = {"num_samples": 380, "max_lines_per_file": each, "streaming": False}
    c4.make(c4.request(c4.root / "one", **asked))
    c4.make(c4.request(c4.root / "two", workers=2, **asked))
    assert files_of(c4.root / "one") == files_of(c4.root / "two")
    one, two = (read_manifest(c4.root / name / "c4_train_380.manifest.json") for name in ("one", "two"))
    assert one is not None and two is not None
    assert (one.files, one.account, one.details, one.fingerprint) == (
        two.files,
        two.account,
        two.details,
        two.fingerprint,
    )


@pytest.mark.hub
@pytest.mark.parametrize("workers", [1, 2])
def test_with_too_few_rows_the_account_is_the_same_too(c4: C4, workers: int) -> None:
    """Bad lines behind the last row are read and counted."""
    c4.republish(sources([*lines(0, 100), b"{\n", b"\n"], files=3))
    made = c4.make(
        c4.request(num_samples=200, max_lines_per_file=50, streaming=False, workers=workers, on_shortfall="report")
    )
    assert (made.account.lines, made.account.rows, made.account.malformed, made.account.blank) == (102, 100, 1, 1)
    assert [part.rows for part in made.parts] == [50, 50]


@pytest.mark.hub
def test_processes_hand_their_parts_to_s3(c4: C4, s3: S3Server, prefix: str) -> None:
    made = c4.make(c4.request(prefix, num_samples=3000, max_lines_per_file=250, streaming=False, workers=2))
    assert b"".join(s3.read(f"c4/en/{part.name}") for part in made.parts) == c4.expect(3000)
    assert not (c4.root / "out").exists()


@pytest.mark.hub
def test_a_source_that_is_no_gzip_is_named(c4: C4) -> None:
    """By each of the ways of reading."""
    files = sources(c4.all_lines)
    files["en/c4-train.00002-of-00004.json.gz"] = b"this is no gzip"
    c4.republish(files)
    for fields in ({"streaming": True}, {"streaming": False}):
        with pytest.raises(DataError, match=r"c4-train\.00002-of-00004\.json\.gz: the gzip stream is damaged"):
            c4.make(c4.request(num_samples=3000, **fields))
    with pytest.raises(PartialFailureError, match=r"c4-train\.00002-of-00004\.json\.gz"):
        c4.make(c4.request(num_samples=3000, streaming=False, workers=2))


@pytest.mark.unit
@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(1, 120), st.integers(0, 2**63))
def test_the_limit_draws_exactly_the_smallest_numbers(counts: list[int], wanted: int, seed: int) -> None:
    """Against sorting all of them."""
    keys = [file_key(seed, str(index)) for index in range(len(counts))]
    limit, ties = limits(keys, counts, wanted)
    every = [row_numbers(key, 0, count) for key, count in zip(keys, counts, strict=True)]
    drawn = [
        np.sort(numbers[numbers < np.uint64(limit)]).tolist() + [limit] * tie
        for numbers, tie in zip(every, ties, strict=True)
    ]
    if sum(counts) <= wanted:
        assert ties == counts or sum(len(one) for one in drawn) >= sum(counts)
        return
    assert sorted(itertools.chain.from_iterable(drawn)) == np.sort(np.concatenate(every))[:wanted].tolist()


@pytest.mark.unit
def test_numbers_do_not_depend_on_where_a_batch_begins() -> None:
    whole = row_numbers(7, 0, 1000)
    assert (np.concatenate([row_numbers(7, 0, 333), row_numbers(7, 333, 1000)]) == whole).all()
    assert len(set(whole.tolist())) == 1000


@pytest.mark.unit
@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.booleans(), max_size=12), min_size=1, max_size=5), st.integers(1, 9), st.integers(1, 40))
def test_parts_begin_right_behind_the_last_row_of_the_one_before(
    files: list[list[bool]], each: int, total: int
) -> None:
    """Against walking through all lines; True is a row."""
    counted = [
        Counted(sum(file), 0, tuple(line for line, is_row in enumerate(file) if not is_row), Account())
        for file in files
    ]
    expected, rows = [Position(0, 0)], 0
    for number, file in enumerate(files):
        for line, is_row in enumerate(file):
            rows += is_row
            if is_row and rows % each == 0:
                expected.append(Position(number, line + 1))
    parts = -(-min(total, rows) // each)
    assert list(begins(counted, each, total)) == expected[:parts]
