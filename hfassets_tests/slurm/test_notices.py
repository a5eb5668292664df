"""Notices of failed runs reach the file and the webhook, or their sensor's tick fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import orjson
import pytest

from hfassets.slurm.errors import SlurmError
from hfassets.slurm.notices import Notice, post_notice, write_notice

pytestmark = pytest.mark.unit

NOTICE = Notice(
    "0d5c8a1e-1111", "__ASSET_JOB", "FAILURE", "TIMEOUT: it reached\nmore", ("prepared_dataset",), "a:b", "7", "now"
)


@pytest.fixture
def hook() -> Iterator[HTTPServer]:
    """A server that keeps what it is sent and answers with `status`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.received.append(orjson.loads(body))  # type: ignore[attr-defined]
            self.send_response(self.server.status)  # type: ignore[attr-defined]
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.received, server.status = [], 200  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_notice_is_one_line_for_people_and_one_object_a_line_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "notices.jsonl"
    write_notice(NOTICE, file)
    write_notice(NOTICE, file)
    first, second = map(orjson.loads, file.read_text().splitlines())
    assert first == second
    text = "prepared_dataset [a:b] failed in run 0d5c8a1e (SLURM job 7): TIMEOUT: it reached"
    assert (first["text"], first["run_id"]) == (text, "0d5c8a1e-1111")


def test_a_webhook_gets_the_same(hook: HTTPServer) -> None:
    post_notice(NOTICE, f"http://127.0.0.1:{hook.server_port}/T0123")
    (received,) = hook.received  # type: ignore[attr-defined]
    assert received["text"] == NOTICE.line and received["slurm_job"] == "7"


def test_what_cannot_be_delivered_is_an_error_that_does_not_show_the_address(hook: HTTPServer, tmp_path: Path) -> None:
    hook.status = 500  # type: ignore[attr-defined]
    with pytest.raises(SlurmError, match="answered 500") as raised:
        post_notice(NOTICE, f"http://127.0.0.1:{hook.server_port}/T0123")
    assert "T0123" not in str(raised.value)
    with pytest.raises(SlurmError, match="does not answer") as raised:
        post_notice(NOTICE, "http://127.0.0.1:1/T0123")
    assert "T0123" not in str(raised.value)
    (tmp_path / "file").touch()
    with pytest.raises(SlurmError, match="cannot be written"):
        write_notice(NOTICE, tmp_path / "file" / "notices")
