"""Large buffers of messages between two processes, laid into memory that both have.

Invariant: a buffer is as it was sent until so many more messages came the same way; the memory is nobody's file and
goes with its processes, however they end.
"""

from __future__ import annotations

import mmap
import os
import pickle
from collections.abc import Sequence
from itertools import cycle
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

_ALIGNED = 64
_LEAST = 1 << 20


class Arena:
    """Memory behind a descriptor as `create` gives it, for one direction."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._memory: mmap.mmap | None = None

    @staticmethod
    def create() -> int:
        """A descriptor, to be handed to the other process."""
        return os.memfd_create("hfassets-parts")

    def put(self, buffers: Sequence[memoryview]) -> list[int]:
        """Lay them down; their sizes, in bytes, is what the other side needs to find them."""
        sizes = [buffer.nbytes for buffer in buffers]
        places, end = _places(sizes)
        if os.fstat(self._descriptor).st_size < end:
            os.ftruncate(self._descriptor, max(end, _LEAST))
        memory = np.frombuffer(self._mapped(end), np.uint8) if end else None
        for place, buffer in zip(places, buffers, strict=True):
            if memory is not None:
                memory[place : place + buffer.nbytes] = np.frombuffer(buffer, np.uint8)
        return sizes

    def get(self, sizes: Sequence[int]) -> list[memoryview]:
        """What the other side laid down."""
        places, end = _places(sizes)
        view = memoryview(self._mapped(end) if end else b"")
        return [view[place : place + size] for place, size in zip(places, sizes, strict=True)]

    def _mapped(self, end: int) -> mmap.mmap:
        if self._memory is None or len(self._memory) < end:
            # What still looks at the former one keeps it; it is the same memory.
            self._memory = mmap.mmap(self._descriptor, os.fstat(self._descriptor).st_size)
        return self._memory


def _places(sizes: Sequence[int]) -> tuple[list[int], int]:
    places, end = [], 0
    for size in sizes:
        places.append(end)
        end += -(-size // _ALIGNED) * _ALIGNED
    return places, end


class Line:
    """A connection to another process, with arenas for each direction that take turns."""

    def __init__(self, connection: Connection, outgoing: Sequence[int], incoming: Sequence[int]) -> None:
        self._connection = connection
        self._outgoing = cycle([Arena(one) for one in outgoing])
        self._incoming = cycle([Arena(one) for one in incoming])

    def send(self, message: object) -> None:
        """Send what can be pickled; arrays and `pickle.PickleBuffer` go by an arena."""
        buffers: list[pickle.PickleBuffer] = []
        body = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
        sizes = next(self._outgoing).put([buffer.raw() for buffer in buffers])
        self._connection.send((sizes, body))

    def receive(self) -> Any:
        """The next message. Its arrays may be changed, and are good for as many messages as there are arenas.

        Raises EOFError when nobody is at the other end.
        """
        sizes, body = self._connection.recv()
        buffers = next(self._incoming).get(sizes)
        return pickle.loads(body, buffers=buffers)  # noqa: S301 - from a process of our own, over a socket that has no name

    def close(self) -> None:
        """Hang up."""
        self._connection.close()
