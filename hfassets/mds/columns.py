"""The column encodings of MDS that are used here: text, integers and arrays of numbers.

Invariant: what `encode` gives is what mosaicml-streaming 0.13 writes for the same value. Source of the format:
streaming/base/format/mds/encodings.py there, and the shards it writes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hfassets.errors import DataError

# Codes of a column that tells its dtype in each value.
_DTYPES = {
    "uint8": 8,
    "int8": 9,
    "uint16": 16,
    "int16": 17,
    "float16": 18,
    "uint32": 32,
    "int32": 33,
    "float32": 34,
    "uint64": 64,
    "int64": 65,
    "float64": 66,
}
_BY_CODE = {code: name for name, code in _DTYPES.items()}
_ARRAY = re.compile(rf"ndarray(?::({'|'.join(_DTYPES)})(?::([1-9]\d*(?:,[1-9]\d*)*))?)?$")
_SCALARS = {"int": "int64", **{name: name for name in _DTYPES}}
_TEXTS = ("str", "bytes", "json")


@dataclass(frozen=True, slots=True)
class Column:
    """An encoding. `size`: bytes of each value, None when it varies; `dtype`, `shape`: of an array, None = any."""

    encoding: str
    size: int | None
    dtype: str | None = None
    shape: tuple[int, ...] | None = None

    @property
    def is_array(self) -> bool:
        """Whether values are arrays."""
        return self.encoding.startswith("ndarray")

    def encode(self, value: Any) -> bytes:
        """The bytes of a value; raises DataError for one that does not fit."""
        if self.encoding == "str" and isinstance(value, str):
            return value.encode()
        if self.encoding == "bytes" and isinstance(value, bytes):
            return value
        if self.encoding == "int" and isinstance(value, int) and not isinstance(value, bool):
            try:
                return value.to_bytes(8, "little", signed=True)
            except OverflowError:
                raise DataError(f"{value} does not fit into a column of 64 bits") from None
        if self.is_array and isinstance(value, np.ndarray):
            return b"".join((self.array_head(value.shape, value.dtype.name), value.tobytes()))
        raise DataError(f"a {type(value).__name__} does not fit into a column of {self.encoding}")

    def array_head(self, shape: tuple[int, ...], dtype: str) -> bytes:
        """What stands before an array's numbers; raises DataError for an array that the column does not take."""
        if dtype not in _DTYPES or self.dtype not in (None, dtype):
            raise DataError(f"an array of {dtype} does not fit into a column of {self.encoding}")
        if not shape or min(shape) < 1:
            raise DataError("MDS has no arrays without numbers in them")
        head = b"" if self.dtype is not None else bytes([_DTYPES[dtype]])
        if self.shape is not None:
            if shape != self.shape:
                raise DataError(f"an array of shape {shape} does not fit into a column of {self.encoding}")
            return head
        width = next(power for power in range(4) if max(shape) < 1 << (8 << power))
        return head + bytes([len(shape) << 2 | width]) + b"".join(one.to_bytes(1 << width, "little") for one in shape)

    def decode(self, data: bytes) -> Any:
        """The value of bytes; arrays are views of them. Raises DataError for an encoding that is not read here."""
        if self.encoding == "str":
            return data.decode()
        if self.encoding == "bytes":
            return data
        if self.encoding == "json":
            import orjson

            return orjson.loads(data)
        if self.encoding in _SCALARS:
            return np.frombuffer(data, np.dtype(_SCALARS[self.encoding])).item()
        if self.is_array:
            dtype, shape, start = self.array_layout(data)
            return np.frombuffer(data, np.dtype(dtype), offset=start).reshape(shape)
        raise DataError(f"columns of {self.encoding} are not read here")

    def array_layout(self, data: bytes | memoryview) -> tuple[str, tuple[int, ...], int]:
        """Dtype, shape and where the numbers begin."""
        place = 0
        dtype = self.dtype
        if dtype is None:
            dtype, place = _BY_CODE[data[0]], 1
        if self.shape is not None:
            return dtype, self.shape, place
        dims, width = data[place] >> 2, 1 << (data[place] & 3)
        shape = tuple(
            int.from_bytes(data[start : start + width], "little")
            for start in range(place + 1, place + 1 + dims * width, width)
        )
        return dtype, shape, place + 1 + dims * width


def column(encoding: str) -> Column:
    """The column of an encoding's name, as in `ndarray:uint16`; raises DataError for one that is not known here."""
    if encoding in _TEXTS:
        return Column(encoding, None)
    if encoding in _SCALARS:
        return Column(encoding, np.dtype(_SCALARS[encoding]).itemsize)
    found = _ARRAY.match(encoding)
    if found is None:
        raise DataError(f"columns of {encoding!r} are not known here; there are str, int and ndarray[:dtype[:shape]]")
    dtype, dims = found.groups()
    shape = None if dims is None else tuple(int(one) for one in dims.split(","))
    size = None if shape is None or dtype is None else int(np.prod(shape)) * np.dtype(dtype).itemsize
    return Column(encoding, size, dtype, shape)


def encoded_ints(values: Sequence[int] | Any) -> list[bytes]:
    """The values of an `int` column, from whole numbers."""
    data = np.ascontiguousarray(values, dtype="<i8").tobytes()
    return [data[start : start + 8] for start in range(0, len(data), 8)]
