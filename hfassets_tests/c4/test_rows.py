"""Lines, batches and accounts against a slow plain reference, for all ways of cutting a stream."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Iterator

import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from hfassets.c4 import rows as domain
from hfassets.c4.account import FIRST_ROWS, Account, bin_edge
from hfassets.c4.rows import Batch, examine, line_batches, whole_lines
from hfassets.errors import DataError, IntegrityError
from hfassets.sources.decode import decoded

pytestmark = pytest.mark.unit

GOOD = st.fixed_dictionaries({"text": st.text(max_size=30), "n": st.integers(-5, 5)}).map(orjson.dumps)
ODD = st.sampled_from(
    [b'{"text":null}', b'{"n":1}', b'  {"text":"x"}\t', b'{"text":["a"]}', b'{"text":"a","text":"bc"}',
     b'{"text":"\\u00e9"}\r']
)  # fmt: skip
BAD = st.sampled_from(
    [b"", b" ", b"{", b'{"text":"cut', b"[1]", b'"text"', b"null", b"1", b'{"text":"\xff"}', b'{"text":NaN}', b"{} {}",
     b'{"text":"a\x01"}', b"\xef\xbb\xbf{}", b'{"a":1},{"b":2}']
)  # fmt: skip
LINES = st.lists(st.one_of(GOOD, ODD, BAD), max_size=40)


def pieces_of(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """The data, cut anywhere."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return (data[start:end] for start, end in itertools.pairwise(places))


def reference(lines: list[bytes]) -> tuple[list[bytes], int, list[int]]:
    """Rows, number of blank lines, numbers of malformed ones: by Python's own parser, line by line."""
    kept, blank, malformed = [], 0, []
    for number, line in enumerate(lines):
        if not line.strip():
            blank += 1
            continue
        try:
            row = json.loads(line.decode(), parse_constant=lambda name: 1 / 0)
        except (ValueError, ZeroDivisionError):
            row = None
        if isinstance(row, dict):
            kept.append(line)
        else:
            malformed.append(number)
    return kept, blank, malformed


@settings(max_examples=300, deadline=None)
@given(LINES, st.lists(st.integers(0, 4000), max_size=12), st.integers(1, 200), st.booleans(), st.integers(0, 45))
def test_rows_are_those_of_the_plain_reference(
    lines: list[bytes], cuts: list[int], size: int, newline: bool, skip: int
) -> None:
    """However the stream is cut, whatever the size of a batch, from any line on; every line is in one count."""
    data = b"".join(line + b"\n" for line in lines)
    if not newline and lines and lines[-1]:
        data = data[:-1]
    before, domain._BATCH = domain._BATCH, size
    try:
        batches = list(line_batches(whole_lines(pieces_of(data, cuts)), skip))
    finally:
        domain._BATCH = before
    kept, blank, malformed = reference(lines[skip:])
    assert b"".join(batch.data for batch in batches) == b"".join(line + b"\n" for line in kept)
    assert sum(batch.blank for batch in batches) == blank
    assert [one.line - skip for batch in batches for one in batch.malformed] == malformed
    account = Account()
    for batch in batches:
        account = account.add(batch, "source")
    account.close()
    texts = [json.loads(line).get("text") for line in kept]
    lengths = [len(text) for text in texts if isinstance(text, str)]
    assert (account.rows, account.characters, account.without_text) == (
        len(kept),
        sum(lengths),
        len(kept) - len(lengths),
    )
    assert sum(account.histogram.values()) + account.empty == len(lengths)
    assert all(bin_edge(place) <= max(lengths) for place in account.histogram)
    assert list(account.first) == [line.decode() for line in kept[:FIRST_ROWS]]
    assert Account.from_dict(orjson.loads(orjson.dumps(account.to_dict()))) == account


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(GOOD, BAD), min_size=1, max_size=20), st.data())
def test_a_batch_cut_in_two_is_the_batch(lines: list[bytes], data: st.DataObject) -> None:
    """Rows, lines, blanks and malformed ones of both halves; the first ends right behind its last row."""
    whole = examine(b"".join(line + b"\n" for line in lines), 100)
    if not whole.rows:
        return
    head, rest = whole.cut(data.draw(st.integers(1, whole.rows)))
    assert head.data + rest.data == whole.data and head.lengths + rest.lengths == whole.lengths
    assert (head.first, head.end, rest.end) == (100, rest.first, whole.end)
    assert head.blank + rest.blank == whole.blank and head.malformed + rest.malformed == whole.malformed
    for half in (head, rest):
        assert half.end - half.first == half.rows + half.blank + len(half.malformed)
    last = head.numbers[-1] if head.numbers is not None else head.end - 1
    assert head.end == last + 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=3000), max_size=4), st.lists(st.integers(0, 9000), max_size=8))
def test_streams_of_several_members_come_out_whole(parts: list[bytes], cuts: list[int]) -> None:
    """gzip with zero padding behind it, zstd, plain."""
    plain = b"".join(parts)
    packed = {
        "json.gz": b"".join(gzip.compress(part) for part in parts) + (b"\0" * 7 if parts else b""),
        "json.zst": b"".join(zstandard.ZstdCompressor().compress(part) for part in parts),
        "json": plain,
    }
    for kind, data in packed.items():
        assert b"".join(decoded(pieces_of(data, cuts), kind, "x")) == plain  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["json.gz", "json.zst"])
@pytest.mark.parametrize("harm", ["cut", "flipped", "garbage behind", "not it at all"])
def test_a_damaged_stream_is_an_error_that_names_it(kind: str, harm: str) -> None:
    """Never a shorter file."""
    text = b"".join(b'{"text":"%d"}\n' % number for number in range(50_000))
    data = bytearray(
        gzip.compress(text) if kind == "json.gz" else zstandard.ZstdCompressor(write_checksum=True).compress(text)
    )
    if harm == "cut":
        del data[-9:]
    elif harm == "flipped":
        data[len(data) // 2] ^= 0x10
    elif harm == "garbage behind":
        data += b"garbage that is no frame"
    else:
        data = bytearray(b"hello, this is plain text\n")
    with pytest.raises(DataError, match=r"^some/path: the (gzip|zstd) stream is damaged"):
        b"".join(decoded([bytes(data)], kind, "some/path"))  # type: ignore[arg-type]


def test_what_expands_a_thousandfold_comes_in_small_pieces() -> None:
    """A gzip bomb costs no memory."""
    sizes = [len(piece) for piece in decoded([gzip.compress(bytes(100_000_000))], "json.gz", "x")]
    assert sum(sizes) == 100_000_000 and max(sizes) <= 1 << 20


def test_an_account_that_does_not_close_is_a_failure() -> None:
    with pytest.raises(IntegrityError, match="3 lines read, 1 rows"):
        Account(lines=3, rows=1, malformed=1).close()


def test_accounts_of_two_halves_are_the_account_of_the_whole() -> None:
    lines = [orjson.dumps({"text": "x" * number}) + b"\n" for number in range(9)]
    halves = [Account().add(examine(b"".join(part), 0), "s") for part in (lines[:4], lines[4:])]
    assert halves[0].merge(halves[1]) == Account().add(examine(b"".join(lines), 0), "s")
    assert Batch(0, 0, b"", []).rows == 0
