"""What a failed request means, in one line that says what to do. Pure.

Invariant: no text made here contains a token, a query string (signed URLs) or a second line.
Source of the codes: `X-Error-Code` and `X-Error-Message` as huggingface_hub 0.36 reads them (`hf_raise_for_status`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import requests

from hfassets.errors import HubError
from hfassets.report.units import format_seconds

_MESSAGE_LENGTH = 200


class HubRefusalError(HubError):
    """The Hub answered with an error status. `code` is its X-Error-Code (`EntryNotFound`, `GatedRepo`, …) or ""."""

    def __init__(self, text: str, status: int, code: str) -> None:
        super().__init__(text)
        self.status = status
        self.code = code

    @property
    def is_final(self) -> bool:
        """Whether asking for other files of the same repo would be refused as well."""
        return self.status in (401, 403) or self.code in ("RepoNotFound", "RevisionNotFound", "GatedRepo")


@dataclass(frozen=True, slots=True)
class Subject:
    """What a request was about, for the text of its error."""

    endpoint: str
    repo_id: str
    repo_type: str = "dataset"
    revision: str = ""
    path: str = ""
    token_source: str = ""  # where the token came from; "" = there is none

    @property
    def page(self) -> str:
        """The repo's page on the Hub."""
        return f"{self.endpoint}/{type_prefix(self.repo_type)}{self.repo_id}"


def type_prefix(repo_type: str) -> str:
    """What stands before a repo id in a web address: nothing for models."""
    return "" if repo_type == "model" else f"{repo_type}s/"


def without_query(url: str) -> str:
    """A URL that may be shown: without credentials, query and fragment."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"


def one_line(text: str, secret: str | None) -> str:
    """Foreign text cut to one short line, `secret` taken out."""
    if secret:
        text = text.replace(secret, "***")
    line = " ".join(text.split())
    return line if len(line) <= _MESSAGE_LENGTH else line[: _MESSAGE_LENGTH - 1] + "…"


def refusal(subject: Subject, status: int, headers: Mapping[str, str], url: str, retries: int) -> HubRefusalError:
    """The error for an answer with status ≥ 400, after `retries` retries."""
    code = headers.get("X-Error-Code", "")
    return HubRefusalError(_text(subject, status, code, headers, url, retries), status, code)


def _text(subject: Subject, status: int, code: str, headers: Mapping[str, str], url: str, retries: int) -> str:
    message = headers.get("X-Error-Message", "")
    what = f"{subject.repo_type} {subject.repo_id}"
    if code == "GatedRepo":
        who = f"the account of {subject.token_source}" if subject.token_source else "your account, then set HF_TOKEN"
        return f"{what} is gated: accept its conditions at {subject.page} with {who}, and run again"
    if code == "RevisionNotFound":
        return f"{what} has no revision {subject.revision!r}; {subject.page}/tree/main shows its branches and tags"
    if code == "EntryNotFound":
        return f"{what} has no file {subject.path!r} at {subject.revision}"
    if status == 401 and (subject.token_source and code != "RepoNotFound"):
        return (
            f"the Hub does not accept the token of {subject.token_source}; "
            f"make a new one at {subject.endpoint}/settings/tokens"
        )
    if code == "RepoNotFound" or status in (401, 404):
        token = f"a token that may read it ({subject.token_source} may not)" if subject.token_source else "HF_TOKEN"
        return f"{what} does not exist or is private: check the id at {subject.page}, or set {token}"
    if status == 403:
        return f"{what} may not be read with the token of {subject.token_source or 'nobody'}: {one_line(message, None)}"
    if status == 429:
        asked = headers.get("Retry-After", "")
        later = f", which asks to come back after {asked} s" if asked.isdigit() else ""
        return f"{what}: the Hub still refuses requests after {retries} retries (429{later}); run again later"
    said = one_line(message, None)
    return f"{what}: the Hub answered {status} after {retries} retries for {without_query(url)}{said and f': {said}'}"


def no_answer(error: Exception, url: str, timeouts: tuple[float, float]) -> str:
    """Why there was no answer at all, from an exception of requests or urllib3."""
    host = urlsplit(url).netloc.rpartition("@")[2]
    if isinstance(error, requests.exceptions.ProxyError):
        return f"the proxy for {host} refuses; check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
    if isinstance(error, requests.exceptions.SSLError):
        return f"the certificate of {host} is not accepted; REQUESTS_CA_BUNDLE names the authorities to trust"
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return f"no connection to {host} within {format_seconds(timeouts[0])}"
    if isinstance(error, requests.exceptions.ReadTimeout) or "timed out" in str(error).lower():
        return f"no answer from {host} within {format_seconds(timeouts[1])}"
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.TooManyRedirects):
        return f"{without_query(url)} leads nowhere"
    return f"the connection to {host} failed: {_innermost(error)}"


def _innermost(error: BaseException) -> str:
    """The reason of the operating system at the bottom of nested errors, without addresses and URLs."""
    found: BaseException | None = error
    reason = "it was closed before the answer was complete"
    while found is not None:
        if isinstance(found, OSError) and found.strerror:
            reason = found.strerror
        inner = getattr(found, "reason", None)
        arguments = [item for item in found.args if isinstance(item, BaseException)]
        nested = inner if isinstance(inner, BaseException) else next(iter(arguments), None)
        found = nested or found.__cause__ or found.__context__
    return reason
