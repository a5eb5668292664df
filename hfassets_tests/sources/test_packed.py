"""Row groups that are packed for another process: the rows of the file, with few requests."""

from __future__ import annotations

import io
import pickle
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfassets.sources import packed
from hfassets.sources.packed import GroupPacker


def _file(rows: int, group: int) -> bytes:
    table = pa.table(
        {
            "a": [f"text {number}" for number in range(rows)],
            "b": [number * 7 for number in range(rows)],
            "c": [[number] * (number % 3) for number in range(rows)],
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=group, compression="none")
    return sink.getvalue()


class _Counted:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.requests: list[tuple[int, int]] = []

    def read_at(self, size: int, offset: int) -> bytes:
        self.requests.append((offset, offset + size))
        return self.data[offset : offset + size]


@given(
    st.integers(1, 40), st.integers(1, 9), st.sampled_from([None, ["a"], ["b"], ["a", "b"]]),
    st.sampled_from([1, 200, 1000, 1 << 20]), st.sampled_from([0, 30, 1 << 16]),
)  # fmt: skip
def test_row_groups_give_the_rows_of_the_file(
    rows: int, group: int, columns: list[str] | None, at_one_go: int, gap: int
) -> None:
    """In any columns, whatever is read with one request; nothing is read that no row group needs."""
    data = _file(rows, group)
    file = pq.ParquetFile(io.BytesIO(data))
    counted = _Counted(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "_AT_ONE_GO", at_one_go)
        patch.setattr(packed, "_GAP", gap)
        packer = GroupPacker("x", counted.read_at, len(data), file.metadata, columns)
        found: list[Any] = []
        for number in range(file.num_row_groups):
            one = pickle.loads(pickle.dumps(packer.pack(number, 0)))
            found += [row for some in one.unpacked() for row in some]
    assert found == pq.read_table(io.BytesIO(data), columns=columns).to_pylist()


def test_small_neighbours_are_read_with_one_request() -> None:
    """And the end of the file once."""
    data = _file(60, 2)
    file = pq.ParquetFile(io.BytesIO(data))
    counted = _Counted(data)
    packer = GroupPacker("x", counted.read_at, len(data), file.metadata, None)
    for number in range(3, file.num_row_groups):
        packer.pack(number, 1 if number == 3 else 0)
    assert len(counted.requests) == 2
