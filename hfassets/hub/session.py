"""The one way to the Hub: its addresses, its answers, its errors.

Invariant: a call returns what the Hub said, complete, or raises HubError with one line that says what to do; nothing
is taken for empty because it failed. Retries, waits and limits are `http.py`'s.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, quote, urlsplit

import requests
import urllib3

from hfassets.errors import HubError
from hfassets.hub.budget import RequestBudget
from hfassets.hub.http import HubSession, Patience, Wait, same_origin
from hfassets.hub.listing import Listing, RepoFile
from hfassets.hub.names import REPO_TYPES, check_commit, check_path, check_repo_id, check_revision
from hfassets.hub.options import HubOptions, hub_options
from hfassets.hub.ratelimit import Quota
from hfassets.hub.refusals import HubRefusalError, Subject, no_answer, refusal, type_prefix, without_query
from hfassets.progress import ProgressCallback, silent
from hfassets.storage.runtime import runtime_folder

__all__ = ["BodyCutError", "HubClient", "HubOptions", "HubRefusalError", "Wait", "hub_options", "read_body"]

MAX_SMALL_FILE = 256 * 1000 * 1000


class BodyCutError(HubError):
    """The connection ended before the body did."""


class HubClient:
    """Everything that is asked of a Hub; safe to use by threads. Use as a context manager."""

    def __init__(self, options: HubOptions, progress: ProgressCallback = silent) -> None:
        self.options = options
        self.patience = Patience(options, progress)
        self._budget = RequestBudget(runtime_folder(), options.endpoint, options.token, options.quota_share)
        self._local = threading.local()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End waits; the client makes no request after this."""
        self.patience.stop()

    @property
    def waits(self) -> list[Wait]:
        """What this client waited for."""
        return self.patience.waits

    @property
    def waited(self) -> float:
        """Seconds in which at least one of its requests waited."""
        return self.patience.waited

    def quota(self, bucket: str = "resolvers") -> Quota:
        """The present limit of a bucket."""
        return self._budget.quota(bucket)

    def resolve_commit(self, repo_id: str, revision: str = "main", repo_type: str = "dataset") -> str:
        """The commit (40 hex digits) that a branch or tag is at."""
        subject = self._subject(repo_id, repo_type, check_revision(revision))
        answer = self._json(subject, f"{self._api(repo_id, repo_type)}/revision/{quote(revision, safe='')}")[0]
        if not isinstance(answer, dict) or not isinstance(answer.get("sha"), str):
            raise HubError(f"{subject.page}: the Hub named no commit for {revision!r}")
        return check_commit(answer["sha"])

    def is_gated(self, repo_id: str, repo_type: str = "dataset") -> bool:
        """Whether the repo's conditions have to be accepted before its files can be read."""
        answer = self._json(self._subject(repo_id, repo_type), self._api(repo_id, repo_type))[0]
        return isinstance(answer, dict) and answer.get("gated", False) not in (False, None)

    def list_files(self, repo_id: str, commit: str, repo_type: str = "dataset") -> Listing:
        """All files at a commit, with sizes and hashes: one recursive tree listing, page by page."""
        subject = self._subject(repo_id, repo_type, check_commit(commit))
        url = f"{self._api(repo_id, repo_type)}/tree/{commit}"
        files: list[RepoFile] = []
        parameters = {"recursive": "true"}
        seen: set[frozenset[tuple[str, str]]] = set()
        while True:
            entries, links = self._json(subject, url, parameters)
            if not isinstance(entries, list):
                raise HubError(f"{subject.page}: the Hub's tree listing is not a list")
            files += [_repo_file(entry, subject) for entry in entries if not _is_directory(entry)]
            following = links.get("next", {}).get("url")
            if not following:
                return Listing(repo_id, commit, tuple(files), repo_type)
            # Only the cursor is taken: mirrors hand out links to the original Hub, and a token must not go elsewhere.
            parameters = dict(parse_qsl(urlsplit(following).query)) | {"recursive": "true"}
            page = frozenset(parameters.items())
            if page in seen:
                raise HubError(f"{subject.page}: the Hub's tree listing leads back to a page already read")
            seen.add(page)

    def read_file(
        self, repo_id: str, commit: str, path: str, repo_type: str = "dataset", max_bytes: int = MAX_SMALL_FILE
    ) -> bytes:
        """A whole small file; the caller proves its hash. Raises HubError above `max_bytes`."""
        failures = 0
        while True:
            content = bytearray()
            with self.open_stream(repo_id, commit, path, repo_type=repo_type) as response:
                try:
                    while chunk := read_body(response, 1 << 20):
                        content += chunk
                        if len(content) > max_bytes:
                            raise HubError(f"{repo_id}/{path} is larger than the {max_bytes:,} B expected of it")
                    return bytes(content)
                except BodyCutError as error:
                    failures += 1
                    if failures > self.options.max_retries:
                        raise
                    self.patience.pause(self.patience.backoff(failures), str(error))

    def open_stream(
        self,
        repo_id: str,
        commit: str,
        path: str,
        start: int = 0,
        repo_type: str = "dataset",
        *,
        end: int | None = None,
    ) -> requests.Response:
        """A file's body from byte `start` to `end` (excluded; None: the file's), unread.

        Status 200 (from 0, whatever was asked), 206, or 416.
        """
        subject = self._subject(repo_id, repo_type, check_commit(commit), check_path(path))
        headers = {"Accept-Encoding": "identity"}
        if start or end is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        url = self.file_url(repo_id, commit, path, repo_type)
        return self._get(subject, url, headers=headers, stream=True, allowed=(416,) if start else ())

    def file_url(self, repo_id: str, commit: str, path: str, repo_type: str = "dataset") -> str:
        """The address of a file at a commit."""
        return f"{self.options.endpoint}/{type_prefix(repo_type)}{repo_id}/resolve/{commit}/{quote(path)}"

    def headers_for(self, url: str) -> dict[str, str]:
        """Headers for a downloader of its own: the token only where it belongs."""
        token = self.options.token
        return {"authorization": f"Bearer {token}"} if token and same_origin(url, self.options.endpoint) else {}

    @contextmanager
    def library_session(self, *, xet: bool = False) -> Iterator[None]:
        """Make huggingface_hub's own calls (and those of `datasets`) go through this client's sessions.

        xet is off for the body unless asked for: it would bypass retries, budget and proofs.
        """
        from huggingface_hub import configure_http_backend, constants

        before = os.environ.get("HF_HUB_DISABLE_XET"), constants.HF_HUB_DISABLE_XET
        os.environ["HF_HUB_DISABLE_XET"] = "0" if xet else "1"
        constants.HF_HUB_DISABLE_XET = not xet
        configure_http_backend(lambda: HubSession(self.patience, self._budget))
        try:
            yield
        finally:
            configure_http_backend()
            constants.HF_HUB_DISABLE_XET = before[1]
            if before[0] is None:
                del os.environ["HF_HUB_DISABLE_XET"]
            else:
                os.environ["HF_HUB_DISABLE_XET"] = before[0]

    def _api(self, repo_id: str, repo_type: str) -> str:
        return f"{self.options.endpoint}/api/{repo_type}s/{repo_id}"

    def _subject(self, repo_id: str, repo_type: str, revision: str = "", path: str = "") -> Subject:
        if repo_type not in REPO_TYPES:
            raise HubError(f"{repo_type!r} is no kind of repo; it is one of {', '.join(REPO_TYPES)}")
        source = self.options.token_source or ("its token" if self.options.token else "")
        return Subject(self.options.endpoint, check_repo_id(repo_id), repo_type, revision, path, source)

    def _session(self) -> requests.Session:
        # One a thread (requests' sessions are not thread-safe) and a process (a fork must not share connections).
        key = os.getpid()
        if getattr(self._local, "key", None) != key:
            self._local.key, self._local.session = key, HubSession(self.patience, self._budget)
        session: requests.Session = self._local.session
        return session

    def _get(
        self,
        subject: Subject,
        url: str,
        *,
        parameters: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        stream: bool = False,
        allowed: tuple[int, ...] = (),
    ) -> requests.Response:
        limits = (self.options.connect_timeout, self.options.read_timeout)
        try:
            response = self._session().get(url, params=parameters, headers=headers, stream=stream)
        except requests.RequestException as error:
            retries = self.options.max_retries
            raise HubError(f"{no_answer(error, url, limits)} (after {retries} retries)") from None
        if response.status_code >= 400 and response.status_code not in allowed:
            response.close()
            raise refusal(subject, response.status_code, response.headers, url, self.options.max_retries)
        return response

    def _json(
        self, subject: Subject, url: str, parameters: Mapping[str, str] | None = None
    ) -> tuple[Any, dict[str, dict[str, str]]]:
        response = self._get(subject, url, parameters=parameters)
        try:
            return response.json(), response.links
        except requests.exceptions.JSONDecodeError:
            raise HubError(f"{without_query(url)} answered with something other than JSON; is it a Hub?") from None


def read_body(response: requests.Response, size: int) -> bytes:
    """The next up to `size` bytes of a body, b"" at its end. Raises BodyCutError when the connection breaks."""
    try:
        # Decoding costs a copy: only for the rare answer that is encoded although we asked for none.
        data: bytes = response.raw.read(size, decode_content="Content-Encoding" in response.headers)
    except urllib3.exceptions.ReadTimeoutError:
        raise BodyCutError(f"the body of {_place(response)} came to a halt") from None
    except (urllib3.exceptions.HTTPError, OSError):
        raise BodyCutError(f"the body of {_place(response)} was cut") from None
    return data


def _place(response: requests.Response) -> str:
    return without_query(response.url)


def _is_directory(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.get("type") == "directory"


def _repo_file(entry: Any, subject: Subject) -> RepoFile:
    """One entry of a tree listing: `lfs.oid` is the SHA-256 of LFS and xet files, `oid` the git-sha1 of the others."""
    try:
        lfs = entry.get("lfs")
        source = {"oid": entry["oid"], "size": entry["size"]} if lfs is None else lfs
        path, size, etag = entry["path"], source.get("size", entry["size"]), source["oid"]
    except (AttributeError, KeyError, TypeError):
        raise HubError(f"{subject.page}: the Hub's tree listing has an entry without path, size or hash") from None
    if not isinstance(path, str) or type(size) is not int or size < 0 or not isinstance(etag, str):
        raise HubError(f"{subject.page}: the Hub's tree listing has an entry with a wrong path, size or hash")
    return RepoFile(path, size, etag.removeprefix("sha256:"))
