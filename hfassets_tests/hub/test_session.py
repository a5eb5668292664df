"""The one session: waits, retries, limits, errors, and where the token goes."""

from __future__ import annotations

import http.server
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hfassets.demo.hub_faults import Fault
from hfassets.demo.hub_limits import Quota
from hfassets.demo.hub_server import SampleHub
from hfassets.errors import HubError, UnsafePathError
from hfassets.hub.options import HubOptions, hub_options
from hfassets.hub.session import HubClient, HubRefusalError, read_body
from hfassets.progress import Note, Progress

pytestmark = pytest.mark.hub

REPO = "team/small"
COMMIT = "0" * 40
SECRET = "hf_aSecretThatMustNotShow"


@pytest.fixture
def commit(sample_hub: SampleHub) -> str:
    """A repo with a few files of both kinds."""
    files = {f"data/{name}/{index}.json": f"{name}{index}".encode() for name in "ab" for index in range(5)}
    return sample_hub.add_repo(REPO, {**files, "README.md": "# small\n", "big.parquet": b"x" * 100_000})


def options(hub: SampleHub | str, **values: object) -> HubOptions:
    """Options without anybody's login, and with short waits."""
    token = values.pop("token", None)
    environment = {"HF_HOME": "/nonexistent", **({"HF_TOKEN": str(token)} if token else {})}
    endpoint = hub if isinstance(hub, str) else hub.url
    made = hub_options(endpoint=endpoint, backoff_factor=0.05, environment=environment)
    return HubOptions(**{**{name: getattr(made, name) for name in made.__slots__}, **values})  # type: ignore[arg-type]


@contextmanager
def server(answer: dict[str, tuple[int, dict[str, str], bytes]]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A plain server: answers by path, and a list of (path, Authorization) as they came."""
    seen: list[tuple[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers.get("Authorization", "")))
            status, headers, body = answer.get(self.path, answer.get("*", (404, {}, b"")))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}", seen
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("header", "wait", "least", "said"),
    [
        ("retry-after", 1.0, 1.0, "Retry-After"),
        ("retry-after-date", 2.0, 1.0, "Retry-After"),
        ("ratelimit", 1.0, 1.0, "RateLimit"),
        ("none", 0.0, 0.03, "bucket)"),
    ],
)
def test_waits_as_long_as_a_429_asks_and_says_so(
    sample_hub: SampleHub, commit: str, header: str, wait: float, least: float, said: str
) -> None:
    """Each way of telling a wait is obeyed, announced once and added up."""
    sample_hub.set_faults(Fault("status", status=429, header=header, wait=wait, times=1))  # type: ignore[arg-type]
    events: list[Progress | Note] = []
    with HubClient(options(sample_hub), events.append) as client:
        began = time.monotonic()
        assert client.resolve_commit(REPO) == commit
        elapsed = time.monotonic() - began
    (note,) = [event.text for event in events if isinstance(event, Note)]
    assert re.match(r"waiting \d+\.\d s: 429 from the Hub \(api bucket", note)
    assert said in note
    assert least <= client.waited <= elapsed < wait + 3
    assert client.waits[0].reason in note


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
def test_repeats_what_may_pass(sample_hub: SampleHub, commit: str, status: int) -> None:
    """Passing errors of a server are retried, each time later."""
    sample_hub.set_faults(Fault("status", status=status, header="none", times=3))
    with HubClient(options(sample_hub)) as client:
        assert client.resolve_commit(REPO) == commit
    waits = [wait.seconds for wait in client.waits]
    assert len(waits) == 3
    assert waits[0] < waits[1] < waits[2]
    assert waits[0] != 0.05  # jitter


def test_repeats_after_a_broken_connection(sample_hub: SampleHub, commit: str) -> None:
    """A connection closed without an answer is retried; so is a listing whose connection goes silent."""
    sample_hub.set_faults(Fault("drop", times=2), Fault("hang", skip=2, times=1))
    with HubClient(options(sample_hub, read_timeout=0.3)) as client:
        assert client.resolve_commit(REPO) == commit
        assert len(client.list_files(REPO, commit).files) == 12


@pytest.mark.parametrize("status", [429, 503])
def test_gives_up_after_max_retries_with_one_line(sample_hub: SampleHub, commit: str, status: int) -> None:
    """A failure that lasts is an error after 1 + max_retries requests, and never an empty listing."""
    sample_hub.set_faults(Fault("status", status=status, header="none"))
    with HubClient(options(sample_hub, max_retries=2)) as client, pytest.raises(HubError) as caught:
        client.list_files(REPO, commit)
    assert len(sample_hub.requests) == 3
    assert "\n" not in str(caught.value)
    assert str(status) in str(caught.value)
    assert "2 retries" in str(caught.value)


def test_does_not_wait_for_hours(sample_hub: SampleHub, commit: str) -> None:
    """A Hub that asks for more than an hour is not asked again earlier: the error says so."""
    sample_hub.set_faults(Fault("status", status=429, wait=7200))
    with HubClient(options(sample_hub)) as client, pytest.raises(HubError, match="7200 s"):
        client.resolve_commit(REPO)
    assert len(sample_hub.requests) == 1


def test_timeouts_take_effect(sample_hub: SampleHub, commit: str) -> None:
    """A Hub that accepts and never answers is an error after the read timeout."""
    sample_hub.set_faults(Fault("hang"))
    began = time.monotonic()
    limits = options(sample_hub, max_retries=0, read_timeout=0.4)
    with HubClient(limits) as client, pytest.raises(HubError, match=r"no answer from 127\.0\.0\.1:\d+ within 0\.4 s"):
        client.resolve_commit(REPO)
    assert 0.4 <= time.monotonic() - began < 3


def test_nobody_listening_is_one_line() -> None:
    """A wrong endpoint names its host and the system's reason."""
    with HubClient(options("http://127.0.0.1:9", max_retries=1)) as client, pytest.raises(HubError) as caught:
        client.resolve_commit(REPO)
    assert str(caught.value) == "the connection to 127.0.0.1:9 failed: Connection refused (after 1 retries)"


def test_waits_before_the_quota_is_exceeded(sample_hub: SampleHub, commit: str) -> None:
    """When r reaches 0 the next request waits for the reset: the Hub never has to refuse."""
    sample_hub.set_quotas(resolvers=Quota(4, 1.0))
    with HubClient(options(sample_hub)) as client:
        for index in range(10):
            client.read_file(REPO, commit, f"data/a/{index % 5}.json")
    statuses = [request.status for request in sample_hub.requests]
    assert statuses == [200] * 10
    assert any("budget" in wait.reason for wait in client.waits)
    assert client.quota("resolvers").requests == 4


def test_processes_share_one_budget(sample_hub: SampleHub, commit: str) -> None:
    """Three processes at once stay within one quota together."""
    sample_hub.set_quotas(resolvers=Quota(6, 2.0))
    code = (
        "import sys; from hfassets.hub.session import HubClient, hub_options\n"
        "with HubClient(hub_options(endpoint=sys.argv[1], environment={'HF_HOME': '/nonexistent'})) as client:\n"
        f"    [client.read_file({REPO!r}, {commit!r}, 'README.md') for _ in range(4)]\n"
    )
    with HubClient(options(sample_hub)) as client:
        client.read_file(REPO, commit, "README.md")  # from here on the quota is known
        running = [subprocess.Popen([sys.executable, "-c", code, sample_hub.url]) for _ in range(3)]
        assert [process.wait(60) for process in running] == [0, 0, 0]
    statuses = [request.status for request in sample_hub.requests]
    # Until the first answer of a new window nobody knows it: each process may be one request early, not more.
    assert statuses.count(200) == 13
    assert statuses.count(429) <= 3


def test_library_calls_go_through_the_session(sample_hub: SampleHub, commit: str) -> None:
    """huggingface_hub's own calls, a POST that only reads among them, are retried and counted."""
    from huggingface_hub import HfApi

    sample_hub.set_faults(Fault("status", status=429, wait=0, times=1, path="*/paths-info/*"))
    with HubClient(options(sample_hub)) as client:
        api = HfApi(endpoint=sample_hub.url, token=False)
        with client.library_session():
            (info,) = api.get_paths_info(REPO, "README.md", revision=commit, repo_type="dataset")
        assert info.size == 8
        assert len(client.waits) == 1
        sample_hub.set_faults(Fault("status", status=429, wait=0, times=1))
        with pytest.raises(Exception, match="429"):
            api.dataset_info(REPO)


def test_lists_all_pages_with_the_right_hashes(sample_hub: SampleHub, commit: str) -> None:
    """Pages are followed, folders left out; LFS files have their SHA-256, others their git-sha1."""
    sample_hub.page_size = 3
    with HubClient(options(sample_hub)) as client:
        listing = client.list_files(REPO, commit)
    assert len(listing.files) == 12
    assert {file.path: file.algorithm for file in listing.files}["big.parquet"] == "sha256"
    assert {file.path: file.algorithm for file in listing.files}["README.md"] == "git-sha1"
    assert listing.total_bytes == 100_000 + 8 + 20


@pytest.mark.parametrize(
    "entry",
    [
        {"type": "file", "path": "a"}, {"type": "file", "path": "a", "size": -1, "oid": "0" * 40}, "a", None,
        {"type": "file", "path": 3, "size": 1, "oid": "0" * 40}, {"type": "file", "path": "a", "size": 1, "oid": None},
    ],
)  # fmt: skip
def test_a_listing_that_makes_no_sense_is_an_error(entry: object) -> None:
    """An entry without path, size or hash is never skipped."""
    with (
        server({"*": (200, {}, json.dumps([entry]).encode())}) as (hub, _),
        HubClient(options(hub)) as client,
        pytest.raises(HubError, match="listing has an entry"),
    ):
        client.list_files(REPO, COMMIT)


def test_a_listing_that_goes_in_circles_is_an_error() -> None:
    """Pages that lead back to each other end."""
    link = {"Link": '</next?cursor=1>; rel="next"'}
    with (
        server({"*": (200, link, b"[]")}) as (hub, seen),
        HubClient(options(hub)) as client,
        pytest.raises(HubError, match="already read"),
    ):
        client.list_files(REPO, COMMIT)
    assert len(seen) == 2


def test_something_else_than_a_hub_is_named() -> None:
    """A login page of a proxy is not taken for an answer."""
    with (
        server({"*": (200, {}, b"<html>")}) as (hub, _),
        HubClient(options(hub)) as client,
        pytest.raises(HubError, match="is it a Hub"),
    ):
        client.resolve_commit(REPO)


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a/../../b", "a\\b", "a//b", ".."])
def test_a_hostile_listing_is_refused(sample_hub: SampleHub, commit: str, path: str) -> None:
    """Paths that lead out of the repo never become a listing."""
    sample_hub.override_tree(REPO, [{"type": "file", "path": path, "size": 1, "oid": "0" * 40}])
    with HubClient(options(sample_hub)) as client, pytest.raises(UnsafePathError):
        client.list_files(REPO, commit)


@pytest.mark.parametrize(
    ("token", "repo", "revision", "path", "code", "expected"),
    [
        (None, "team/gated", "main", "a", "GatedRepo", "is gated: accept its conditions at {url}/datasets/team/gated"),
        ("stranger", "team/gated", "main", "a", "GatedRepo", "with the account of HF_TOKEN"),
        (None, "team/none", "main", "", "RepoNotFound", "does not exist or is private"),
        ("stranger", "team/none", "main", "", "RepoNotFound", "does not exist or is private"),
        (None, REPO, "v9", "", "RevisionNotFound", "has no revision 'v9'"),
        (None, REPO, "main", "nothing.txt", "EntryNotFound", "has no file 'nothing.txt'"),
        (SECRET, REPO, "main", "", "", "does not accept the token of HF_TOKEN"),
    ],
)
def test_a_refusal_says_what_to_do(
    sample_hub: SampleHub, commit: str, token: str | None, repo: str, revision: str, path: str, code: str, expected: str
) -> None:
    """Each kind of refusal is one line that names the remedy, without the token."""
    sample_hub.add_repo("team/gated", {"a": b"1"}, gated=True)
    given = sample_hub.stranger_token if token == "stranger" else token
    with HubClient(options(sample_hub, token=given)) as client, pytest.raises(HubRefusalError) as caught:
        at = client.resolve_commit(repo, revision)
        client.read_file(repo, at, path)
    text = str(caught.value)
    assert expected.format(url=sample_hub.url) in text
    assert caught.value.code == code
    assert "\n" not in text
    assert not given or given not in text
    assert caught.value.__cause__ is None


def test_the_token_stays_with_its_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is sent to the endpoint, not along a redirect to another host, nor to where a page's link points."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    tree = f"/api/datasets/{REPO}/tree/{COMMIT}?recursive=true"
    with server({"*": (200, {}, b"[]")}) as (other, seen_by_other):
        answers = {
            f"/datasets/{REPO}/resolve/{COMMIT}/a": (302, {"Location": f"{other}/store/a?signature=1"}, b""),
            tree: (200, {"Link": f'<{other}/next?cursor=2>; rel="next"'}, b"[]"),
            f"/api/datasets/{REPO}/tree/{COMMIT}?cursor=2&recursive=true": (200, {}, b"[]"),
        }
        with server(answers) as (hub, seen), HubClient(options(hub, token=SECRET)) as client:
            assert client.read_file(REPO, COMMIT, "a") == b"[]"
            assert client.list_files(REPO, COMMIT).files == ()
    assert [authorization for _, authorization in seen] == [f"Bearer {SECRET}"] * 3
    assert seen_by_other == [("/store/a?signature=1", "")]
    assert SECRET not in repr(client.options) + str(client.__dict__) + repr(client.patience.__dict__)


def test_errors_of_another_host_show_no_signature() -> None:
    """A signed URL is a secret for an hour: errors show it without its query."""
    with server({"*": (403, {"X-Error-Message": "no"}, b"")}) as (other, _):
        answers = {f"/datasets/{REPO}/resolve/{COMMIT}/a": (302, {"Location": f"{other}/a?sig=abc"}, b"")}
        with server(answers) as (hub, _), HubClient(options(hub)) as client, pytest.raises(HubError) as caught:
            client.read_file(REPO, COMMIT, "a")
    assert "sig" not in str(caught.value)


def test_proxies_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY is used, NO_PROXY left out, as requests reads them."""
    with server({"*": (200, {}, b'{"sha": "%s"}' % COMMIT.encode())}) as (proxy, seen):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        with HubClient(options("http://hub.example")) as client:
            assert client.resolve_commit(REPO) == COMMIT
        assert seen[0][0] == f"http://hub.example/api/datasets/{REPO}/revision/main"
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with HubClient(options(proxy)) as client:
            assert client.resolve_commit(REPO) == COMMIT
        assert seen[1][0] == f"/api/datasets/{REPO}/revision/main"


def test_offline_makes_no_request(sample_hub: SampleHub) -> None:
    """HF_HUB_OFFLINE is one line, before any request."""
    offline = hub_options(endpoint=sample_hub.url, environment={"HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent"})
    with HubClient(offline) as client, pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        client.resolve_commit(REPO)
    assert sample_hub.requests == []


def test_a_body_can_be_taken_up_in_the_middle(sample_hub: SampleHub, commit: str) -> None:
    """open_stream asks for the rest from a byte on."""
    with HubClient(options(sample_hub)) as client:
        with client.open_stream(REPO, commit, "README.md", start=2) as response:
            assert (response.status_code, read_body(response, 100)) == (206, b"small\n")
        with client.open_stream(REPO, commit, "README.md", start=99) as response:
            assert response.status_code == 416


def test_small_files_are_read_whole_or_not_at_all(sample_hub: SampleHub, commit: str) -> None:
    """A cut body is fetched again; one larger than allowed is an error."""
    sample_hub.set_faults(Fault("cut", after=3, times=2))
    with HubClient(options(sample_hub)) as client:
        assert client.read_file(REPO, commit, "README.md") == b"# small\n"
        with pytest.raises(HubError, match="larger than the 50 B"):
            client.read_file(REPO, commit, "big.parquet", max_bytes=50)


@pytest.mark.parametrize(
    ("environment", "token", "source"),
    [
        ({"MINE": "a1", "HF_TOKEN": "b2", "HUGGING_FACE_HUB_TOKEN": "c3"}, "a1", "MINE"),
        ({"HF_TOKEN": " b2\n", "HUGGING_FACE_HUB_TOKEN": "c3"}, "b2", "HF_TOKEN"),
        ({"HF_TOKEN": "", "HUGGING_FACE_HUB_TOKEN": "c3"}, "c3", "HUGGING_FACE_HUB_TOKEN"),
        ({"HF_TOKEN_PATH": "{tmp}/login"}, "d4", "{tmp}/login"),
        ({"HF_HOME": "{tmp}/home"}, "e5", "{tmp}/home/token"),
        ({"HF_HOME": "{tmp}/nothing"}, None, ""),
    ],
)
def test_the_token_is_found_in_the_documented_order(
    tmp_path: Path, environment: dict[str, str], token: str | None, source: str
) -> None:
    """The named variable, HF_TOKEN, HUGGING_FACE_HUB_TOKEN, the login file."""
    (tmp_path / "login").write_text("d4\n")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/token").write_text("e5")
    filled = {name: value.replace("{tmp}", str(tmp_path)) for name, value in environment.items()}
    found = hub_options(token_env="MINE", environment=filled)
    assert (found.token, found.token_source) == (token, source.replace("{tmp}", str(tmp_path)))


def test_a_token_that_cannot_be_one_is_refused_unseen() -> None:
    """A token with a line break in it is named by its source, not by its value."""
    with pytest.raises(HubError) as caught:
        hub_options(environment={"HF_TOKEN": "hf_secret\nX: y"})
    assert "HF_TOKEN" in str(caught.value)
    assert "hf_secret" not in str(caught.value)
