"""What a URL of the Hub asks for. Pure; works on the raw path, since clients write a revision's slashes as %2F."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

API_TYPES = {"datasets": "dataset", "models": "model", "spaces": "space"}
_REPO_VERBS = frozenset({"revision", "tree", "paths-info", "refs", "resolve", "xet-read-token", "preupload", "commit"})


@dataclass(frozen=True, slots=True)
class Route:
    """`kind`: info | tree | paths-info | refs | xet-read-token | resolve | cdn | xet | s3 | whoami | control | page, or
    for what is sent: create | preupload | lfs-batch | lfs | commit.

    `bucket` is the rate limit it counts against, "" for none. `path` is a path in the repo, the control's name, or the
    key of an object in the bucket `repo_id` (s3).
    """

    kind: str
    bucket: str
    repo_type: str = ""
    repo_id: str = ""
    revision: str = "main"
    path: str = ""


def parse_route(raw_path: str) -> Route:
    """The route of a percent-encoded URL path; anything unknown is a page."""
    steps = [unquote(step) for step in raw_path.strip("/").split("/")]
    match steps:
        case ["api", "whoami-v2"]:
            return Route("whoami", "api")
        case ["api", "repos", "create"]:
            return Route("create", "api")
        case ["lfs", oid]:
            return Route("lfs", "", path=oid)
        case [*plural, owner, name, "info", "lfs", "objects", "batch"] if name.endswith(".git"):
            repo_type = API_TYPES.get("".join(plural), "model")
            return Route("lfs-batch", "api", repo_type, f"{owner}/{name.removesuffix('.git')}")
        case ["api", plural, _, *_] if plural in API_TYPES:
            return _api_route(API_TYPES[plural], steps[2:])
        case ["_s3", bucket, *rest]:
            return Route("s3", "", repo_id=bucket, path="/".join(rest))
        case [control, *rest] if control.startswith("_"):
            return Route("control", "", path="/".join([control[1:], *rest]))
        case ["xet", *rest]:
            return Route("xet", "", path="/".join(rest))
        case ["cdn", plural, *rest] if plural in API_TYPES:
            return _file_route("cdn", "", API_TYPES[plural], rest)
        case [plural, *rest] if plural in API_TYPES:
            return _file_route("resolve", "resolvers", API_TYPES[plural], rest)
        case _:
            return _file_route("resolve", "resolvers", "model", steps)


def _split_repo(steps: list[str]) -> tuple[str, list[str]]:
    """Repo id (one step or two) and what follows it."""
    count = 1 if len(steps) < 2 or steps[1] in _REPO_VERBS else 2
    return "/".join(steps[:count]), steps[count:]


def _api_route(repo_type: str, steps: list[str]) -> Route:
    repo_id, rest = _split_repo(steps)
    match rest:
        case []:
            return Route("info", "api", repo_type, repo_id)
        case ["refs"]:
            return Route("refs", "api", repo_type, repo_id)
        case ["revision", revision]:
            return Route("info", "api", repo_type, repo_id, revision)
        case ["tree", revision, *path]:
            return Route("tree", "api", repo_type, repo_id, revision, "/".join(path).strip("/"))
        case ["paths-info" | "xet-read-token" | "preupload" | "commit" as kind, revision]:
            return Route(kind, "api", repo_type, repo_id, revision)
        case _:
            return Route("page", "api", path="/".join(steps))


def _file_route(kind: str, bucket: str, repo_type: str, steps: list[str]) -> Route:
    repo_id, rest = _split_repo(steps)
    match rest:
        case ["resolve", revision, *path] if path:
            return Route(kind, bucket, repo_type, repo_id, revision, "/".join(path))
        case _:
            return Route("page", "pages", path="/".join(steps))
