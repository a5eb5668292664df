"""Large buffers of messages between two processes, laid into memory that both have.

Invariant: a buffer is as it was sent until so many more messages came the same way; the memory is nobody's file and
goes with its processes, however they end.
"""

from __future__ import annotations

import mmap
import os
import pickle
from collections import deque
from collections.abc import Callable, Sequence
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
        memory = self.room(end)
        for place, buffer in zip(places, buffers, strict=True):
            given = np.frombuffer(buffer, np.uint8)
            if place or not np.may_share_memory(given, memory):
                memory[place : place + buffer.nbytes] = given
        return sizes

    def room(self, size: int) -> Any:
        """So many bytes from its beginning on, as uint8; what lies there already stays."""
        if not size:
            return np.zeros(0, np.uint8)
        if os.fstat(self._descriptor).st_size < size:
            os.ftruncate(self._descriptor, max(size, _LEAST, 3 * os.fstat(self._descriptor).st_size // 2))
        return np.frombuffer(self._mapped(size), np.uint8)[:size]

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


class GrowingArray:
    """Bytes that are written one piece after the other. `room`: gives memory of at least a size, with what it held."""

    def __init__(self, room: Callable[[int], Any]) -> None:
        self._room = room
        self._memory: Any = np.zeros(0, np.uint8)
        self._size = 0

    def write(self, data: bytes) -> None:
        """Append."""
        end = self._size + len(data)
        if len(self._memory) < end:
            self._memory = self._room(max(end, 2 * len(self._memory), _LEAST))
        self._memory[self._size : end] = np.frombuffer(data, np.uint8)
        self._size = end

    def taken(self) -> Any:
        """All that was written, as uint8."""
        return self._memory[: self._size]


_answering: Line | None = None


def answering(line: Line) -> None:
    """From now on this process makes what it sends by this line."""
    global _answering
    _answering = line


def growing() -> GrowingArray:
    """For the first array of a call's result: where calls are answered, it need not be copied to be sent."""
    return GrowingArray(_apart()) if _answering is None else _answering.growing()


def _apart() -> Callable[[int], Any]:
    held = np.zeros(0, np.uint8)

    def room(size: int) -> Any:
        nonlocal held
        larger = np.zeros(size, np.uint8)
        larger[: len(held)] = held
        held = larger
        return held

    return room


class Line:
    """A connection to another process, with arenas for each direction that take turns."""

    def __init__(self, connection: Connection, outgoing: Sequence[int], incoming: Sequence[int]) -> None:
        self._connection = connection
        self._outgoing = deque(Arena(one) for one in outgoing)
        self._incoming = deque(Arena(one) for one in incoming)

    def send(self, message: object) -> None:
        """Send what can be pickled; arrays and `pickle.PickleBuffer` go by an arena."""
        buffers: list[pickle.PickleBuffer] = []
        body = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
        sizes = self._outgoing[0].put([buffer.raw() for buffer in buffers])
        self._outgoing.rotate(-1)
        self._connection.send((sizes, body))

    def receive(self) -> Any:
        """The next message. Its arrays may be changed, and are good for as many messages as there are arenas.

        Raises EOFError when nobody is at the other end.
        """
        sizes, body = self._connection.recv()
        buffers = self._incoming[0].get(sizes)
        self._incoming.rotate(-1)
        return pickle.loads(body, buffers=buffers)  # noqa: S301 - from a process of our own, over a socket that has no name

    def growing(self) -> GrowingArray:
        """Bytes that lie already where the next message has its first array."""
        return GrowingArray(self._outgoing[0].room)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()
