"""Parts that go elsewhere as soon as they are made, so that no disk need hold them all.

Invariant: a file leaves this disk only after the place holds it, proven; a part counts as done here when each of its
files is here or was seen to arrive there. What a part looks like stays here: its manifest and its indexes.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from hfassets.errors import DataError, IntegrityError
from hfassets.hub.names import check_path
from hfassets.mds.remote import Place, Remote, folder_files
from hfassets.mds.stage import Stage, StageOutput, StageRun, make_stage
from hfassets.parts.plan import AFTER, ELSEWHERE_FILE, elsewhere
from hfassets.progress import Note, Progress, ProgressCallback, silent
from hfassets.storage.atomic import publish_directory, temporary_beside, write_atomic
from hfassets.storage.manifest import MANIFEST_FILE, parse_manifest

_AT_ONCE = 8


@dataclass(frozen=True)
class Shipping:
    """Where parts go. `cleanup`: their shards do not stay here."""

    place: Place
    cleanup: bool = False

    def context(self) -> dict[str, Any]:
        """What a worker has to know."""
        return {
            "call": "hfassets.mds.shipping:ship_part",
            "to": self.place.text,
            "cleanup": self.cleanup,
            "place": asdict(self.place),
        }


def make_shipped(stage: Stage, run: StageRun, shipping: Shipping, progress: ProgressCallback = silent) -> StageOutput:
    """As `make_stage`, each part uploaded when it is made, and the indexes and the manifest when all are there.

    With `cleanup`, parts that the place holds already, of the same plan, are not made again, whatever this disk
    remembers. Raises what `make_stage` raises, and HubError, S3Error.
    """
    remote = shipping.place.open()
    remote.prepare()
    plan = replace(stage.plan, context={**stage.plan.context, AFTER: shipping.context()})
    stage = replace(stage, plan=plan)
    if shipping.cleanup and not run.force:
        found = _recall(stage, remote, shipping)
        if found:
            progress(Note(f"{shipping.place.text} holds {found:,} parts of this plan: they are not made again"))
    made = make_stage(stage, run, progress)
    for part in plan.parts if shipping.cleanup else ():
        folder = stage.root / part["name"]
        # Brought there before without being cleaned up, or killed between its note and its removal.
        if any(_leaves(name) for name, _ in folder_files(folder)):
            ship_part(folder, shipping.context())
    names = [*sorted(file.path for file in made.manifest.files if "/" not in file.path), MANIFEST_FILE]
    remote.put([(name, stage.root / name) for name in names], f"{stage.plan.stage}: index and manifest")
    return made


def ship_part(folder: Path, context: Mapping[str, Any]) -> None:
    """Worker: upload a finished part, its manifest last, and write down what is there; again is no harm.

    Raises DataError for a part whose shards are in another place.
    """
    to, before = elsewhere(folder)
    if before and to != context["to"]:
        raise DataError(
            f"{folder}: its shards were brought to {to} and are not here; they cannot go to {context['to']}"
        )
    remote = Place(**context["place"]).open()
    files = [(f"{folder.name}/{name}", path) for name, path in folder_files(folder) if name != ELSEWHERE_FILE]
    remote.put(files, f"part {folder.name}")
    gone = [name for name, _ in folder_files(folder) if _leaves(name)] if context["cleanup"] else []
    gone = sorted({*gone, *before})
    write_atomic(folder / ELSEWHERE_FILE, orjson.dumps({"to": context["to"], "removed": gone}))
    for name in gone:
        (folder / name).unlink(missing_ok=True)


def upload_folder(folder: Path, place: Place, progress: ProgressCallback = silent) -> tuple[int, int]:
    """Put a folder there: files in all, and files sent; those that are there already are left as they are.

    Raises DataError for a folder without files, and what a Remote raises.
    """
    files = [(name, path) for name, path in folder_files(folder) if Path(name).name != ELSEWHERE_FILE]
    total, done = sum(path.stat().st_size for _, path in files), 0

    def tell(size: int) -> None:
        nonlocal done
        done += size
        progress(Progress("upload", done, total, "B"))

    remote = place.open()
    remote.prepare()
    return len(files), remote.put(files, f"upload {folder.name}", tell)


def _leaves(name: str) -> bool:
    return not name.endswith(".json")


def _recall(stage: Stage, remote: Remote, shipping: Shipping) -> int:
    """Bring back what tells of parts that are there and not here; how many."""
    plan, root = stage.plan, stage.root
    missing = [index for index in range(len(plan.parts)) if plan.finished(root, index) is None]
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="recall") as threads:
        return sum(threads.map(lambda index: _recall_part(stage, index, remote, shipping), missing))


def _recall_part(stage: Stage, index: int, remote: Remote, shipping: Shipping) -> bool:
    name = str(stage.plan.parts[index]["name"])
    data = remote.read(f"{name}/{MANIFEST_FILE}")
    try:
        manifest = None if data is None else parse_manifest(data, f"{shipping.place.text}/{name}/{MANIFEST_FILE}")
    except IntegrityError:
        return False
    if data is None or manifest is None or manifest.fingerprint != stage.plan.part_fingerprint(index):
        return False
    indexes: list[tuple[str, bytes]] = []
    for file in manifest.files:
        # The place may be anybody's.
        check_path(file.path)
        if not _leaves(file.path):
            found = remote.read(f"{name}/{file.path}")
            if found is None or len(found) != file.size:
                return False
            indexes.append((file.path, found))
    stage.root.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(stage.root / name)
    temporary.mkdir()
    for path, content in [*indexes, (MANIFEST_FILE, data)]:
        (temporary / path).parent.mkdir(parents=True, exist_ok=True)
        (temporary / path).write_bytes(content)
    removed = [file.path for file in manifest.files if _leaves(file.path)]
    (temporary / ELSEWHERE_FILE).write_bytes(orjson.dumps({"to": shipping.place.text, "removed": removed}))
    return publish_directory(temporary, stage.root / name, replace=True)
