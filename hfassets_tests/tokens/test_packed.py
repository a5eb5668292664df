"""Packed rows against a slow, plain way of making them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfassets.errors import DataError
from hfassets.tokens import read_packed
from hfassets.tokens.chunking import Specials, chunked
from hfassets.tokens.loss_mask import spread
from hfassets.tokens.packed import (
    IGNORED,
    METADATA,
    PackRule,
    rows_per_file,
    schema,
    tables,
    with_bos,
    write_files,
)
from hfassets.tokens.ragged import Ragged
from hfassets.tokens.vocabulary import Vocabulary

EOS, BOS, PAD = 1, 2, 3
WORDS = Vocabulary.of({f"t{number}": number for number in range(64)})
documents = st.lists(st.lists(st.integers(4, 60), max_size=30), max_size=12)


def _rows(texts: list[list[int]], rule: PackRule) -> tuple[Any, list[bytes]]:
    tokens = with_bos(Ragged.of(texts, "uint16"), rule.bos)
    return chunked(tokens, rule.chunks, Specials(eos=EOS)), [f"d{n}".encode() for n in range(len(texts))]


@given(documents, st.sampled_from([1, 2, 7, 16]), st.booleans(), st.sampled_from([None, BOS]))
def test_joined_rows_are_those_of_a_plain_loop(
    texts: list[list[int]], size: int, shifted: bool, bos: int | None
) -> None:
    """All documents one after the other, an end behind each, cut; the last row padded."""
    rule = PackRule(size, "concat", shifted, bos, PAD)
    rows, names = _rows(texts, rule)
    flat = [token for text in texts if text for token in [*([bos] if bos is not None else []), *text, EOS]]
    got = [row for table in tables(rows, names, rule, WORDS) for row in table.to_pylist()]
    assert len(got) == -(-len(flat) // size)
    for number, row in enumerate(got):
        content = flat[number * size : (number + 1) * size]
        padding = size - len(content)
        labels = content[1:] if shifted else content
        assert row["input_ids"] == content + [PAD] * padding
        assert row["attention_mask"] == [1] * len(content) + [0] * padding
        assert row["labels"] == labels + [IGNORED] * (size - len(labels))
        assert sum(span["length"] for span in row["spans"]) == len(content)


@given(documents, st.sampled_from([1, 5, 8, 31, 32]))
def test_packed_rows_have_every_token_once_and_cut_no_short_document(texts: list[list[int]], size: int) -> None:
    """By their spans, documents come back whole; one that fits a row is in one piece."""
    rule = PackRule(size, "best_fit", pad=PAD)
    rows, names = _rows(texts, rule)
    pieces: dict[str, list[tuple[int, list[int]]]] = {}
    for table in tables(rows, names, rule, WORDS):
        for row in table.to_pylist():
            place = 0
            for span in row["spans"]:
                found = row["input_ids"][place : place + span["length"]]
                pieces.setdefault(span["id"], []).append((span["offset"], found))
                place += span["length"]
            assert row["attention_mask"] == [1] * place + [0] * (size - place)
    expected = {f"d{number}": [*text, EOS] for number, text in enumerate(texts) if text}
    assert {name: [one for _, some in sorted(found) for one in some] for name, found in pieces.items()} == expected
    assert all(len(pieces[name]) == 1 for name, text in expected.items() if len(text) <= size)
    assert rows.account.tokens_in + rows.account.eos_added == rows.account.content_written


@pytest.mark.parametrize("size", [1, 7, 1024, 8192, 32768])
def test_files_keep_their_limit_and_their_columns(tmp_path: Path, size: int) -> None:
    """Fixed lists of int32; no file has more rows than its limit has room for; nothing is lost between files."""
    generator = np.random.default_rng(size)
    texts = [generator.integers(4, 60, length).tolist() for length in (3 * size, 10, 5 * size + 1)]
    rule = PackRule(size, "best_fit", pad=PAD)
    rows, names = _rows(texts, rule)
    limit = 3 * 12 * size
    count = write_files(rows, names, rule, WORDS, tmp_path, limit)
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == count == -(-len(rows) // rows_per_file(rule, limit))
    for path in paths:
        assert pq.read_schema(path).equals(schema(rule, WORDS))
        assert pq.read_schema(path).metadata[METADATA] == schema(rule, WORDS).metadata[METADATA]
        assert pq.read_metadata(path).num_rows <= 3
    whole = pa.concat_tables([pq.read_table(path) for path in paths])
    assert whole.to_pylist() == [row for table in tables(rows, names, rule, WORDS) for row in table.to_pylist()]
    for path in paths:
        path.rename(tmp_path / f"shard_{path.stem[1:]}.parquet")
    found = read_packed(tmp_path)
    assert len(found) == len(rows) and found[0]["input_ids"].shape == (size,)


@given(
    st.lists(st.lists(st.tuples(st.integers(4, 60), st.booleans()), max_size=20), max_size=8),
    st.sampled_from([1, 5, 16]),
    st.sampled_from(["concat", "best_fit"]),
    st.booleans(),
    st.sampled_from([None, BOS]),
)
def test_the_mask_stands_where_the_label_does(
    texts: list[list[tuple[int, bool]]], size: int, mode: Any, shifted: bool, bos: int | None
) -> None:
    """0 for labels that are not to be learnt and where there is no label; begin and end tokens are learnt."""
    rule = PackRule(size, mode, shifted, bos, PAD, masked=True)
    # The token tells: odd ones are learnt.
    words = [[token - token % 2 + wanted for token, wanted in text] for text in texts]
    rows, names = _rows(words, rule)
    kept = [text for text in texts if text]
    flags = Ragged.of([[wanted for _, wanted in text] for text in kept], "uint8")
    mask = spread([with_bos(flags, None if bos is None else 1)], _without_empty(rows.tokens))
    for table in tables(rows, names, rule, WORDS, mask):
        for row in table.to_pylist():
            learnt = [token in (EOS, bos) or token % 2 for token in row["labels"]]
            assert row["loss_mask"] == [
                int(label != IGNORED and wanted) for label, wanted in zip(row["labels"], learnt, strict=True)
            ]


def _without_empty(tokens: Ragged) -> Ragged:
    return Ragged(tokens.values, np.unique(tokens.offsets))


def test_a_folder_without_shards_is_told(tmp_path: Path) -> None:
    """By its path."""
    with pytest.raises(DataError, match=r"no shard_\*\.parquet in it"):
        read_packed(tmp_path)
