"""Each kind of fault, as a plain HTTP client sees it, and the request log."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import time
from email.utils import parsedate_to_datetime

import pytest
import requests

from hfassets.demo.hub_faults import Fault, fault_from_json
from hfassets.demo.hub_server import SampleHub

pytestmark = pytest.mark.hub

CONTENT = bytes(range(256)) * 4000


@pytest.fixture
def session():
    """A client without retries."""
    with requests.Session() as client:
        yield client


@pytest.fixture
def url(sample_hub):
    """A file of 1,024,000 bytes, answered without a redirect."""
    sample_hub.add_repo("some/file", {"a.bin": CONTENT, "b.txt": "b"}, redirect=False)
    return f"{sample_hub.url}/datasets/some/file/resolve/main/a.bin"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_every_third_request_gets_the_status(sample_hub, session, url, status):
    """The third and the sixth matching request are refused, others are not, and the body tells it as JSON."""
    sample_hub.set_faults(Fault("status", every=3, status=status, method="GET", path="*/a.bin"))
    session.get(url.replace("a.bin", "b.txt"))
    answers = [session.get(url) for _ in range(7)]
    assert [answer.status_code for answer in answers] == [200, 200, status, 200, 200, status, 200]
    assert "error" in answers[2].json()
    assert session.head(url).status_code == 200
    assert sample_hub.fault_hits == [2]
    assert [request.fault for request in sample_hub.requests].count("status") == 2


def test_each_way_to_tell_the_wait(sample_hub, session, url):
    """A 429 tells its wait in seconds, as a date, by the RateLimit headers, or not at all; never in two ways."""
    seen = {}
    for header in ("retry-after", "retry-after-date", "ratelimit", "none"):
        sample_hub.set_faults(Fault("status", status=429, header=header, wait=7))
        seen[header] = session.get(url).headers
    assert seen["retry-after"]["Retry-After"] == "7"
    date = parsedate_to_datetime(seen["retry-after-date"]["Retry-After"])
    assert 4 < date.timestamp() - time.time() <= 8
    assert seen["ratelimit"]["RateLimit"] == '"resolvers";r=0;t=7'
    assert seen["ratelimit"]["RateLimit-Policy"] == '"fixed window";"resolvers";q=500;w=300'
    for name in ("retry-after", "retry-after-date", "none"):
        assert "RateLimit" not in seen[name]
    for name in ("ratelimit", "none"):
        assert "Retry-After" not in seen[name]


def test_buckets_and_their_headers(sample_hub, session, url):
    """Answers tell the standing in their own bucket; a rule can name the bucket it hits."""
    sample_hub.set_faults(Fault("status", status=503, bucket="api"))
    assert session.get(f"{sample_hub.url}/api/datasets/some/file").status_code == 503
    answer = session.head(url)
    assert answer.headers["RateLimit"].startswith('"resolvers";r=')
    assert session.get(f"{sample_hub.url}/docs/hub").headers["RateLimit"].startswith('"pages";r=')


@pytest.mark.parametrize("reset", [False, True])
def test_cut_ends_the_connection_short(sample_hub, session, url, reset):
    """Every second body ends after so many bytes though Content-Length promised more, by FIN or by RST."""
    sample_hub.set_faults(Fault("cut", every=2, after=1000, reset=reset))
    assert session.get(url).content == CONTENT
    assert session.head(url).headers["Content-Length"] == str(len(CONTENT))
    with session.get(url, stream=True) as answer:
        assert answer.headers["Content-Length"] == str(len(CONTENT))
        with pytest.raises(requests.exceptions.ChunkedEncodingError if not reset else requests.RequestException):
            b"".join(answer.iter_content(100))
    assert session.get(url).content == CONTENT
    assert [request.sent for request in sample_hub.requests if request.fault == "cut"] == [1000]


@pytest.mark.parametrize("offset", [0, 500_000, -1])
def test_flip_changes_one_bit(sample_hub, session, url, offset):
    """One bit is wrong at the place asked for, in the whole file and in a range over it; the ETag stays true."""
    sample_hub.set_faults(Fault("flip", offset=offset, times=2))
    answer = session.get(url)
    place = offset % len(CONTENT)
    assert answer.content[place] == CONTENT[place] ^ 1
    assert answer.content[:place] + answer.content[place + 1 :] == CONTENT[:place] + CONTENT[place + 1 :]
    assert answer.headers["ETag"].strip('"') == hashlib.sha256(CONTENT).hexdigest()
    ranged = session.get(url, headers={"Range": f"bytes={place}-{place}"})
    assert (ranged.status_code, ranged.content) == (206, bytes([CONTENT[place] ^ 1]))
    assert session.get(url).content == CONTENT


def test_slow_and_delay_take_their_time(sample_hub, session, url):
    """A body at 2 MB/s takes half a second a megabyte; a delay comes before the first byte."""
    sample_hub.set_faults(Fault("slow", rate=2_000_000, times=1), Fault("delay", wait=0.3, method="HEAD"))
    began = time.monotonic()
    assert session.get(url).content == CONTENT
    assert 0.4 < time.monotonic() - began < 3
    began = time.monotonic()
    session.head(url)
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize("after", [-1, 5000])
def test_hang_is_silence_until_the_faults_change(sample_hub, session, url, after):
    """A client with a read timeout gives up; one without is let go when the faults are cleared."""
    sample_hub.set_faults(Fault("hang", after=after, times=2))
    with pytest.raises(requests.exceptions.RequestException, match="timed out"):
        session.get(url, timeout=(1, 0.2))
    failures = []

    def wait_for_ever() -> None:
        try:
            requests.get(url, timeout=30)
        except requests.RequestException as error:
            failures.append(error)

    thread = threading.Thread(target=wait_for_ever)
    thread.start()
    while sample_hub.fault_hits != [2]:
        time.sleep(0.01)
    sample_hub.set_faults()
    thread.join(5)
    assert not thread.is_alive()
    assert len(failures) == 1
    assert session.get(url).content == CONTENT


def test_drop_gives_no_answer_at_all(sample_hub, session, url):
    """The connection ends before a status line."""
    sample_hub.set_faults(Fault("drop", times=1))
    with pytest.raises(requests.exceptions.ConnectionError):
        session.get(url)
    assert session.get(url).status_code == 200
    assert sample_hub.requests[0].status == 0


def test_ranges(sample_hub, session, url):
    """Closed, open and suffix ranges, a start past the end, nonsense, and a server that ignores ranges."""
    size = len(CONTENT)

    def ask(value):
        answer = session.get(url, headers={"Range": value})
        return answer.status_code, answer.content, answer.headers.get("Content-Range")

    assert ask("bytes=10-19") == (206, CONTENT[10:20], f"bytes 10-19/{size}")
    assert ask(f"bytes={size - 5}-") == (206, CONTENT[-5:], f"bytes {size - 5}-{size - 1}/{size}")
    assert ask("bytes=-7") == (206, CONTENT[-7:], f"bytes {size - 7}-{size - 1}/{size}")
    assert ask(f"bytes=0-{size * 2}") == (206, CONTENT, f"bytes 0-{size - 1}/{size}")
    assert ask(f"bytes={size}-") == (416, b"", f"bytes */{size}")
    assert ask("lines=1-2")[:2] == (200, CONTENT)
    sample_hub.set_faults(Fault("ignore-range"))
    assert ask("bytes=10-19") == (200, CONTENT, None)
    assert sample_hub.bytes_sent("some/file/a.bin") == 10 + 5 + 7 + size + size + size
    assert sample_hub.requests[0].range == "bytes=10-19"


def test_client_that_leaves_is_not_sent_the_rest(sample_hub, session):
    """What a client did not stay for is not counted as sent."""
    sample_hub.add_repo("some/large", {"a.bin": CONTENT * 40}, redirect=False)
    with session.get(f"{sample_hub.url}/datasets/some/large/resolve/main/a.bin", stream=True) as answer:
        next(answer.iter_content(1000))
    while not sample_hub.requests[0].done:
        time.sleep(0.01)
    assert sample_hub.bytes_sent() < 15_000_000


def test_rules_are_checked():
    """A rule that cannot be meant is refused by name."""
    with pytest.raises(ValueError, match="kind 'typo'"):
        fault_from_json({"kind": "typo"})
    with pytest.raises(ValueError, match="'evry'"):
        fault_from_json({"kind": "cut", "evry": 3})
    with pytest.raises(ValueError, match="every=0"):
        Fault("cut", every=0)


def test_server_in_its_own_process_takes_faults_over_http(tmp_path, session, sample_hub_server: SampleHub):
    """`python -m hfassets.demo.hub_server` serves the sample repos; faults and log go over its control paths."""
    root = sample_hub_server.root
    port_file = tmp_path / "port"
    words = [sys.executable, "-m", "hfassets.demo.hub_server", "--root", str(root), "--port-file", str(port_file)]
    process = subprocess.Popen(words)
    try:
        while not port_file.exists():
            assert process.poll() is None
            time.sleep(0.02)
        url = f"http://127.0.0.1:{port_file.read_text().strip()}"
        file = f"{url}/datasets/ibm-research/duorc/resolve/main/README.md"
        rules = [{"kind": "status", "status": 503, "every": 2, "header": "none"}]
        assert session.put(f"{url}/_faults", data=json.dumps(rules)).json()[0]["hits"] == 0
        assert [session.get(file).status_code for _ in range(4)] == [200, 503, 200, 503]
        assert session.get(f"{url}/_faults").json()[0]["hits"] == 2
        log = session.get(f"{url}/_log").json()
        assert [log[1][name] for name in ("method", "file", "status")] == ["GET", "ibm-research/duorc/README.md", 503]
        assert session.put(f"{url}/_faults", data=b"[]").json() == []
        refused = session.put(f"{url}/_faults", data=b'[{"kind": "typo"}]')
        assert (refused.status_code, "typo" in refused.json()["error"]) == (400, True)
        session.put(f"{url}/_quotas", data=json.dumps({"resolvers": {"requests": 1, "window": 60}}))
        assert [session.get(file).status_code for _ in range(2)] == [200, 429]
        session.delete(f"{url}/_log")
        assert session.get(f"{url}/_log").json() == []
    finally:
        process.terminate()
        process.wait(10)
