"""Who is let through to a web server on TCP."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hfassets.service.gate import TokenGate

TOKEN = "correct-horse"


def ask(kind: str = "http", path: str = "/runs", query: str = "", **headers: str) -> list[dict[str, Any]]:
    """What one connection gets; the application behind the gate answers 200, or takes a websocket."""
    sent: list[dict[str, Any]] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        accepted = (
            {"type": "websocket.accept"} if kind == "websocket" else {"type": "http.response.start", "status": 200}
        )
        await send(accepted)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": f"{kind}.connect"}

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "path": path, "query_string": query.encode(), "headers": raw}
    asyncio.run(TokenGate(inner, TOKEN, "web")(scope, receive, send))
    return sent


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"cookie": "hfassets_token_web=wrong"},
        {"cookie": f"hfassets_token_other={TOKEN}"},
        {"cookie": "=;;\x7f"},
        {"authorization": ""},
    ],
)
def test_without_the_token_nothing_is_reached(headers: dict[str, str]) -> None:
    """Neither pages nor websockets; the answer says what is missing and does not say the token."""
    answer = ask(**headers)
    assert answer[0]["status"] == 401 and TOKEN.encode() not in answer[1]["body"]
    assert ask("websocket", **headers) == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize(
    "headers", [{"authorization": f"Bearer {TOKEN}"}, {"cookie": f"a=b; hfassets_token_web={TOKEN}"}]
)
def test_who_knows_the_token_is_let_through(headers: dict[str, str]) -> None:
    """By header or cookie."""
    assert ask(**headers)[0]["status"] == 200
    assert ask("websocket", **headers)[0]["type"] == "websocket.accept"


@pytest.mark.parametrize("path", ["/runs", "//evil.example/runs", "/\\evil.example"])
def test_a_link_with_the_token_is_exchanged_for_a_cookie(path: str) -> None:
    """Then the token is in the address no more; it leads to no other host."""
    answer = dict(ask(path=path, query=f"a=1&token={TOKEN}")[0]["headers"])
    location = answer[b"location"].decode()
    assert location.startswith("/") and location[1] not in "/\\" and location.endswith("?a=1")
    cookie = answer[b"set-cookie"].decode()
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert ask(cookie=cookie.partition(";")[0])[0]["status"] == 200
