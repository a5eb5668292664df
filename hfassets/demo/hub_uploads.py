"""What the sample Hub is sent: repos, files by the LFS protocol, commits.

Invariant: a commit names only content that is here, proven by its SHA-256; a commit is whole or not there at all.
Sources of the formats: git-lfs specification (docs/api/batch.md); `create_commit` of huggingface_hub 0.36.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import orjson
from starlette.requests import Request

from hfassets.demo.hub_routes import Route
from hfassets.demo.hub_store import HubStore, Repo, default_lfs

KINDS = ("create", "preupload", "lfs-batch", "lfs", "commit")


class RefusedError(Exception):
    """A request that cannot be granted: status and why. `more`: what the document says besides."""

    def __init__(self, status: int, message: str, **more: str) -> None:
        super().__init__(message)
        self.status = status
        self.more = more


class HubUploads:
    """The answers, as documents; raises RefusedError."""

    def __init__(self, store: HubStore) -> None:
        self._store = store

    async def answer(self, request: Request, route: Route, base: str) -> Any:
        """The answer to a request of one of KINDS."""
        if route.kind == "lfs":
            return await self._receive(request, route.path)
        body = await request.body()
        if route.kind == "create":
            return self._create(orjson.loads(body), base)
        if route.kind == "lfs-batch":
            return self._batch(orjson.loads(body), base)
        repo = self._store.get(route.repo_type, route.repo_id)
        if repo is None:
            raise RefusedError(404, "Repository not found")
        if route.kind == "preupload":
            return _preupload(repo, route.revision, orjson.loads(body))
        return self._commit(repo, route.revision, [orjson.loads(line) for line in body.splitlines() if line], base)

    def _create(self, wanted: Any, base: str) -> Any:
        repo_id = f"{wanted.get('organization') or 'sample-reader'}/{wanted['name']}"
        repo_type = wanted.get("type") or "model"
        url = f"{base}/{repo_type}s/{repo_id}"
        if self._store.get(repo_type, repo_id) is not None:
            raise RefusedError(409, "You already created this repo", url=url)
        self._store.commit(repo_id, {}, repo_type=repo_type, title="initial commit")
        return {"url": url, "name": repo_id, "id": repo_id}

    def _batch(self, wanted: Any, base: str) -> Any:
        objects = []
        for one in wanted["objects"]:
            missing = self._store.object(one["oid"]) is None
            href = {"href": f"{base}/lfs/{one['oid']}"}
            objects.append({**one, **({"actions": {"upload": href}} if missing else {})})
        return {"transfer": "basic", "objects": objects}

    async def _receive(self, request: Request, oid: str) -> Any:
        digest = hashlib.sha256()
        with self._store.receiving() as file:
            async for chunk in request.stream():
                digest.update(chunk)
                file.write(chunk)
            if digest.hexdigest() != oid:
                raise RefusedError(400, "the content has another SHA-256 than was announced")
            self._store.keep(Path(file.name), oid)
        return {}

    def _commit(self, repo: Repo, revision: str, lines: list[Any], base: str) -> Any:
        before = repo.resolve(revision)
        files: dict[str, bytes | str | Path] = (
            {} if before is None else {path: file.source for path, file in before.files.items()}
        )
        title = ""
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "header":
                    title = value["summary"]
                    if value.get("parentCommit") and before is not None and value["parentCommit"] != before.sha:
                        raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    source = self._store.object(value["oid"])
                    if source is None:
                        raise RefusedError(400, f"LFS pointer of {value['path']} points to content that is not here")
                    files[value["path"]] = source
                case "deletedFile":
                    files.pop(value["path"], None)
                case unknown:
                    raise RefusedError(400, f"unknown operation {unknown}")
        sha = self._store.commit(repo.repo_id, files, repo_type=repo.repo_type, title=title, branch=revision)
        url = f"{base}/{repo.repo_type}s/{repo.repo_id}/commit/{sha}"
        return {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""}


def _preupload(repo: Repo, revision: str, wanted: Any) -> Any:
    commit = repo.resolve(revision)
    held = {} if commit is None else commit.files
    return {
        "files": [
            {
                "path": one["path"],
                "uploadMode": "lfs" if default_lfs(one["path"], one["size"]) else "regular",
                "shouldIgnore": False,
                **({"oid": held[one["path"]].oid} if one["path"] in held else {}),
            }
            for one in wanted["files"]
        ]
    }
