"""The request log of the sample Hub: what was asked and how many bytes went out, never a token."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any


@dataclass(slots=True)
class LoggedRequest:
    """One request. `path` is the decoded URL path; `file` is `<repo id>/<path in repo>` when it asks for a file.

    `time` is Unix time in s at arrival, `seconds` how long the answer took; `sent` counts body bytes handed to the
    network (a client that goes away has read a little less); `status` 0 = no answer was given.
    """

    method: str
    path: str
    query: str
    bucket: str
    authenticated: bool
    range: str = ""
    file: str = ""
    status: int = 0
    sent: int = 0
    fault: str = ""
    user_agent: str = ""
    time: float = field(default_factory=time.time)
    seconds: float = 0.0
    done: bool = False

    def matches(self, glob: str) -> bool:
        """Whether the URL path or the file matches a glob (`*` crosses slashes)."""
        return fnmatchcase(self.path, glob) or bool(self.file and fnmatchcase(self.file, glob))

    def as_json(self) -> dict[str, Any]:
        """All fields, for GET /_log."""
        return asdict(self)


class RequestLog:
    """All requests since the last reset, in order of arrival."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: list[LoggedRequest] = []

    def add(self, request: LoggedRequest) -> None:
        """Record a request at its arrival; the server keeps updating it."""
        with self._lock:
            self._requests.append(request)

    def all(self) -> list[LoggedRequest]:
        """Copies of all records as they are now, those still being answered included."""
        with self._lock:
            return [replace(request) for request in self._requests]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._requests = []
