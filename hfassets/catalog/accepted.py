"""The catalog in force: the newest valid one, else the last that was accepted.

Invariant: whatever stands in `catalog.yaml`, there is an answer, and it says what is wrong with the newest. A key that
was ever accepted stays a partition until it is pruned: removed from the catalog it is *retired*, so that a backfill
which targets it goes on.

In `state_dir/catalog/`:
- `<sha>/catalog.yaml`, `<sha>/catalog.lock`: a copy of each accepted pair; never changed. References to the
  environment stand there unresolved.
- `accepted-<id>.json`: which sha is in force, and all known keys. One a catalog: the id is the catalog's place relative
  to the state folder, so that both can be moved, and several catalogs can share the state.
Beside the catalog, `.catalog.accepted.json` names the state folder for when the catalog itself cannot be read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from hfassets.catalog.known import Record, RecordError, read_record, write_record
from hfassets.catalog.load import (
    Parsed,
    empty_catalog,
    parse_catalog,
    pointer_path,
    read_bytes,
    salvage_state_dir,
    without_collection,
)
from hfassets.catalog.lock import (
    Lock,
    Partition,
    config_errors,
    lock_path,
    parse_lock,
    partitions,
    read_lock_bytes,
)
from hfassets.catalog.models import Catalog
from hfassets.errors import CatalogError, LeaseHeldError
from hfassets.storage.atomic import publish_directory, remove_temporaries, temporary_beside, write_atomic
from hfassets.storage.lease import lease
from hfassets.storage.state import StateDir

LEASE_WAIT = 10.0


@dataclass(frozen=True, slots=True)
class Accepted:
    """The catalog in force.

    `errors`: why the newest on disk is not it, one line a mistake; empty = it is. `sha` identifies the content of
    catalog and lock, "" = there is none in force: `catalog` is then empty and its partitions are those that were
    known, so that nothing that refers to them fails to load. `notes`: what did not work and does not matter now.
    """

    sha: str
    catalog: Catalog
    lock: Lock
    partitions: tuple[Partition, ...]
    path: Path
    errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def error(self) -> str | None:
        """All of `errors` in one line, None when the newest catalog is in force."""
        return "; ".join(self.errors) or None

    @property
    def retired(self) -> tuple[str, ...]:
        """Keys of `partitions` that are no longer in the catalog."""
        return tuple(one.key for one in self.partitions if one.retired)

    def require(self) -> Catalog:
        """The catalog, for those who are about to work by it; raises CatalogError when none is in force."""
        if not self.sha:
            raise CatalogError(self.errors)
        return self.catalog


@dataclass(frozen=True, slots=True)
class Candidate:
    """A valid catalog and lock as read from disk."""

    sha: str
    contents: Mapping[str, bytes]
    catalog: Catalog
    lock: Lock
    partitions: tuple[Partition, ...]

    @property
    def state(self) -> Path:
        """Where accepted catalogs are kept."""
        return StateDir(self.catalog.storage.state_dir).catalogs


@dataclass(frozen=True, slots=True)
class Pruned:
    """The keys that a prune removed (or would), sorted."""

    keys: tuple[str, ...]


@without_collection()
def accept(path: Path, *, record: bool = True) -> Accepted:
    """Put the catalog at `path` in force if it is valid, else stay with the last accepted one; raises for neither.

    Safe to be called by many processes at once and to be killed anywhere. With `record` False nothing is written.
    """
    path = path.absolute()
    notes: list[str] = []
    retired: tuple[Partition, ...] = ()
    try:
        candidate = examine(path)
        try:
            history = _history(path, candidate.state)
            if record and not _is_recorded(path, candidate, history):
                candidate, history = _record(path, candidate, history, notes)
            retired = history.retired(candidate.partitions)
        except RecordError as error:
            notes.extend(error.errors)
    except CatalogError as error:
        return _last_accepted(path, error.errors)
    members = (*candidate.partitions, *retired)
    return Accepted(candidate.sha, candidate.catalog, candidate.lock, members, path, notes=tuple(notes))


def accepted_copy(accepted: Accepted, sha: str) -> tuple[Partition, ...]:
    """The partitions of a catalog that was accepted before; raises CatalogError when its copy is not there any more."""
    return _load_copy(accepted.path, StateDir(accepted.catalog.storage.state_dir).catalogs / sha).partitions


def examine(path: Path) -> Candidate:
    """Read and validate the catalog and its lock as they are now; raises CatalogError with every mistake."""
    return _validate(_read(path), path, path.absolute().parent)


def prune(path: Path, targeted: Mapping[str, Sequence[str]], *, dry_run: bool = False) -> Pruned:
    """Forget the retired keys.

    `targeted`: partition key -> who works on it (runs and backfills in progress). Raises CatalogError, and removes
    nothing, when one of the retired keys is among them or the catalog on disk is not valid.
    """
    path = path.absolute()
    candidate = examine(path)
    if dry_run:
        return Pruned(_prunable(path, candidate, targeted))
    with _writing(candidate):
        candidate = examine(path)
        keys = _prunable(path, candidate, targeted)
        _publish(candidate)
        write_record(_record_path(path, candidate.state), Record().accept(candidate.sha, candidate.partitions))
        _write_pointer(path, candidate.catalog.storage.state_dir)
    return Pruned(keys)


def _prunable(path: Path, candidate: Candidate, targeted: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    retired = sorted(one.key for one in _history(path, candidate.state).retired(candidate.partitions))
    held = [f"{key} is targeted by {', '.join(targeted[key])}" for key in retired if key in targeted]
    if held:
        raise CatalogError([*held, "nothing was pruned; wait for these to end, or cancel them"])
    return tuple(retired)


def _read(path: Path) -> dict[str, bytes]:
    contents = {"catalog.yaml": read_bytes(path)}
    locked = read_lock_bytes(lock_path(path))
    return contents if locked is None else {**contents, "catalog.lock": locked}


def _sha(contents: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in sorted(contents.items()):
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _validate(contents: Mapping[str, bytes], path: Path, folder: Path) -> Candidate:
    errors: list[str] = []
    parsed = _collect(errors, lambda: parse_catalog(contents["catalog.yaml"], _shown(path), folder=folder))
    lock = _collect(errors, lambda: parse_lock(contents.get("catalog.lock"), _shown(lock_path(path))))
    if isinstance(parsed, Parsed) and isinstance(lock, Lock):
        errors.extend(parsed.error(keys, text) for keys, text in config_errors(parsed.catalog, lock))
        if not errors:
            members = partitions(parsed.catalog, lock)
            return Candidate(_sha(contents), dict(contents), parsed.catalog, lock, members)
    raise CatalogError(errors)


def _collect(errors: list[str], step: Callable[[], Parsed | Lock]) -> Parsed | Lock | None:
    try:
        return step()
    except CatalogError as error:
        errors.extend(error.errors)
        return None


def _shown(path: Path) -> Path:
    """The path as messages name it: relative where the file lies below the current folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


@contextmanager
def _writing(candidate: Candidate) -> Iterator[None]:
    """Alone among the processes that record, under the catalog's umask; raises LeaseHeldError."""
    mask = candidate.catalog.storage.umask
    before = None if mask is None else os.umask(mask)
    try:
        with lease(candidate.state / "accept.lease", "the accepted catalog", wait=LEASE_WAIT):
            yield
    finally:
        if before is not None:
            os.umask(before)


def _record(path: Path, candidate: Candidate, history: Record, notes: list[str]) -> tuple[Candidate, Record]:
    """Make the candidate the accepted catalog; returns what is recorded, newer if the file changed meanwhile.

    What cannot be written is a note: the catalog is valid, and whoever can write records it later. Raises CatalogError
    when the file became invalid meanwhile.
    """
    state = candidate.state
    try:
        with _writing(candidate):
            # Read again under the lease: a process that was held up must not put an older catalog in force.
            newest = examine(path)
            if newest.state != state:
                notes.append(f"{_shown(path)} was edited while it was read; the next load records it")
                return candidate, history
            remove_temporaries(state)
            record = _history(path, state).accept(newest.sha, newest.partitions)
            _publish(newest)
            write_record(_record_path(path, state), record)
            _write_pointer(path, newest.catalog.storage.state_dir)
            return newest, record
    except LeaseHeldError as error:
        notes.append(f"not recorded as accepted: {error}")
    except OSError as error:
        notes.append(f"not recorded as accepted in {state}: {error.strerror}")
    return candidate, history


def _is_recorded(path: Path, candidate: Candidate, history: Record) -> bool:
    copied = (candidate.state / candidate.sha / "catalog.yaml").is_file()
    pointed = _pointed_state(path) == candidate.catalog.storage.state_dir or not os.access(path.parent, os.W_OK)
    # The same content can mean other keys under another environment.
    known = all(one.key in history.keys for one in candidate.partitions)
    return copied and pointed and known and history.sha == candidate.sha


def _history(path: Path, state: Path) -> Record:
    """What was accepted so far, with the keys from a state folder that the catalog named before."""
    record = read_record(_record_path(path, state)) or Record()
    pointed = _pointed_state(path)
    if pointed is not None and StateDir(pointed).catalogs != state:
        before = read_record(_record_path(path, StateDir(pointed).catalogs)) or Record()
        return Record(record.sha, {**before.keys, **record.keys})
    return record


def _publish(candidate: Candidate) -> None:
    final = candidate.state / candidate.sha
    if final.is_dir():
        return
    temporary = temporary_beside(final)
    temporary.mkdir(parents=True)
    for name, content in candidate.contents.items():
        (temporary / name).write_bytes(content)
    publish_directory(temporary, final)


def _last_accepted(path: Path, errors: tuple[str, ...]) -> Accepted:
    """What was in force before the catalog became wrong."""
    for state_dir in dict.fromkeys(_state_dirs(path)):
        state = StateDir(state_dir).catalogs
        try:
            record = read_record(_record_path(path, state))
            if record is None:
                continue
            retired = record.retired(())
        except RecordError as error:
            errors = (*errors, *error.errors)
            continue
        try:
            candidate = _load_copy(path, state / record.sha)
        except CatalogError as error:
            # An environment variable that is gone, say. The keys stay, for the location must load; work is refused.
            unusable = (f"the last accepted catalog cannot be used either: {line}" for line in error.errors)
            return Accepted("", empty_catalog(path, state_dir), Lock(), retired, path, (*errors, *unusable))
        members = (*candidate.partitions, *record.retired(candidate.partitions))
        return Accepted(candidate.sha, candidate.catalog, candidate.lock, members, path, errors)
    return Accepted("", empty_catalog(path), Lock(), (), path, errors)


def _load_copy(path: Path, folder: Path) -> Candidate:
    copied = folder / "catalog.yaml"
    contents = _read(copied)
    if _sha(contents) != folder.name:
        raise CatalogError([f"{copied}: damaged, its content is not that of its folder's name"])
    return _validate(contents, copied, path.parent)


def _state_dirs(path: Path) -> Iterator[Path]:
    """Where the last accepted catalog may be: as the pointer says, as the broken file still says, the default."""
    pointed = _pointed_state(path)
    if pointed is not None:
        yield pointed
    try:
        salvaged = salvage_state_dir(read_bytes(path), path)
    except CatalogError:
        salvaged = None
    if salvaged is not None:
        yield salvaged
    yield empty_catalog(path).storage.state_dir


def _record_path(path: Path, state: Path) -> Path:
    place = os.path.relpath(path.parent.resolve() / path.name, state.resolve())
    return state / f"accepted-{hashlib.sha256(place.encode()).hexdigest()[:16]}.json"


def _pointed_state(path: Path) -> Path | None:
    """The state folder that the pointer beside the catalog names, None without a pointer that can be read."""
    try:
        return path.parent / str(orjson.loads(pointer_path(path).read_bytes())["state_dir"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_pointer(path: Path, state_dir: Path) -> None:
    """Name the state folder beside the catalog, where that folder can be written."""
    if _pointed_state(path) == state_dir or not os.access(path.parent, os.W_OK):
        return
    inside = state_dir.is_relative_to(path.parent)
    place = state_dir.relative_to(path.parent) if inside else state_dir
    write_atomic(pointer_path(path), orjson.dumps({"state_dir": str(place)}) + b"\n")
