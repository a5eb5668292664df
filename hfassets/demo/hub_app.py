"""The sample Hub as an ASGI application: the answers that the unmodified clients of the real Hub understand.

Invariant: every answer about a repo names the commit it speaks of, and a file's ETag is the hash of its true bytes,
also when a fault makes the bytes wrong.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote, urlencode

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hfassets.demo.hub_body import FileBody, parse_range, send_file
from hfassets.demo.hub_faults import FaultBoard, fault_from_json, rate_headers, wait_headers
from hfassets.demo.hub_limits import Limits, Quota
from hfassets.demo.hub_log import LoggedRequest, RequestLog
from hfassets.demo.hub_routes import API_TYPES, Route, parse_route
from hfassets.demo.hub_store import ARCHIVE, Commit, HubStore, Repo, StoredFile
from hfassets.demo.hub_uploads import KINDS, HubUploads, RefusedError
from hfassets.demo.hub_xet import reconstruction, xorb

TOKEN = "hf_sampleReader"  # noqa: S105 - not a secret: the reader of the sample Hub, with access to the gated repos
STRANGER_TOKEN = "hf_sampleStranger"  # noqa: S105 - a valid user who was not let into any gated repo
USERS = {TOKEN: "sample-reader", STRANGER_TOKEN: "sample-stranger"}

Answer = Response | FileBody
_LOGGER = logging.getLogger("hfassets.demo.hub")
PLURALS = {singular: plural for plural, singular in API_TYPES.items()}


class HubApp:
    """The application. `transport_of` finds a connection by its client address, for faults that break it."""

    def __init__(
        self, store: HubStore, transport_of: Callable[[Any], asyncio.Transport | None], *, page_size: int = 1000
    ) -> None:
        self.store = store
        self.faults = FaultBoard()
        self.limits = Limits()
        self.log = RequestLog()
        self.page_size = page_size
        self._transport_of = transport_of
        self._uploads = HubUploads(store)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; lifespan and websocket scopes are refused by configuration."""
        request = Request(scope, receive)
        route = parse_route(scope["raw_path"].decode("ascii"))
        if route.kind == "control":
            await (await self._control(request, route.path))(scope, receive, send)
            return
        token = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        record = LoggedRequest(
            method=request.method,
            path=scope["path"],
            query=request.url.query,
            bucket=route.bucket,
            authenticated=bool(token),
            range=request.headers.get("range", ""),
            file=f"{route.repo_id}/{route.path}" if route.kind in ("resolve", "cdn") else "",
            user_agent=request.headers.get("user-agent", ""),
        )
        self.log.add(record)
        began = time.monotonic()
        try:
            await self._answer(request, route, token, record, send)
        except Exception:
            _LOGGER.exception("%s %s", request.method, scope["path"])
            raise
        finally:
            record.seconds = time.monotonic() - began
            record.done = True

    async def _answer(self, request: Request, route: Route, token: str, record: LoggedRequest, send: Send) -> None:
        transport = self._transport_of(request.scope.get("client"))
        generation = self.faults.generation
        answer: Answer | None = None
        for fault in self.faults.pick(record, body=False):
            record.fault = fault.kind
            if fault.kind in ("delay", "hang"):
                await self._wait(fault.wait if fault.kind == "delay" else None, transport, generation)
            if fault.kind in ("drop", "hang"):
                if transport is not None:
                    transport.abort()
                return
            if fault.kind == "status":
                answer = _refusal(fault.status, "A fault on demand", headers=wait_headers(fault, record))
        if answer is None:
            answer = await self._respond(request, route, token)
        record.status = answer.status_code
        if isinstance(answer, FileBody) and request.method == "GET" and answer.status_code != 416:
            faults = self.faults.pick(record, body=True)
            record.fault = ",".join(fault.kind for fault in faults) or record.fault
            await send_file(answer, faults, record, transport, lambda: self.faults.generation == generation, send)
            return
        if isinstance(answer, FileBody):
            answer = Response(status_code=answer.status_code, headers=answer.headers)
        if request.method != "HEAD":
            record.sent = len(answer.body)
        await answer(request.scope, request.receive, send)

    async def _wait(self, seconds: float | None, transport: asyncio.Transport | None, generation: int) -> None:
        """Wait, for ever with None, but not for a client that left nor past a change of the faults."""
        until = None if seconds is None else time.monotonic() + seconds
        while until is None or time.monotonic() < until:
            if self.faults.generation != generation or (transport is not None and transport.is_closing()):
                return
            await asyncio.sleep(0.02 if until is None else min(0.02, max(0.0, until - time.monotonic())))

    async def _respond(self, request: Request, route: Route, token: str) -> Answer:
        limit_headers: dict[str, str] = {}
        if route.bucket:
            standing = self.limits.take(route.bucket, token)
            quota = standing.quota
            limit_headers = rate_headers(route.bucket, standing.remaining, standing.reset, quota.requests, quota.window)
            if not standing.allowed:
                message = f"We had to rate limit you: {quota.requests} requests per {quota.window:g} seconds"
                return _refusal(429, message, headers=limit_headers)
        answer = await self._dispatch(request, route, token)
        for name, value in limit_headers.items():
            answer.headers[name] = value
        return answer

    async def _dispatch(self, request: Request, route: Route, token: str) -> Answer:
        if token and token not in USERS and route.kind != "xet":
            return _refusal(401, "Invalid credentials in Authorization header")
        if route.kind in KINDS:
            return await self._upload(request, route, token)
        if request.method not in ("GET", "HEAD") and route.kind not in ("paths-info", "xet"):
            return _refusal(405, f"{request.method} is not for this path")
        if route.kind == "whoami":
            return _whoami(token)
        if route.kind == "s3":
            return self._object(request, route)
        if route.kind == "xet":
            return self._xet(request, route.path.split("/"))
        if route.kind == "page":
            return _refusal(404, "Sorry, we can't find the page you are looking for.")
        repo = self.store.get(route.repo_type, route.repo_id)
        if repo is None:
            # Without a token the Hub does not tell a missing repo from a private one.
            if token:
                return _refusal(404, "Repository not found", "RepoNotFound")
            return _refusal(401, "Invalid username or password.", "RepoNotFound")
        if route.kind == "refs":
            return _refs(repo)
        commit = repo.resolve(route.revision)
        if commit is None:
            return _refusal(404, f"Invalid rev id: {route.revision}", "RevisionNotFound")
        if route.kind == "info":
            return _info(repo, commit)
        if route.kind == "tree":
            return self._tree(request, route, repo, commit)
        if route.kind == "paths-info":
            return await _paths_info(request, commit)
        if route.kind == "xet-read-token":
            return _gated(repo, token) if repo.gated and token != TOKEN else _xet_token(_base(request))
        return self._file(request, route, repo, commit, token)

    async def _upload(self, request: Request, route: Route, token: str) -> Response:
        # Where a file goes was told to somebody who may write; the address is all that its sender shows.
        if route.kind != "lfs" and token != TOKEN:
            return _refusal(401 if not token else 403, "You need a token that may write")
        try:
            return _json(await self._uploads.answer(request, route, _base(request)))
        except RefusedError as refused:
            return _refusal(refused.status, str(refused), more=refused.more)
        except (KeyError, TypeError, ValueError) as error:
            return _refusal(400, f"{type(error).__name__}: {error}")

    def _tree(self, request: Request, route: Route, repo: Repo, commit: Commit) -> Response:
        query = dict(parse_qsl(request.url.query))
        if repo.tree_override is not None:
            entries = repo.tree_override
        else:
            flags = {name: query.get(name, "").lower() in ("true", "1") for name in ("recursive", "expand")}
            entries = commit.entries(route.path, recursive=flags["recursive"], expand=flags["expand"])
            if not entries and route.path:
                return _refusal(404, f"{route.path} does not exist on {route.revision}", "EntryNotFound")
        start = int(query.get("cursor", "0"))
        end = start + min(self.page_size, int(query.get("limit", self.page_size)))
        response = _json(entries[start:end])
        if end < len(entries):
            following = urlencode({**query, "cursor": end})
            raw_path = request.scope["raw_path"].decode("ascii")
            response.headers["link"] = f'<{_base(request)}{raw_path}?{following}>; rel="next"'
        return response

    def _file(self, request: Request, route: Route, repo: Repo, commit: Commit, token: str) -> Answer:
        file = commit.files.get(route.path)
        if repo.gated and token != TOKEN:
            return _gated(repo, token)
        if file is None:
            return _refusal(404, "Entry not found", "EntryNotFound", headers={"X-Repo-Commit": commit.sha})
        headers = _file_headers(_base(request), repo, commit, file)
        if route.kind == "resolve" and file.lfs and repo.redirect:
            url = f"{_base(request)}/cdn/{_repo_path(repo)}/resolve/{commit.sha}/{quote(file.path)}"
            return Response(f"Found. Redirecting to {url}", 302, {**headers, "Location": url}, "text/plain")
        return FileBody(file, headers, *parse_range(request.headers.get("range", ""), file.size))

    def _object(self, request: Request, route: Route) -> Answer:
        """An object of a bucket that anybody may read (Amazon S3 API, GetObject and HeadObject)."""
        repo = self.store.get("dataset", ARCHIVE) if route.repo_id == ARCHIVE.partition("/")[0] else None
        commit = None if repo is None else repo.resolve("main")
        file = None if commit is None else commit.files.get(route.path)
        if file is None:
            body = "<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>"
            return Response(body, 404, {}, "application/xml")
        headers = {"ETag": f'"{file.etag}"', "Content-Type": "binary/octet-stream"}
        return FileBody(file, headers, *parse_range(request.headers.get("range", ""), file.size))

    def _xet(self, request: Request, steps: list[str]) -> Response:
        match steps:
            case ["v1", "reconstructions", xet_hash] if file := self.store.xet_file(xet_hash):
                document = reconstruction(file, _base(request), request.headers.get("range", ""))
                return _json(document) if document else _refusal(416, "Range not satisfiable")
            case ["xorbs", xet_hash, number] if (file := self.store.xet_file(xet_hash)) and number.isdigit():
                return Response(xorb(file, int(number)), media_type="application/octet-stream")
            case _:
                return _refusal(404, "Not found")

    async def _control(self, request: Request, name: str) -> Response:
        """`PUT /_faults` (a list of rules), `PUT /_quotas`, `GET /_log`, `DELETE /_log`: for a server in a process."""
        try:
            match request.method, name:
                case "PUT", "faults":
                    self.faults.set([fault_from_json(rule) for rule in orjson.loads(await request.body())])
                    return _json(self.faults.as_json())
                case "GET", "faults":
                    return _json(self.faults.as_json())
                case "PUT", "quotas":
                    document = orjson.loads(await request.body())
                    self.limits.set({bucket: Quota(**quota) for bucket, quota in document.items()})
                    return _json({})
                case "GET", "log":
                    return _json([record.as_json() for record in self.log.all()])
                case "DELETE", "log":
                    self.log.clear()
                    return _json({})
                case "GET", "repos":
                    return _json([{"id": repo.repo_id, "type": repo.repo_type} for repo in self.store.repos()])
                case _:
                    return _refusal(404, f"no control {request.method} /_{name}")
        except (TypeError, ValueError, AttributeError) as error:
            return _refusal(400, str(error))


def _base(request: Request) -> str:
    return f"http://{request.headers['host']}"


def _repo_path(repo: Repo) -> str:
    """Type and id as an API or CDN path has them."""
    return f"{PLURALS[repo.repo_type]}/{repo.repo_id}"


def _json(document: Any) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")


def _refusal(
    status: int,
    message: str,
    code: str = "",
    *,
    headers: Mapping[str, str] | None = None,
    more: Mapping[str, str] | None = None,
) -> Response:
    """An error as the Hub words it: JSON body, X-Error-Code and X-Error-Message."""
    named = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}
    return Response(orjson.dumps({"error": message, **(more or {})}), status, named, "application/json")


def _gated(repo: Repo, token: str) -> Response:
    about = f"Access to {repo.repo_type} {repo.repo_id} is restricted"
    if token:
        hint = f"Visit https://huggingface.co/{_repo_path(repo)} to ask for access."
        return _refusal(403, f"{about} and you are not in the authorized list. {hint}", "GatedRepo")
    hint = "You must have access to it and be authenticated to access it. Please log in."
    return _refusal(401, f"{about}. {hint}", "GatedRepo")


def _whoami(token: str) -> Response:
    if not token:
        return _refusal(401, "Invalid username or password.")
    access = {"displayName": "sample", "role": "write", "createdAt": "2024-01-01T12:00:00.000Z"}
    return _json(
        {
            "type": "user",
            "id": "0" * 24,
            "name": USERS[token],
            "fullname": "A reader of the sample Hub",
            "email": "reader@example.org",
            "emailVerified": True,
            "isPro": False,
            "canPay": False,
            "orgs": [],
            "auth": {"type": "access_token", "accessToken": access},
        }
    )


def _xet_token(base: str) -> Response:
    expires = int(time.time()) + 3600
    values = {"casUrl": f"{base}/xet", "accessToken": "xet-sample", "exp": expires}
    named = {"X-Xet-Cas-Url": f"{base}/xet", "X-Xet-Access-Token": "xet-sample", "X-Xet-Token-Expiration": str(expires)}
    return Response(orjson.dumps(values), headers=named, media_type="application/json")


def _refs(repo: Repo) -> Response:
    def described(names: Mapping[str, str], kind: str) -> Iterable[dict[str, str]]:
        for name, sha in sorted(names.items()):
            ref = name if name.startswith("refs/") else f"refs/{kind}/{name}"
            yield {"name": name.removeprefix("refs/convert/"), "ref": ref, "targetCommit": sha}

    branches = list(described(repo.branches, "heads"))
    return _json(
        {
            "branches": [ref for ref in branches if not ref["ref"].startswith("refs/convert/")],
            "converts": [ref for ref in branches if ref["ref"].startswith("refs/convert/")],
            "tags": list(described(repo.tags, "tags")),
        }
    )


def _info(repo: Repo, commit: Commit) -> Response:
    date = commit.date
    return _json(
        {
            "_id": "0" * 24,
            "id": repo.repo_id,
            "author": repo.repo_id.partition("/")[0],
            "sha": commit.sha,
            "lastModified": date,
            "createdAt": "2024-01-01T12:00:00.000Z",
            "private": False,
            "disabled": False,
            "gated": "manual" if repo.gated else False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [{"rfilename": path} for path in commit.files],
            "usedStorage": sum(file.size for file in commit.files.values()),
            **({"modelId": repo.repo_id} if repo.repo_type == "model" else {}),
        }
    )


async def _paths_info(request: Request, commit: Commit) -> Response:
    body = await request.body()
    if request.headers.get("content-type", "").startswith("application/json"):
        document = orjson.loads(body)
        paths, expand = document["paths"], bool(document.get("expand"))
    else:
        form = parse_qs(body.decode())
        paths, expand = form.get("paths", []), form.get("expand", ["false"])[0].lower() == "true"
    everything = {entry["path"]: entry for entry in commit.entries("", recursive=True, expand=expand)}
    return _json([everything[path] for path in paths if path in everything])


def _file_headers(base: str, repo: Repo, commit: Commit, file: StoredFile) -> dict[str, str]:
    name = file.path.rpartition("/")[2]
    headers = {
        "X-Repo-Commit": commit.sha,
        "ETag": f'"{file.etag}"',
        "Accept-Ranges": "bytes",
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(name)}",
        "Access-Control-Expose-Headers": "X-Repo-Commit,X-Request-Id,X-Error-Code,X-Error-Message,ETag,Link",
    }
    if file.lfs:
        headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
    if file.xet_hash:
        auth = f"{base}/api/{_repo_path(repo)}/xet-read-token/{commit.sha}"
        headers |= {"X-Xet-Hash": file.xet_hash, "Link": f'<{auth}>; rel="xet-auth"'}
    return headers
