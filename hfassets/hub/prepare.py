"""From the raw files of one dataset config to Arrow in the `datasets` cache, where plain `load_dataset` finds it.

Invariants: only the pinned local snapshot is read, and no connection is opened. A folder appears under the name that
the library looks for only when it is whole, and what was there before stays until then. The manifest is written last.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hfassets.errors import DataError, HfassetsError, IntegrityError, SpaceError
from hfassets.hub.configs import METADATA_FILES, read_card
from hfassets.hub.failures import explain
from hfassets.hub.hashing import hash_file
from hfassets.hub.layout import RepoCache
from hfassets.hub.listing import Listing
from hfassets.hub.listings import kept_listing, local_names
from hfassets.progress import Note, Progress, ProgressCallback, silent
from hfassets.report.units import format_bytes
from hfassets.storage.atomic import TEMPORARY, publish_directory
from hfassets.storage.lease import lease
from hfassets.storage.manifest import Manifest, OutputFile, provenance, read_manifest, write_manifest
from hfassets.storage.space import require_space
from hfassets.storage.state import StateDir

STAGE = "prepared_dataset"
FORMAT = 1

# Arrow bytes for each raw byte, as an upper estimate: compressed columns and text grow, folders of media become paths.
_GROWTH = {"parquet": 3.0, "json": 1.5, "csv": 1.5, "text": 1.5, "arrow": 1.1, "webdataset": 1.1}
_GROWTH_FOLDER = 0.1
_GROWTH_ARCHIVE = 4.0
_COMPRESSED = (".gz", ".zst", ".bz2", ".xz", ".lz4", ".zip", ".7z")


@dataclass(frozen=True, slots=True)
class PrepareRequest:
    """What to prepare, and where. `key` names the manifest (default `<repo>:<config>`); `num_proc` None = 1;
    `only_existing`: take over what `load_dataset` has left there, and prepare nothing.
    """

    repo: RepoCache
    config: str
    commit: str
    datasets_cache: Path
    state: StateDir
    num_proc: int | None = None
    force: bool = False
    key: str | None = None
    run_id: str = ""
    lease_wait: float = 0.0
    only_existing: bool = False

    @property
    def name(self) -> str:
        """`<repo>:<config>`, for people."""
        return f"{self.repo.repo_id}:{self.config}"

    @property
    def manifest(self) -> Path:
        """Where the manifest lies."""
        return self.state.manifest(STAGE, self.key or self.name)

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The identity's inputs: a commit stands for every byte of the repo."""
        return {"repo_id": self.repo.repo_id, "repo_type": self.repo.repo_type, "commit": self.commit}


@dataclass(frozen=True, slots=True)
class PreparedDataset:
    """A config ready to load: rows of each split, the features as `datasets` prints them, bytes on disk.

    `reused`: nothing was prepared now. `load_call` is Python that loads it.
    """

    repo_id: str
    config: str
    commit: str
    folder: Path
    splits: Mapping[str, int]
    features: str
    size: int
    reused: bool
    load_call: str
    files: tuple[OutputFile, ...]
    fingerprint: str
    seconds: float


def find_prepared(request: PrepareRequest) -> PreparedDataset | None:
    """What is already prepared at that commit: a valid manifest, and each of its files there in its size.

    Costs a stat a file; `datasets` is not imported.
    """
    try:
        manifest = read_manifest(request.manifest)
    except IntegrityError:
        return None
    if manifest is None or manifest.stage != STAGE or manifest.format != FORMAT:
        return None
    root = Path(manifest.root)
    if manifest.inputs != request.inputs or manifest.parameters != {"config": request.config}:
        return None
    if not root.is_relative_to(request.datasets_cache.absolute()):
        return None
    for file in manifest.files:
        try:
            if (root / file.path).stat().st_size != file.size:
                return None
        except OSError:
            return None
    return _result(request, manifest, reused=True, seconds=0.0)


def prepare(request: PrepareRequest, progress: ProgressCallback = silent) -> PreparedDataset:
    """Prepare one config from its snapshot, or find that it is prepared.

    Raises DataError (the data cannot be prepared; the line says whether its bytes are damaged), SpaceError,
    LeaseHeldError, IntegrityError.
    """
    if not request.force and (found := find_prepared(request)) is not None:
        return found
    started = time.monotonic()
    cache = hashlib.sha256(os.fsencode(request.datasets_cache.resolve())).hexdigest()[:16]
    held = request.state.lease(f"prepared:{request.name}:{cache}")
    with lease(
        held,
        f"{request.name} in {request.datasets_cache}",
        run_id=request.run_id,
        wait=request.lease_wait,
        on_wait=lambda line: progress(Note(line)),
    ):
        if not request.force and (found := find_prepared(request)) is not None:
            return found
        try:
            return _prepare(request, started, progress)
        except PermissionError as error:
            raise HfassetsError(
                f"{request.name}: {error.filename} cannot be written by this user (uid {os.getuid()}); "
                "ask its owner for group write access, or name another --cache-dir"
            ) from error


def _prepare(request: PrepareRequest, started: float, progress: ProgressCallback) -> PreparedDataset:
    from hfassets.hub import library
    from hfassets.hub.resolution import resolve

    snapshot = request.repo.snapshot(request.commit).absolute()
    if not snapshot.is_dir():
        raise DataError(
            f"{request.name}: no snapshot of {request.commit} in {request.repo.hub_cache}; download it first"
        )
    listing = kept_listing(request.state, request.repo, request.commit)
    names = [file.path for file in listing.files] if listing else local_names(request.repo, request.commit)
    metadata = {name: (snapshot / name).read_bytes() for name in METADATA_FILES if (snapshot / name).is_file()}
    card = read_card(request.repo.repo_id, metadata)
    resolved = resolve(request.repo.repo_id, names, card, request.config, lambda path: _existing(snapshot / path))
    _require_files(request, resolved.data_files, snapshot)
    builder = library.make_builder(resolved, request.repo.repo_id, request.commit, request.datasets_cache.absolute())
    folder = Path(builder.cache_dir)
    _wait_for_library(library.library_lock(folder), request, progress)
    # Also when all is there: a run may have been killed after its data had got their place.
    _remove_abandoned(folder.parent)
    if not request.force and folder.is_dir():
        try:
            present = library.read_prepared(folder)
        except IntegrityError as error:
            progress(Note(f"{error}; preparing again", "warning"))
        else:
            return _record(
                request, folder, folder, present, resolved.data_files, started, reused=True, progress=progress
            )
    if request.only_existing:
        raise DataError(f"{request.name}: not prepared as a whole in {folder}")
    _require_space(request, resolved, snapshot)
    with _container(folder) as container:
        output, errors = container / "data", container / "errors.log"
        num_proc = _processes(request.num_proc, resolved.data_files)
        try:
            with children_die_with_us(num_proc):
                library.download_and_prepare(builder, snapshot, output, num_proc, errors, progress)
        except Exception as error:
            needed = _needed(listing, resolved.data_files)
            raise explain(error, request.name, request.repo, snapshot, needed, request.state, errors) from error
        written = library.read_prepared(output)
        return _record(
            request,
            output,
            folder,
            written,
            resolved.data_files,
            started,
            reused=False,
            progress=progress,
            lock=library.library_lock(folder),
        )


def _record(
    request: PrepareRequest,
    source: Path,
    folder: Path,
    prepared: Any,
    data_files: Mapping[str, tuple[str, ...]],
    started: float,
    *,
    reused: bool,
    progress: ProgressCallback,
    lock: Any = None,
) -> PreparedDataset:
    """Hash what lies in `source`, publish it as `folder` (when it is not there already), write the manifest."""
    files = []
    total, done = sum(path.stat().st_size for path in prepared.files), 0
    for path in prepared.files:
        size = path.stat().st_size
        files.append(OutputFile(path.relative_to(source).as_posix(), size, hash_file(path, "sha256")))
        done += size
        progress(Progress(f"{request.name}: hashing", done, total, "B"))
    if lock is not None:
        with suppress(FileNotFoundError):
            request.manifest.unlink()
        with lock:
            publish_directory(source, folder, replace=True)
    details = {
        "features": prepared.features,
        "splits": list(prepared.rows),
        "data_files": {split: len(paths) for split, paths in data_files.items()},
        "num_proc": request.num_proc,
    }
    manifest = Manifest(
        STAGE,
        FORMAT,
        request.inputs,
        {"config": request.config},
        str(folder),
        tuple(files),
        account=dict(prepared.rows),
        details=details,
        recorded=provenance() | {"datasets": _library_version()},
    )
    write_manifest(request.manifest, manifest)
    return _result(request, manifest, reused=reused, seconds=time.monotonic() - started)


def _library_version() -> str:
    from hfassets.hub import library

    return library.LIBRARY_VERSION


def _result(request: PrepareRequest, manifest: Manifest, *, reused: bool, seconds: float) -> PreparedDataset:
    repo_id, cache = request.repo.repo_id, str(request.datasets_cache.absolute())
    return PreparedDataset(
        repo_id=repo_id,
        config=request.config,
        commit=request.commit,
        folder=Path(manifest.root),
        splits={split: manifest.account[split] for split in manifest.details.get("splits", manifest.account)},
        features=str(manifest.details.get("features", "")),
        size=manifest.total_bytes,
        reused=reused,
        load_call=f"load_dataset({repo_id!r}, {request.config!r}, cache_dir={cache!r}, revision={request.commit!r})",
        files=manifest.files,
        fingerprint=manifest.fingerprint,
        seconds=seconds,
    )


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def _needed(listing: Listing | None, data_files: Mapping[str, tuple[str, ...]]) -> Listing | None:
    return None if listing is None else listing.select(path for paths in data_files.values() for path in paths)


def _require_files(request: PrepareRequest, data_files: Mapping[str, tuple[str, ...]], snapshot: Path) -> None:
    wanted = [path for paths in data_files.values() for path in paths]
    missing = [path for path in wanted if not (snapshot / path).is_file()]
    if missing:
        raise DataError(
            f"{request.name}: {len(missing)} of {len(wanted)} data files are not in the cache "
            f"({missing[0]}{', …' if len(missing) > 1 else ''}): fetch them first; "
            "a part of a config is never prepared under its name"
        )


def _require_space(request: PrepareRequest, resolved: Any, snapshot: Path) -> None:
    known = resolved.info.dataset_size if resolved.info is not None else None
    paths = [path for paths in resolved.data_files.values() for path in paths]
    raw = sum((snapshot / path).stat().st_size for path in paths)
    factor = _GROWTH.get(resolved.module, _GROWTH_FOLDER)
    if any(path.endswith(_COMPRESSED) for path in paths):
        factor = max(factor, _GROWTH_ARCHIVE)
    size = known or round(raw * factor)
    why = "the card's own figure" if known else f"estimated as {factor:g} x {format_bytes(raw)} of {resolved.module}"
    try:
        require_space(request.datasets_cache.absolute(), size, 2 * len(resolved.data_files) + 8)
    except SpaceError as error:
        raise SpaceError(f"{request.name}: about {format_bytes(size)} of Arrow to write ({why}): {error}") from error


def _processes(num_proc: int | None, data_files: Mapping[str, tuple[str, ...]]) -> int | None:
    """No more processes than the largest split has files: the library shares out whole files."""
    most = max(len(paths) for paths in data_files.values())
    return min(num_proc, most) if num_proc and min(num_proc, most) > 1 else None


def _wait_for_library(lock: Any, request: PrepareRequest, progress: ProgressCallback) -> None:
    """Wait until no `datasets` builder of another process writes the same folder."""
    try:
        with lock.acquire(timeout=0):
            return
    except Timeout:
        progress(Note(f"{request.name}: another process is preparing it in {request.datasets_cache}; waiting for it"))
    with lock:
        return


@contextmanager
def _container(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, locked while its owner lives, with all that preparing leaves behind."""
    container = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    container.mkdir(parents=True)
    with FileLock(container / "owner"):
        try:
            yield container
        finally:
            shutil.rmtree(container, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    """Delete the temporary folders of crashed runs. One whose owner lives, or that we may not delete, stays."""
    for entry in parent.iterdir() if parent.is_dir() else ():
        if TEMPORARY.match(entry.name) and entry.is_dir():
            with suppress(OSError, Timeout), FileLock(entry / "owner").acquire(timeout=0):
                shutil.rmtree(entry, ignore_errors=True)


_PR_SET_PDEATHSIG = 1
_dying_children = False
_hooked = False
_forking = threading.local()


@contextmanager
def children_die_with_us(num_proc: int | None) -> Iterator[None]:
    """Processes forked in the body end when this one is killed (a pool's orphans would wait for ever), and when their
    pool tells them to, whatever the parent does at SIGTERM. Linux."""
    global _dying_children, _hooked
    if not _hooked:
        os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_begin_child)
        _hooked = True
    _dying_children = num_proc is not None
    try:
        yield
    finally:
        _dying_children = False


def _before_fork() -> None:
    # A pool that is done before all its workers have begun tells them so at once; Python forgets in a new process what
    # a handler of its parent has taken, and the pool would wait for it for ever.
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}) if _dying_children else None


def _after_fork() -> None:
    if _forking.mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _begin_child() -> None:
    if _forking.mask is not None:
        # A handler in Python never runs in a worker that waits for a lock.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _after_fork()
