"""What a web server of a service answers, whether it is on a socket or on TCP."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path
from typing import Any

import orjson

from hfassets.service.state import WebAddress

TIMEOUT = 5.0


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)


def server_info(web: WebAddress) -> dict[str, Any] | None:
    """What `/server_info` says; None when it does not answer, or not to us."""
    headers = {}
    try:
        if web.path:
            connection: http.client.HTTPConnection = _SocketConnection(web.path)
        else:
            connection = http.client.HTTPConnection(web.host, web.port, timeout=TIMEOUT)
            headers["Authorization"] = f"Bearer {Path(web.token).read_text().strip()}"
        connection.request("GET", "/server_info", headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return dict(orjson.loads(body)) if answer.status == http.client.OK else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
