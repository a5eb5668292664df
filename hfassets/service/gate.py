"""Who may talk to a web server on TCP: who knows its token. An ASGI application around another one.

Invariant: without the token nothing of the inner application is reached, websockets included. A browser gives it once,
as `?token=…`, and has a cookie from then on, which scripts cannot read and other sites do not send.
"""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode

COOKIE = "hfassets_token"
_REFUSED = b"hfassets: this server wants the token of its owner: open it with ?token=... once (see `hfassets status`)\n"


class TokenGate:
    """Lets through who knows `token`; `name` tells cookies of several servers on one host apart."""

    def __init__(self, inner: Any, token: str, name: str) -> None:
        self._inner = inner
        self._token = token
        self._cookie = f"{COOKIE}_{name}"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One connection."""
        if scope["type"] == "lifespan" or self._known(scope):
            await self._inner(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._answer(scope, send)

    def _known(self, scope: Any) -> bool:
        headers = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        for name, value in headers:
            if name == b"authorization" and self._fits(value.removeprefix("Bearer ")):
                return True
            if name == b"cookie" and self._fits(_cookie(value, self._cookie)):
                return True
        return False

    async def _answer(self, scope: Any, send: Any) -> None:
        """A browser that brought the token is sent to the same page without it, which then is in no history."""
        words = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if not any(name == "token" and self._fits(value) for name, value in words):
            await _respond(send, 401, [(b"content-type", b"text/plain; charset=utf-8")], _REFUSED)
            return
        rest = urlencode([(name, value) for name, value in words if name != "token"])
        # A path that began with two slashes would be another host's.
        path = "/" + scope["path"].lstrip("/\\")
        cookie = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict"
        to = f"{path}?{rest}" if rest else path
        headers = [(b"location", to.encode("latin-1", "replace")), (b"set-cookie", cookie.encode())]
        await _respond(send, 303, [*headers, (b"referrer-policy", b"no-referrer")], b"")

    def _fits(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())


def _cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


async def _respond(send: Any, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
