"""What went wrong, in one line a person can act on, and the report that lists it for all configs.

Invariant: before data is called malformed, its bytes are read again and compared with the Hub's hashes.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from hfassets.errors import DataError, HfassetsError, SpaceError
from hfassets.hub.layout import RepoCache
from hfassets.hub.listing import Listing
from hfassets.hub.memory import VerifyMemory
from hfassets.hub.verify import verify_files
from hfassets.report.units import format_bytes
from hfassets.storage.atomic import write_atomic
from hfassets.storage.state import StateDir

_LONGEST = 300


def explain(
    error: Exception,
    name: str,
    repo: RepoCache,
    snapshot: Path,
    needed: Listing | None,
    state: StateDir,
    errors: Path,
) -> HfassetsError:
    """Turn what `datasets` raised while it prepared `name` into our error, its raw data verified anew.

    `needed`: the listing of the config's files (None: not known, then nothing can be verified). `errors`: what the
    library logged.
    """
    chain = list(_chain(error))
    for cause in chain:
        if isinstance(cause, HfassetsError):
            return type(cause)(f"{name}: {cause}") if type(cause) is DataError else cause
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return SpaceError(f"{name}: no space left while preparing: {cause}")
        if isinstance(cause, ImportError):
            return DataError(f"{name}: its format needs a package that is not installed: {_first_line(str(cause))}")
    what = _message(chain, snapshot, errors)
    return DataError(f"{name} cannot be prepared: {what}; {_state_of_bytes(repo, needed, state)}")


def write_report(state: StateDir, repo_id: str, failures: Sequence[tuple[str, str]], total: int) -> Path:
    """Write `download_failures_<repo>_<time>.txt`: header, date, count, then each config and its full error."""
    stamp = time.strftime("%Y%m%d_%H%M%S")
    path = state.reports / f"download_failures_{repo_id.replace('/', '_')}_{stamp}.txt"
    lines = [
        f"Download failures of {repo_id}",
        f"Date: {time.strftime('%Y-%m-%d %H:%M:%S')}",
        f"Failed configs: {len(failures)} of {total}",
        "",
    ]
    for config, reason in failures:
        lines += [f"Config: {config}", f"Error: {reason}", ""]
    write_atomic(path, "\n".join(lines).encode())
    return path


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was made from; `raise … from None` of the library hides causes, not contexts."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _message(chain: Sequence[BaseException], snapshot: Path, errors: Path) -> str:
    first = str(chain[0])
    if "All the data files must have the same columns" in first:
        paragraphs = [paragraph.strip() for paragraph in first.split("\n\n") if paragraph.strip()]
        found = next((index for index, text in enumerate(paragraphs) if text.startswith("This happened while")), None)
        origin = paragraphs[found + 1] if found is not None and found + 1 < len(paragraphs) else ""
        file = f"{origin.partition(', [')[0].replace(f'{snapshot}/', '')}: " if origin else ""
        return file + _first_line(paragraphs[1])
    if type(chain[0]).__name__ == "NonMatchingSplitsSizesError":
        return f"the rows found are not those that the repo's card announces: {_first_line(first)}"
    logged = errors.read_text(encoding="utf-8", errors="replace") if errors.is_file() else ""
    named = re.search(rf"{re.escape(str(snapshot))}/([^'\n]+)", logged) or re.search(
        rf"{re.escape(str(snapshot))}/([^'\n]+)", first
    )
    # The library wraps what the reader said; the innermost error before unrelated contexts is the reader's.
    cause: BaseException = chain[0]
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = _first_line(str(cause) or type(cause).__name__).replace(f"{snapshot}/", "")
    return f"{named.group(1)}: {text}" if named and named.group(1) not in text else text


def _state_of_bytes(repo: RepoCache, needed: Listing | None, state: StateDir) -> str:
    """Whether the raw data is what the Hub has, as a clause."""
    if needed is None:
        return "whether its raw files are intact cannot be told, since their hashes are not known here"
    memory = VerifyMemory.open(state, repo)
    report = verify_files(repo, needed, memory, full=True)
    for fault in report.faults:
        memory.forget(fault.file)
    memory.save()
    if report.faults:
        first, more = report.faults[0], len(report.faults) - 1
        also = f" and {more} more" if more else ""
        again = f"run `hfassets hub download --dataset-name {repo.repo_id}` again"
        return f"its raw data is damaged ({first.path} is {first.kind}{also}): {again}"
    size = format_bytes(needed.total_bytes)
    return f"all {len(needed.files)} raw files ({size}) are as the Hub has them, so the data itself is malformed"


def _first_line(text: str) -> str:
    """The first line, with those after it when it only announces them."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    line = " ".join(lines) if lines[0].endswith(":") else lines[0]
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
