"""Rows that other processes look at: the same file, the same counts, the same faults."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hfassets.demo.hub_faults import Fault
from hfassets.distillation import grow
from hfassets.distillation.candidates import Filters
from hfassets.distillation.mapping import Mapped, Row
from hfassets.distillation.request import Curriculum
from hfassets.errors import DataError
from hfassets.sources import records
from hfassets_tests.distillation.conftest import REPO, Work, rows, tree

CONTENT = rows(600)


@pytest.fixture(autouse=True)
def _many_hands_for_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grow, "WORTH_IT", 1)


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "json", "parquet"])
def test_processes_make_the_file_that_one_makes(work: Work, kind: str) -> None:
    """Byte for byte, with the same account, also when it is made longer later."""
    work.add(CONTENT, kind)
    alone = work.make(200)
    together = work.make(90, processes=2, folder="together")
    together = work.make(200, processes=2, folder="together")
    assert list(tree(work.root / "out")) == list(tree(work.root / "together"))
    assert alone.account == together.account


def test_a_curriculum_comes_back_for_the_same_rows(work: Work, curriculum: Curriculum) -> None:
    """What is passed over first comes later, whoever looks at it."""
    work.add(CONTENT, "parquet")
    alone = work.make(400, curriculum=curriculum)
    together = work.make(400, curriculum=curriculum, processes=2, folder="together")
    assert alone.path.read_bytes() == together.path.read_bytes()
    assert alone.account == together.account


def test_large_row_groups_are_read_in_pieces_here(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row group that is too large to be handed over whole gives the same rows."""
    work.add(CONTENT, "parquet")
    alone = work.make(200)
    monkeypatch.setattr(records, "LARGEST_GROUP", 5_000)
    together = work.make(200, processes=2, folder="together")
    assert alone.path.read_bytes() == together.path.read_bytes()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_damaged_piece_makes_the_file_come_whole(work: Work, monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    """A byte flipped in a page that is read by ranges: its checksum tells, and the rows come from the proven file."""
    monkeypatch.setattr(records, "WHOLE_BELOW", 0)
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows(9)), sink, write_page_checksum=True)
    work.hub.add_repo(REPO, {"data/train-0.parquet": sink.getvalue()})
    alone = work.make(4, filters=Filters())
    work.hub.set_faults(Fault("flip", path="*train-0.parquet", offset=60, times=1))
    notes: list[Any] = []
    again = work.make(4, notes.append, processes=processes, folder="again", filters=Filters())
    assert alone.path.read_bytes() == again.path.read_bytes()
    assert ["fetching it again" in str(one) for one in notes].count(True) == 1


def _killed(row: Row) -> Mapped:
    """A mapper whose process is killed by the system."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError(row)


def test_a_killed_process_is_said_in_one_line(work: Work) -> None:
    """Not a traceback of a pool; no process is left behind."""
    work.add(CONTENT, "jsonl")
    with pytest.raises(DataError, match=r"killed \(out of memory\?\); run again"):
        work.make(200, processes=2, mapper=f"{__name__}:_killed")
    assert not _children()


def _children() -> list[str]:
    """Processes that answer calls of this one."""
    return [
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/stat")
        if path.read_text().rpartition(")")[2].split()[1] == str(os.getpid())
        and b"hfassets.parts.answer" in (path.parent / "cmdline").read_bytes()
    ]


def test_few_rows_are_looked_at_here(work: Work, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No process is begun for a file that is made sooner without."""
    monkeypatch.setattr(grow, "WORTH_IT", 201)
    work.add(CONTENT, "jsonl")
    work.make(200, processes=2, mapper=f"{__name__}:_told_by_process")
    assert {one["metadata"]["process"] for one in _records(work)} == {os.getpid()}


def _told_by_process(row: Row) -> Mapped:
    """A mapper that tells where it ran."""
    return Mapped((("", f"{row['question']} {row['answer']}"),), {"process": os.getpid()})


def _records(work: Work) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (work.root / "out/math/qa.jsonl").read_bytes().splitlines()]
