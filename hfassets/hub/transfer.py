"""One file from the Hub into its blob: received, hashed in passing, proven, then given its name.

Invariant: nothing gets the name `blobs/<etag>` before its bytes have been shown to have that hash. What was received
before a cut, or before a crash, is not asked for again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from hfassets.errors import HubError, IntegrityError
from hfassets.hub.hashing import Hash, hash_file, new_hash
from hfassets.hub.layout import RepoCache
from hfassets.hub.listing import RepoFile
from hfassets.hub.memory import VerifyMemory
from hfassets.hub.partial import Partial, open_partial
from hfassets.hub.plan import prove
from hfassets.hub.refusals import one_line
from hfassets.hub.session import BodyCutError, HubClient, read_body

TRANSFERS = ("http", "hf_transfer", "xet")
# Larger buffers cost more in fresh pages than they save in calls.
CHUNK = 1 << 18

_HF_TRANSFER_MIN = 20 * 1000 * 1000
_HF_TRANSFER_CHUNK = 10 * 1024 * 1024
_HF_TRANSFER = "import json, sys, hf_transfer; hf_transfer.download(**json.load(sys.stdin))"

_FREE: AbstractContextManager[object] = nullcontext()

OnBytes = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class FetchedBlob:
    """What it took: bytes that came over the network, and why the file was fetched a second time ("" = it was not)."""

    received: int
    second: str = ""


@dataclass(slots=True)
class _Job:
    client: HubClient
    repo: RepoCache
    commit: str
    file: RepoFile
    on_bytes: OnBytes
    received: int = 0

    def took(self, size: int) -> None:
        self.received += size
        self.on_bytes(size)


def fetch_blob(
    client: HubClient,
    repo: RepoCache,
    commit: str,
    file: RepoFile,
    memory: VerifyMemory,
    *,
    transfer: str = "http",
    force: bool = False,
    on_bytes: OnBytes = lambda _: None,
    slots: AbstractContextManager[object] = _FREE,
) -> FetchedBlob:
    """Put the blob of `file` in place unless a proven one is there (with `force`, over it).

    `slots` (a semaphore) is held while bytes come in, not while they are made durable: others fetch meanwhile.
    Raises HubError when the Hub does not give the file, IntegrityError when it gives wrong bytes twice.
    """
    blob = repo.blob(file.etag)
    if not force:
        if prove(blob, file, memory):
            on_bytes(file.size)
            return FetchedBlob(0)
        blob.unlink(missing_ok=True)  # damaged, or a link to nothing: nobody should load it meanwhile
    job = _Job(client, repo, commit, file, on_bytes)
    if transfer == "xet":
        with slots:
            return _fetch_xet(job, blob, memory)
    by_hf_transfer = transfer == "hf_transfer" and file.size > _HF_TRANSFER_MIN
    receive = _receive_hf_transfer if by_hf_transfer else _receive_http
    with open_partial(repo, file.etag, private=by_hf_transfer) as partial:
        if force:
            partial.clear()
        second = ""
        for _ in range(2):
            with slots:
                got = receive(job, partial)
            if got == file.etag:
                _publish(partial, blob, file, memory, force)
                return FetchedBlob(job.received, second)
            second = f"its {file.algorithm} was {got}"
            partial.clear()
        partial.remove()
    raise _bad_bytes(job, got)


def _publish(partial: Partial, blob: Path, file: RepoFile, memory: VerifyMemory, force: bool) -> None:
    if not force and prove(blob, file, memory):
        partial.remove()  # another writer was first, with the same bytes
        return
    if partial.size != file.size:
        raise IntegrityError(f"{partial.path}: another process wrote into it; run again")
    partial.publish(blob)
    memory.record(blob, blob.stat(), file.etag)


def _receive_http(job: _Job, partial: Partial) -> str:
    """Receive the rest of a file; the hash of the whole, or what else is wrong with it."""
    size, failures, restarts = job.file.size, 0, 0
    digest, have = _resume(job, partial)
    while have < size:
        try:
            with job.client.open_stream(
                job.repo.repo_id, job.commit, job.file.path, have, job.repo.repo_type
            ) as response:
                if have and not _continues(response.status_code, response.headers.get("Content-Range", ""), have):
                    restarts += 1
                    if restarts > job.client.options.max_retries:
                        raise HubError(f"{job.file.path}: the Hub does not continue where it was cut")
                    job.on_bytes(-have)
                    partial.clear()
                    digest, have = new_hash(job.file.algorithm, size), 0
                    if response.status_code != 200:
                        continue
                while have < size:
                    chunk = read_body(response, min(CHUNK, size - have))
                    if not chunk:
                        job.on_bytes(-have)
                        return f"that of {have:,} B, not {size:,} B"
                    partial.write(chunk, have)
                    digest.update(chunk)
                    have += len(chunk)
                    job.took(len(chunk))
                    failures = 0
                if read_body(response, 1):
                    job.on_bytes(-have)
                    return f"that of more than {size:,} B"
        except BodyCutError as cut:
            if have == size:
                break
            failures += 1
            if failures > job.client.options.max_retries:
                raise
            job.client.patience.pause(job.client.patience.backoff(failures), f"{cut}; {have:,} of {size:,} B are here")
    found = digest.hexdigest()
    if found != job.file.etag:
        job.on_bytes(-have)
    return found


def _resume(job: _Job, partial: Partial) -> tuple[Hash, int]:
    """Hash what an earlier attempt has left; what is longer than the file cannot be its beginning."""
    digest, have = new_hash(job.file.algorithm, job.file.size), 0
    if partial.size > job.file.size:
        partial.clear()
    with open(partial.descriptor, "rb", closefd=False) as file:
        file.seek(0)
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            have += len(chunk)
    job.on_bytes(have)
    return digest, have


def _continues(status: int, content_range: str, have: int) -> bool:
    return status == 206 and content_range.replace("bytes=", "bytes ").startswith(f"bytes {have}-")


def _receive_hf_transfer(job: _Job, partial: Partial) -> str:
    """Let hf_transfer fetch the whole file in parallel ranges, then hash it."""
    client, file = job.client, job.file
    partial.clear()
    with client.open_stream(job.repo.repo_id, job.commit, file.path, repo_type=job.repo.repo_type) as response:
        url = response.url
    arguments = {
        "url": url,
        "filename": str(partial.path),
        "max_files": 8,
        "chunk_size": _HF_TRANSFER_CHUNK,
        "parallel_failures": 3,
        "max_retries": max(1, client.options.max_retries),
        "headers": client.headers_for(url),
    }
    # In a process of its own: it keeps Python's lock while it waits for the network, and so would stop all threads.
    # The token goes by a pipe, never by arguments or environment.
    done = subprocess.run(
        [sys.executable, "-I", "-c", _HF_TRANSFER], input=json.dumps(arguments), capture_output=True, text=True
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        text = one_line(said.replace(urlsplit(url).query or url, "…"), client.options.token)
        raise HubError(f"{file.path}: hf_transfer gave up: {text}; `transfer: http` resumes and retries")
    job.received += partial.size
    if partial.size != file.size:
        return f"that of {partial.size:,} B, not {file.size:,} B"
    found = hash_file(partial.path, file.algorithm)
    if found == file.etag:
        job.on_bytes(file.size)
    return found


def _fetch_xet(job: _Job, blob: Path, memory: VerifyMemory) -> FetchedBlob:
    """Let `huggingface_hub` fetch into the same cache by its own means, then hash it."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    client, file = job.client, job.file
    for second in ("", "its bytes were wrong"):
        try:
            hf_hub_download(
                job.repo.repo_id,
                file.path,
                repo_type=job.repo.repo_type,
                revision=job.commit,
                cache_dir=job.repo.hub_cache,
                endpoint=client.options.endpoint,
                token=client.options.token or False,
                force_download=bool(second),
            )
        except (HfHubHTTPError, OSError, RuntimeError, ValueError) as error:
            text = one_line(str(error), client.options.token)
            raise HubError(f"{file.path}: huggingface_hub gave up: {text}") from None
        job.received += file.size
        if prove(blob, file, memory):
            job.on_bytes(file.size)
            return FetchedBlob(job.received, second)
        blob.unlink(missing_ok=True)
    raise _bad_bytes(job, "something else")


def _bad_bytes(job: _Job, got: str) -> IntegrityError:
    host = urlsplit(job.client.options.endpoint).hostname
    return IntegrityError(
        f"{job.repo.repo_id}/{job.file.path}: {host} served wrong bytes twice: "
        f"expected {job.file.algorithm} {job.file.etag}, got {got}; nothing was kept"
    )
