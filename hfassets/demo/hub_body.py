"""Sending a file's bytes, true or with faults, straight from disk: a file is never in memory as a whole.

Reads are done in the event loop on purpose: from the page cache 1 MiB takes less time than a hop to a thread.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from starlette.types import Send

from hfassets.demo.hub_faults import Fault
from hfassets.demo.hub_log import LoggedRequest
from hfassets.demo.hub_store import StoredFile

CHUNK = 1 << 20

_RANGE = re.compile(r"^bytes=(\d*)-(\d*)$")


@dataclass(slots=True)
class FileBody:
    """An answer that carries the bytes [start, stop) of a file; `status_code` 416 carries none."""

    file: StoredFile
    headers: dict[str, str] = field(repr=False)
    status_code: int
    start: int
    stop: int

    def __post_init__(self) -> None:
        if self.status_code == 416:
            self.headers["Content-Range"] = f"bytes */{self.file.size}"
        else:
            self.headers["Content-Length"] = str(self.stop - self.start)
        if self.status_code == 206:
            self.headers["Content-Range"] = f"bytes {self.start}-{self.stop - 1}/{self.file.size}"
        self.headers.setdefault("Content-Type", "application/octet-stream")


def parse_range(header: str, size: int) -> tuple[int, int, int]:
    """Status, start and stop for a Range header (RFC 9110, section 14): closed, open and suffix ranges.

    What is not one range of bytes is ignored, as the RFC allows; a start at or past the end is 416.
    """
    match = _RANGE.match(header.strip())
    if not match or match.group(1) == match.group(2) == "":
        return 200, 0, size
    first, last = match.groups()
    if not first:
        length = int(last)
        return (206, max(0, size - length), size) if length and size else (416, 0, 0)
    start = int(first)
    stop = min(size, int(last) + 1) if last else size
    if start >= size:
        return 416, 0, 0
    return (206, start, stop) if start < stop else (200, 0, size)


async def send_file(
    answer: FileBody,
    faults: Sequence[Fault],
    record: LoggedRequest,
    transport: asyncio.Transport | None,
    unchanged: Callable[[], bool],
    send: Send,
) -> None:
    """Send headers and bytes; counts in `record.sent` what was handed to the network.

    `unchanged` says whether the faults are still those that hit: a body that hangs waits no longer than that.
    """
    by_kind = {fault.kind: fault for fault in faults}
    if "ignore-range" in by_kind:
        answer.headers.pop("Content-Range", None)
        answer = FileBody(answer.file, answer.headers, 200, 0, answer.file.size)
        record.status = 200
    cut, hang, slow = by_kind.get("cut"), by_kind.get("hang"), by_kind.get("slow")
    end = answer.stop
    for stopper in (cut, hang):
        if stopper is not None:
            end = min(end, answer.start + max(0, stopper.after))
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
    await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
    chunk = CHUNK if slow is None else max(1, min(CHUNK, int(slow.rate / 20)))
    descriptor = os.open(answer.file.source, os.O_RDONLY)
    try:
        position, began = answer.start, time.monotonic()
        while position < end:
            if transport is not None and transport.is_closing():
                break
            data = os.pread(descriptor, min(chunk, end - position), position)
            if not data:
                break
            data = _flipped(data, position, answer.file.size, by_kind.get("flip"))
            position += len(data)
            await send({"type": "http.response.body", "body": data, "more_body": position < answer.stop})
            record.sent = position - answer.start
            if slow is not None:
                await asyncio.sleep(max(0.0, began + record.sent / slow.rate - time.monotonic()))
    finally:
        os.close(descriptor)
    if answer.start == answer.stop:
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    while hang is not None and unchanged() and transport is not None and not transport.is_closing():
        await asyncio.sleep(0.02)
    if cut is not None and cut.reset and transport is not None:
        transport.abort()
    # Returning short of Content-Length makes the server close the connection behind what was sent.


def _flipped(data: bytes, position: int, size: int, fault: Fault | None) -> bytes:
    if fault is None:
        return data
    index = (fault.offset if fault.offset >= 0 else size + fault.offset) - position
    if not 0 <= index < len(data):
        return data
    return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]
