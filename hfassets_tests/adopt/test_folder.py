"""Folders that somebody else has written: read once, known by a manifest, refused when they are not what they say."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from hfassets.adopt import adopt_folder, adopted_manifest, kind_of, verify_adopted
from hfassets.cli.main import main
from hfassets.errors import DataError, PartialFailureError
from hfassets.mds.upstream import upstream
from hfassets.mds.verify import verify_mds
from hfassets.storage.state import StateDir


def write_foreign_mds(streaming: Any, folder: Path, samples: int, size_limit: int = 1 << 12, **options: object) -> None:
    """As mosaicml-streaming itself writes it."""
    columns = {"id": "str", "input_ids": "ndarray:uint32"}
    given = {"hashes": ["sha1"], "size_limit": size_limit, **options}
    with streaming.MDSWriter(out=str(folder), columns=columns, **given) as writer:
        for number in range(samples):
            ids = np.arange(number, number + 200, dtype=np.uint32)
            writer.write({"id": f"doc-{number}", "input_ids": ids})


def _mds(folder: Path, streaming: Any) -> int:
    write_foreign_mds(streaming, folder, 40)
    return 40


def _zipped_mds(folder: Path, streaming: Any) -> int:
    write_foreign_mds(streaming, folder / "train", 30, compression="zstd")
    write_foreign_mds(streaming, folder / "validation", 5)
    return 35


def _parquet(folder: Path, _: Any = None) -> int:
    for number in range(3):
        pq.write_table(pa.table({"n": list(range(100))}), folder / f"shard_{number:04}.parquet")
    return 300


def _json_lines(folder: Path, _: Any = None) -> int:
    rows = b"".join(orjson.dumps({"text": f"row {number}"}) + b"\n" for number in range(50))
    (folder / "a.jsonl").write_bytes(rows)
    (folder / "c4-train.00000-of-00002.json.gz").write_bytes(gzip.compress(rows))
    (folder / "below").mkdir()
    (folder / "below/b.jsonl.zst").write_bytes(zstandard.compress(rows + b"\n" + rows.strip()))
    return 200


KINDS: dict[str, tuple[str, Callable[[Path, Any], int]]] = {
    "mds": ("mds", _mds),
    "zipped mds": ("mds", _zipped_mds),
    "parquet": ("parquet", _parquet),
    "json lines": ("json lines", _json_lines),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_folder_is_read_once_and_nothing_in_it_changes(tmp_path: Path, streaming: Any, name: str) -> None:
    """A manifest with hashes and rows; a second time nothing is read; a flipped bit is found by its file."""
    kind, make = KINDS[name]
    folder = tmp_path / "foreign"
    folder.mkdir()
    rows = make(folder, streaming)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    state = StateDir(tmp_path / "state")
    assert kind_of(folder) == kind
    found = adopt_folder(folder, state)
    assert (found.kind, found.rows, found.reused) == (kind, rows, False)
    assert found.manifest.recorded["adopted"] is True
    assert {path: path.read_bytes() for path in before} == before
    assert {path.name for path in folder.rglob("*") if path.is_file() and path not in before} == {"adopted.json"}
    again = adopt_folder(folder, state)
    assert again.reused and again.manifest.fingerprint == found.manifest.fingerprint
    assert verify_adopted(folder) == []
    largest = max(before, key=lambda path: len(before[path]))
    data = bytearray(before[largest])
    data[len(data) // 2] ^= 1
    largest.write_bytes(bytes(data))
    (fault,) = verify_adopted(folder)
    assert fault.startswith(largest.relative_to(folder).as_posix())


def test_the_manifest_of_another_tool_is_left_alone(tmp_path: Path) -> None:
    """Older packed Parquet has a manifest.json of its own."""
    _parquet(tmp_path)
    (tmp_path / "manifest.json").write_text('{"splits": {}}')
    adopt_folder(tmp_path, StateDir(tmp_path / "state"))
    assert (tmp_path / "manifest.json").read_text() == '{"splits": {}}'


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("mds", lambda folder: _flip(folder / "shard.00001.mds"), "shard.00001.mds"),
        ("mds", lambda folder: (folder / "shard.00002.mds").unlink(), "is not there"),
        ("parquet", lambda folder: os.truncate(folder / "shard_0001.parquet", 100), "shard_0001.parquet"),
        ("json lines", lambda folder: (folder / "a.jsonl").write_text('{"a": 1}\n{"a": \n'), "line 2"),
        ("json lines", lambda folder: os.truncate(folder / "c4-train.00000-of-00002.json.gz", 90), "decompressed"),
    ],
)
def test_what_is_damaged_is_named_and_not_adopted(
    tmp_path: Path, streaming: Any, name: str, damage: Callable[[Path], None], told: str
) -> None:
    """One line with the file; there is no manifest afterwards."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    KINDS[name][1](folder, streaming)
    damage(folder)
    with pytest.raises((PartialFailureError, DataError), match=told):
        adopt_folder(folder, StateDir(tmp_path / "state"))
    assert adopted_manifest(folder) is None


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_an_adopted_mds_is_verified_and_worked_on_as_one_of_ours(
    tmp_path: Path, streaming: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """`mds verify` reads it by the manifest; what is made from it knows it by its content."""
    folder = tmp_path / "foreign"
    write_foreign_mds(streaming, folder, 60)
    plain = upstream(folder)
    assert main(["adopt", str(folder), "--state-dir", str(tmp_path / "state")]) == 0
    assert "60 rows" in capsys.readouterr().out
    verified = verify_mds(folder)
    assert verified.ours and verified.samples == 60 and not verified.faults
    manifest = adopted_manifest(folder)
    assert manifest is not None
    assert upstream(folder).fingerprint == manifest.fingerprint and upstream(folder).entries == plain.entries
    assert main(["mds", "verify", str(folder)]) == 0
    assert "somebody else" in capsys.readouterr().out
    _flip(folder / "shard.00003.mds")
    assert main(["mds", "verify", str(folder)]) == 1
    assert "shard.00003.mds" in capsys.readouterr().err
    assert main(["adopt", str(folder), "--verify"]) == 1


def test_what_is_nothing_known_or_ours_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, with what would be right."""
    (tmp_path / "notes.txt").write_text("no data")
    assert main(["adopt", str(tmp_path)]) == 1
    assert "nothing in it that can be adopted" in capsys.readouterr().err
    (tmp_path / "plan.json").write_text("{}")
    _parquet(tmp_path)
    assert main(["adopt", str(tmp_path), "--state-dir", str(tmp_path / "state")]) == 1
    assert "made by hfassets" in capsys.readouterr().err
    assert main(["adopt", str(tmp_path / "gone")]) == 1


_KILLED = """
import os, signal, sys
from pathlib import Path
from hfassets.adopt import adopt_folder
from hfassets.storage.state import StateDir
told = 0
def progress(event):
    global told
    told += 1
    if told == 10:
        os.kill(os.getpid(), signal.SIGKILL)
adopt_folder(Path(sys.argv[1]), StateDir(Path(sys.argv[2])), progress, workers=1)
"""


def test_a_reading_that_was_killed_goes_on(tmp_path: Path) -> None:
    """What was read before SIGKILL is not read again."""
    folder, state = tmp_path / "foreign", tmp_path / "state"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number:03}.jsonl").write_bytes(orjson.dumps({"text": str(number)}) + b"\n")
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(folder), str(state)], check=False)
    assert killed.returncode == -signal.SIGKILL and adopted_manifest(folder) is None
    assert sum(path.read_bytes().count(b"\n") for path in state.rglob("read.jsonl")) == 9
    # What was read is believed by its size and time: its content can go, and nobody notices.
    first = folder / "000.jsonl"
    about = first.stat()
    first.write_bytes(b"\0" * about.st_size)
    os.utime(first, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert adopt_folder(folder, StateDir(state)).rows == 30
    assert len(verify_adopted(folder)) == 1


def test_a_line_that_was_half_written_costs_only_its_file(tmp_path: Path) -> None:
    """A run that was killed while it wrote down what it had read: the next ones go on all the same."""
    folder, state = tmp_path / "rows", StateDir(tmp_path / "state")
    folder.mkdir()
    _parquet(folder)
    (folder / "bad.parquet").write_bytes(b"no Parquet")
    with pytest.raises(PartialFailureError):
        adopt_folder(folder, state)
    (journal,) = tmp_path.rglob("read.jsonl")
    with journal.open("ab") as lines:
        lines.write(b'["shard_0009.parquet", 1')
    pq.write_table(pa.table({"n": [1]}), folder / "shard_0009.parquet")
    for _ in range(2):
        with pytest.raises(PartialFailureError, match="1 of 5 files failed"):
            adopt_folder(folder, state)
    (folder / "bad.parquet").unlink()
    assert adopt_folder(folder, state).rows == 301


def test_a_name_that_is_no_text_is_refused_in_one_line(tmp_path: Path) -> None:
    """A manifest could not name it."""
    folder = tmp_path / "rows"
    folder.mkdir()
    _parquet(folder)
    (folder / os.fsdecode(b"\xff.parquet")).write_bytes((folder / "shard_0000.parquet").read_bytes())
    with pytest.raises(DataError, match=r"udcff.parquet': its name is no text in UTF-8"):
        adopt_folder(folder, StateDir(tmp_path / "state"))


@pytest.mark.drill
def test_a_foreign_mds_of_a_thousand_shards(tmp_path: Path, streaming: Any) -> None:
    """Adopted and verified; StreamingDataset reads it as before."""
    folder = tmp_path / "foreign"
    write_foreign_mds(streaming, folder, 5000, size_limit=1 << 12)
    assert len(list(folder.glob("*.mds"))) >= 1000
    found = adopt_folder(folder, StateDir(tmp_path / "state"))
    assert found.rows == 5000 and verify_adopted(folder) == []
    assert verify_mds(folder).samples == 5000
    assert len(streaming.StreamingDataset(local=str(folder), batch_size=1)) == 5000
