"""Files at plain URLs, which publish no hash: fetched whole, resumed where they were cut, proven by what they allow.

Invariant: a file that is handed out has the length that its server said, and a gzip file its own checksum.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import requests
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from hfassets.errors import DataError, HfassetsError, IntegrityError
from hfassets.sources.decode import decoded
from hfassets.sources.files import CHUNK, format_of
from hfassets.storage.state import file_name

_TIMEOUT = (10.0, 60.0)
_LONGEST_WAIT = 300.0
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)


class UrlError(HfassetsError):
    """A URL cannot be read."""


class _AgainError(UrlError):
    """It may go better next time. `wait`: seconds that the server asked for."""

    def __init__(self, text: str, wait: float = 0.0) -> None:
        super().__init__(text)
        self.wait = wait


def read_url_list(path: Path, section: str | None = None) -> list[str]:
    """The URLs of a file, one a line, those that contain `section`; raises DataError for what is no list of URLs."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a list of URLs that can be read ({type(error).__name__})") from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        if urlsplit(line).scheme not in ("http", "https") or not urlsplit(line).hostname:
            raise DataError(f"{path}, line {number}: {line[:100]!r} is no http(s) URL")
        if section is None or section in line:
            found.append(line)
    if not found:
        raise DataError(f"{path}: no URL with {section!r} in it" if section else f"{path}: no URL in it")
    return found


def part_names(urls: Sequence[str]) -> list[str]:
    """The folder of each URL as the older script names it: the file's name without `.json.gz`, `-` as `_`.

    Raises DataError when two URLs would share one.
    """
    names = []
    for url in urls:
        name = Path(urlsplit(url).path).name
        for ending in (".gz", ".zst", ".json", ".jsonl", ".ndjson", ".parquet"):
            name = name.removesuffix(ending)
        names.append(file_name(name.replace("-", "_") or "file"))
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"two URLs would be written to the folder {name}")
    return names


def fetch_url(url: str, target: Path, max_retries: int) -> None:
    """Bring a URL's content to `target`; what is there of it is kept and gone on from.

    Raises UrlError when it cannot be had, IntegrityError when what came is damaged.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    retrying = Retrying(
        retry=retry_if_exception_type(_AgainError),
        stop=stop_after_attempt(max_retries + 1),
        wait=_wait,
        sleep=time.sleep,
        reraise=True,
    )
    retrying(_fetch_rest, url, target)
    try:
        _prove(target, url)
    except DataError as error:
        target.unlink()
        raise IntegrityError(f"{url}: what came is damaged: {error}") from None


def _wait(state: RetryCallState) -> float:
    error = None if state.outcome is None else state.outcome.exception()
    asked = error.wait if isinstance(error, _AgainError) else 0.0
    return min(_LONGEST_WAIT, max(asked, wait_exponential_jitter(initial=0.5, max=30)(state)))


def _fetch_rest(url: str, target: Path) -> None:
    have = target.stat().st_size if target.exists() else 0
    where = urlsplit(url)._replace(query="", fragment="").geturl()
    try:
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
        with requests.get(url, stream=True, timeout=_TIMEOUT, headers=headers) as answer:
            if answer.status_code in _TRY_AGAIN:
                raise _AgainError(f"{where}: HTTP {answer.status_code}", _asked(answer))
            if answer.status_code == 416:
                total = answer.headers.get("Content-Range", "").rpartition("/")[2]
                if total == str(have):
                    return
                target.unlink()
                raise _AgainError(f"{where}: it has another length than what had arrived")
            if answer.status_code not in (200, 206):
                raise UrlError(f"{where}: HTTP {answer.status_code} {answer.reason}")
            length = answer.headers.get("Content-Length")
            with target.open("ab" if answer.status_code == 206 else "wb") as file:
                came = 0
                for chunk in answer.iter_content(CHUNK):
                    came += file.write(chunk)
            if length is not None and came != int(length):
                raise _AgainError(f"{where}: cut after {came:,} of {int(length):,} B")
    except requests.RequestException as error:
        raise _AgainError(f"{where}: {type(error).__name__}") from None


def _asked(answer: requests.Response) -> float:
    value = answer.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else 0.0


def _prove(path: Path, url: str) -> None:
    """Read a compressed file to its end: its checksum is there."""
    kind = format_of(urlsplit(url).path)
    if kind in ("json.gz", "json.zst"):
        with path.open("rb") as file:
            for _ in decoded(iter(lambda: file.read(CHUNK), b""), kind, url):
                pass
