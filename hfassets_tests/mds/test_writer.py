"""Shards and index: byte for byte those of MDSWriter, and read back by the unmodified StreamingDataset."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfassets.errors import DataError, IntegrityError, UsageError
from hfassets.mds.index import read_index
from hfassets.mds.reader import MdsReader
from hfassets.mds.writer import MdsWriter

DTYPES = ["uint8", "uint16", "int32", "uint32", "float32", "int64"]


def _values(encoding: str) -> st.SearchStrategy[Any]:
    if encoding == "str":
        return st.text(max_size=30)
    if encoding == "int":
        return st.integers(-(2**63), 2**63 - 1)
    name, _, rest = encoding.partition(":")
    assert name == "ndarray"
    dtype, _, shape = rest.partition(":")
    dims = st.just(tuple(map(int, shape.split(",")))) if shape else st.tuples(st.sampled_from([1, 2, 255, 256, 300]))

    def made(given: tuple[tuple[int, ...], int, str]) -> Any:
        size, seed, kind = given
        return np.random.default_rng(seed).integers(0, 100, size).astype(kind)

    kinds = st.just(dtype) if dtype else st.sampled_from(DTYPES)
    return st.tuples(dims, st.integers(0, 9), kinds).map(made)


encodings = st.sampled_from(["str", "int", "ndarray", "ndarray:uint16", "ndarray:uint32", "ndarray:uint16:4,2"])
schemas = st.dictionaries(st.text("abcz_", min_size=1, max_size=3), encodings, min_size=1, max_size=4)


@settings(max_examples=60)
@given(
    st.data(),
    schemas,
    st.sampled_from([None, "zstd", "zstd:7"]),
    st.sampled_from([[], ["sha1"], ["sha256", "xxh3_64"]]),
    st.sampled_from([None, 400, 2_000, 1 << 26]),
)
def test_shards_and_index_are_those_of_mdswriter(
    streaming: Any, data: Any, schema: dict[str, str], compression: Any, hashes: list[str], limit: Any
) -> None:
    """Any schema, any sizes, with and without zstd and hashes; samples larger than a shard too."""
    row = st.fixed_dictionaries({name: _values(encoding) for name, encoding in schema.items()})
    rows = data.draw(st.lists(row, min_size=1, max_size=25))
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder, "ours"), Path(folder, "theirs")
        with MdsWriter(ours, schema, compression, hashes, limit) as writer:
            for one in rows:
                writer.write(one)
        with streaming.MDSWriter(
            columns=schema, out=str(theirs), compression=compression, hashes=hashes, size_limit=limit
        ) as writer:
            for one in rows:
                writer.write(one)
        assert _tree(ours) == _tree(theirs)
        found = list(MdsReader(ours))
        assert len(found) == len(rows)
        for one, expected in zip(found, rows, strict=True):
            assert one.keys() == expected.keys()
            assert all(_equal(one[name], expected[name]) for name in one)
        block = data.draw(st.integers(1, len(rows)))
        blockwise = Path(folder, "blockwise")
        with MdsWriter(blockwise, schema, compression, hashes, limit) as writer:
            columns = writer._names, writer._columns
            for start in range(0, len(rows), block):
                some = rows[start : start + block]
                writer.write_encoded(
                    {name: [one.encode(row[name]) for row in some] for name, one in zip(*columns, strict=True)}
                )
        assert _tree(blockwise) == _tree(ours)


def _tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _equal(one: Any, other: Any) -> bool:
    if isinstance(other, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and bool((one == other).all())
    return bool(one == other)


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_streaming_dataset_reads_it(streaming: Any, tmp_path: Path, compression: str | None) -> None:
    """In order and shuffled, hashes checked by the library itself."""
    rows = [{"id": f"d{number}", "ids": np.arange(number % 7 + 1, dtype=np.uint16)} for number in range(500)]
    columns = {"id": "str", "ids": "ndarray:uint16"}
    with MdsWriter(tmp_path / "a", columns, compression, ["sha1"], size_limit=3000) as writer:
        for one in rows:
            writer.write(one)
    assert len(read_index(tmp_path / "a")) > 3
    for shuffle in (False, True):
        local = str(tmp_path / f"copy{shuffle}")
        found = streaming.StreamingDataset(
            remote=str(tmp_path / "a"), local=local, shuffle=shuffle, batch_size=1, validate_hash="sha1"
        )
        names = [one["id"] for one in found]
        assert sorted(names) == sorted(one["id"] for one in rows)
        assert (names == [one["id"] for one in rows]) is not shuffle


def test_a_body_that_fails_leaves_no_index(tmp_path: Path) -> None:
    """What is not finished does not look finished."""
    with pytest.raises(RuntimeError), MdsWriter(tmp_path / "a", {"x": "int"}, size_limit=100) as writer:
        for number in range(50):
            writer.write({"x": number})
        raise RuntimeError
    assert not (tmp_path / "a/index.json").exists()
    with pytest.raises(DataError, match=r"no index\.json, so no finished MDS"):
        MdsReader(tmp_path / "a")


@pytest.mark.parametrize(
    ("columns", "sample", "message"),
    [
        ({"x": "int"}, {"x": "1"}, "a str does not fit into a column of int"),
        ({"x": "int"}, {"x": 2**63}, "64 bits"),
        ({"x": "ndarray:uint16"}, {"x": np.zeros(2, np.uint32)}, "an array of uint32 does not fit"),
        ({"x": "ndarray:uint16"}, {"x": np.zeros(0, np.uint16)}, "without numbers"),
        ({"x": "ndarray:uint16:3"}, {"x": np.zeros(2, np.uint16)}, r"shape \(2,\)"),
        ({"x": "image"}, {"x": 1}, "columns of 'image' are not known here"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, columns: Any, sample: Any, message: str) -> None:
    """One line that names the value's kind and the column's."""
    with pytest.raises(DataError, match=message), MdsWriter(tmp_path / "a", columns) as writer:
        writer.write(sample)


def test_nothing_is_written_over_or_without_samples(tmp_path: Path) -> None:
    """A folder with files is refused, and so is an MDS that no reader takes."""
    with pytest.raises(DataError, match="without samples"), MdsWriter(tmp_path / "a", {"x": "int"}):
        pass
    (tmp_path / "a/x").touch()
    with pytest.raises(DataError, match="is not empty"):
        MdsWriter(tmp_path / "a", {"x": "int"})
    with pytest.raises(UsageError, match="zstd:1 to zstd:22"):
        MdsWriter(tmp_path / "b", {"x": "int"}, "zstd:23")
    with pytest.raises(UsageError, match="no hash 'md55'"):
        MdsWriter(tmp_path / "b", {"x": "int"}, None, ["md55"])


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_shard_is_not_read(tmp_path: Path, compression: str | None, damage: str) -> None:
    """Its name is said; nothing of it is taken."""
    with MdsWriter(tmp_path / "a", {"x": "int"}, compression, ["xxh3_64"]) as writer:
        for number in range(500):
            writer.write({"x": number})
    path = next(one for one in (tmp_path / "a").iterdir() if one.name != "index.json")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "flip":
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[:-3])
    else:
        path.unlink()
    with pytest.raises(IntegrityError, match=r"shard\.00000\.mds"):
        MdsReader(tmp_path / "a")[0]


def test_random_access_is_the_order_of_writing(tmp_path: Path) -> None:
    """Any place, from the end, slices; beyond them IndexError."""
    with MdsWriter(tmp_path / "a", {"x": "int"}, size_limit=300) as writer:
        for number in range(100):
            writer.write({"x": number})
    reader = MdsReader(tmp_path / "a")
    assert [reader[place]["x"] for place in (0, 57, 99, -1, -100)] == [0, 57, 99, 99, 0]
    assert [one["x"] for one in reader[10:50:13]] == [10, 23, 36, 49]
    with pytest.raises(IndexError, match="sample 100 of 100"):
        reader[100]
