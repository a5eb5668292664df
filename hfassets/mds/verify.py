"""Is an MDS still what was made? Bytes, counts, account, and what it was made from.

Invariant: nothing is changed; every fault is told by its file, and a folder without one is as good as on its first day.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfassets.errors import DataError, HfassetsError, IntegrityError
from hfassets.hub.hashing import hash_file
from hfassets.mds.index import INDEX, collect, read_index
from hfassets.mds.reader import parse_shard, read_raw
from hfassets.mds.stage import read_stage_manifest, removed_files
from hfassets.progress import Progress, ProgressCallback, silent
from hfassets.storage.manifest import Manifest, OutputFile
from hfassets.tokens.account import TokenAccount


@dataclass(frozen=True, slots=True)
class VerifiedMds:
    """What was found. `faults`: one line each; `chain`: the stages it was made by, the newest first, as far as their
    folders are there; `ours`: whether it has a manifest of hfassets.
    """

    root: Path
    ours: bool
    files: int
    bytes: int
    samples: int
    faults: tuple[str, ...]
    chain: tuple[str, ...]

    def check(self) -> None:
        """Raise IntegrityError when there are faults."""
        if self.faults:
            more = f" and {len(self.faults) - 1} more" if len(self.faults) > 1 else ""
            raise IntegrityError(f"{self.root}: {self.faults[0]}{more}")


def verify_mds(root: Path, progress: ProgressCallback = silent) -> VerifiedMds:
    """Read all of a folder again; raises DataError when there is no MDS in it."""
    faults: list[str] = []
    manifest: Manifest | None = None
    try:
        manifest = read_stage_manifest(root)
    except IntegrityError as error:
        faults.append(str(error))
    if manifest is None and not faults and not any(root.rglob(INDEX)):
        raise DataError(f"{root}: no {INDEX} at any depth, so no finished MDS")
    files = size = 0
    if manifest is not None:
        total = manifest.total_bytes
        removed = removed_files(root, manifest)
        for file in manifest.files:
            if file.path in removed:
                continue
            fault = file_fault(root / file.path, file, file.path)
            faults += [fault] if fault else []
            files, size = files + 1, size + file.size
            progress(Progress("verify", size, total, "B"))
        faults += _account_faults(manifest)
    samples = 0
    for found in _shard_faults(root, deep=manifest is None):
        if isinstance(found, int):
            samples += found
        else:
            faults.append(found)
    return VerifiedMds(
        root, manifest is not None, files, size, samples, tuple(dict.fromkeys(faults)), _chain(manifest, faults)
    )


def file_fault(place: Path, file: OutputFile, name: str) -> str | None:
    """What is wrong with a file that a manifest has, if anything; `name`: for people."""
    try:
        size = place.stat().st_size
        if size != file.size:
            return f"{name}: {size:,} B, the manifest says {file.size:,}"
        if hash_file(place, "sha256") != file.sha256:
            return f"{name}: its SHA-256 is not what the manifest says"
    except FileNotFoundError:
        return f"{name}: gone"
    return None


def _shard_faults(root: Path, *, deep: bool) -> Iterator[str | int]:
    """The samples of each shard, or what is wrong with it; `deep`: its content is read as well."""
    try:
        shards = collect(root)
    except HfassetsError as error:
        yield str(error)
        return
    for shard in shards:
        try:
            if deep:
                data = read_raw(root, shard)
                parse_shard(data, shard, shard.raw)
            yield shard.samples
        except HfassetsError as error:
            yield str(error)
    for merged in filter(Path.exists, (root / INDEX, *(root / side / INDEX for side in ("train", "validation")))):
        counted = sum(shard.samples for shard in read_index(merged.parent))
        below = sum(shard.samples for shard in collect(merged.parent))
        if counted != below:
            yield f"{merged.relative_to(root)}: {counted:,} samples, the shards below it have {below:,}"


def _account_faults(manifest: Manifest) -> list[str]:
    account = manifest.account
    if "content_written" not in account:
        return []
    try:
        TokenAccount.from_dict(account).close()
    except IntegrityError as error:
        return [str(error)]
    return []


def _chain(manifest: Manifest | None, faults: list[str]) -> tuple[str, ...]:
    """The stages before, newest first; a folder that is there and is not what was used is a fault."""
    chain: list[str] = []
    waiting = [] if manifest is None else [manifest]
    while waiting:
        one = waiting.pop(0)
        chain.append(f"{one.stage} {one.fingerprint[:12]}")
        for name, place in (one.recorded.get("made_from") or {}).items():
            try:
                before = read_stage_manifest(Path(place))
            except IntegrityError as error:
                faults.append(str(error))
                continue
            if before is None:
                chain.append(f"{place}: not there any more")
            elif before.fingerprint != one.inputs.get(name):
                faults.append(f"{place}: made anew since; it was made from {str(one.inputs.get(name))[:12]}")
            else:
                waiting.append(before)
        if not one.recorded.get("made_from"):
            chain.append(_source(one.inputs))
    return tuple(chain)


def _source(inputs: Any) -> str:
    if "repo" in inputs:
        return f"{inputs['repo']} at {inputs['commit']}"
    if "files" in inputs:
        return f"{len(inputs['files']):,} files, by their SHA-256"
    if "content" in inputs:
        return "somebody else, adopted"
    return f"{len(inputs['urls']):,} URLs" if "urls" in inputs else "an MDS of somebody else"
