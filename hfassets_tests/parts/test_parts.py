"""Parts: resumed by manifest, equal bytes in every pool, no finished part made twice, whoever is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson
import pytest

from hfassets.errors import DataError, IntegrityError, PartialFailureError
from hfassets.parts import LocalPool, PartOutput, Plan, run
from hfassets.parts.plan import PLAN_FILE, Outcome
from hfassets.progress import Note, Progress
from hfassets.storage import read_manifest

pytestmark = pytest.mark.unit

# The side effects go where the environment says, so that they are no part of any identity.
WORKERS = """
import hashlib, os, random, signal, time
from pathlib import Path
from hfassets.errors import DataError
from hfassets.parts import PartOutput

def log(word, part):
    with open(os.environ["PARTS_LOG"], "a") as file:
        file.write(f"{word} {part['name']} {os.getpid()}\\n")

def write(part, out):
    log("begin", part)
    generator = random.Random(f"{part['seed']}:{part['name']}")
    (out / "deep").mkdir()
    (out / "deep" / "data.bin").write_bytes(generator.randbytes(part.get("size", 1000)))
    time.sleep(float(os.environ.get("PARTS_SLEEP", "0")))
    (out / "text.txt").write_text(part["name"])
    log("end", part)
    return PartOutput(account={"rows": 3, part["name"]: 1}, details={"pair": [1, 2]})

def dies_once(part, out):
    marker = Path(os.environ["PARTS_LOG"] + ".died")
    if part["name"] == "p03" and not marker.exists():
        marker.touch()
        log("begin", part)
        os.kill(os.getpid(), signal.SIGKILL)
    return write(part, out)

def dies(part, out):
    if part["name"] == "p03":
        os.kill(os.getpid(), signal.SIGKILL)
    return write(part, out)

def fails(part, out):
    (out / "half").touch()
    if part["name"] == "p01":
        raise DataError("row 7 has no text")
    if part["name"] == "p02":
        return 1 // 0
    (out / "half").unlink()
    return write(part, out)

def links(part, out):
    (out / "x").symlink_to("/etc/passwd")
"""

RUN = """
import sys
from pathlib import Path
from hfassets.parts import LocalPool, Plan, run
if __name__ == "__main__":
    parts = [{"name": f"p{i:02d}", "seed": 1} for i in range(12)]
    run(Plan("write", 1, {"repo": "a/b"}, {"level": 3}, parts), "part_workers:write", LocalPool(2), Path(sys.argv[1]))
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where workers note what they do; makes the module `part_workers` importable here and in other processes."""
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "part_workers.py").write_text(WORKERS)
    monkeypatch.syspath_prepend(str(modules))
    monkeypatch.setenv("PYTHONPATH", str(modules))
    path = tmp_path / "log"
    path.touch()
    monkeypatch.setenv("PARTS_LOG", str(path))
    yield path
    sys.modules.pop("part_workers", None)


def make_plan(count: int = 6, **changes: object) -> Plan:
    """A plan of small parts."""
    parts = [{"name": f"p{i:02d}", "seed": 1} for i in range(count)]
    return Plan(
        **{"stage": "write", "format": 1, "inputs": {"repo": "a/b"}, "parameters": {"level": 3}, "parts": parts}
        | changes
    )  # type: ignore[arg-type]


def tree(root: Path) -> dict[str, object]:
    """Every file below `root`; of manifests all but what is recorded beside the identity."""
    content: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        if path.name == "manifest.json":
            document = orjson.loads(path.read_bytes())
            del document["recorded"], document["seal"]
            content[str(path.relative_to(root))] = document
        elif path.is_file():
            content[str(path.relative_to(root))] = path.read_bytes()
    return content


def begun(log: Path) -> Counter[str]:
    """How often each part was begun."""
    return Counter(line.split()[1] for line in log.read_text().splitlines() if line.startswith("begin"))


def test_every_number_of_workers_gives_the_same_bytes(tmp_path: Path, log: Path) -> None:
    """In this process, in two and in three others: one tree, plan included; accounts are summed, files are hashed."""
    results = [run(make_plan(), "part_workers:write", LocalPool(n), tmp_path / str(n)) for n in (1, 2, 3)]
    assert tree(tmp_path / "1") == tree(tmp_path / "2") == tree(tmp_path / "3")
    assert results[0].made == results[1].made == tuple(f"p{i:02d}" for i in range(6))
    assert results[1].account == {"rows": 18, **{f"p{i:02d}": 1 for i in range(6)}}
    assert results[1].total_bytes == 6 * 1003
    manifest = read_manifest(tmp_path / "2" / "p00" / "manifest.json")
    assert manifest is not None
    assert [file.path for file in manifest.files] == ["deep/data.bin", "text.txt"]
    assert manifest.inputs == {"repo": "a/b"}
    assert len({line.split()[2] for line in log.read_text().splitlines()}) == 6


def test_a_second_run_makes_only_what_is_missing_or_damaged(tmp_path: Path, log: Path) -> None:
    """A file gone, a file cut, a manifest edited: those three parts and no other."""
    root = tmp_path / "out"
    run(make_plan(), "part_workers:write", LocalPool(1), root)
    before = tree(root)
    (root / "p00" / "text.txt").unlink()
    (root / "p02" / "deep" / "data.bin").write_bytes(b"cut")
    manifest = root / "p04" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"rows": 3', b'"rows": 4'))
    result = run(make_plan(), "part_workers:write", LocalPool(1), root)
    assert result.made == ("p00", "p02", "p04")
    assert result.reused == ("p01", "p03", "p05")
    assert tree(root) == before
    assert begun(log) == {"p00": 2, "p01": 1, "p02": 2, "p03": 1, "p04": 2, "p05": 1}


def test_a_run_killed_in_the_middle_goes_on_where_it_was(tmp_path: Path, log: Path) -> None:
    """kill -9 of the run: its workers end too; the re-run makes no finished part again, the tree is equal."""
    script = tmp_path / "run.py"
    script.write_text(RUN)
    subprocess.run([sys.executable, script, tmp_path / "whole"], check=True)
    log.write_text("")
    environment = {**os.environ, "PARTS_SLEEP": "0.15"}
    process = subprocess.Popen([sys.executable, script, tmp_path / "out"], env=environment)
    wait_until(lambda: len(list((tmp_path / "out").glob("p*/manifest.json"))) >= 4)
    process.send_signal(signal.SIGKILL)
    process.wait()
    workers = {int(line.split()[2]) for line in log.read_text().splitlines()}
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    finished = {path.parent.name for path in (tmp_path / "out").glob("p*/manifest.json")}
    assert 4 <= len(finished) < 12
    subprocess.run([sys.executable, script, tmp_path / "out"], check=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    counts = begun(log)
    assert {name: counts[name] for name in finished} == dict.fromkeys(finished, 1)
    assert set(counts) == {f"p{i:02d}" for i in range(12)}


def test_an_interrupted_run_does_not_wait_for_its_workers(tmp_path: Path, log: Path) -> None:
    """SIGINT: the workers end at once, though each has a minute to go."""
    script = tmp_path / "run.py"
    script.write_text(RUN)
    process = subprocess.Popen(
        [sys.executable, script, tmp_path / "out"], env={**os.environ, "PARTS_SLEEP": "60"}, stderr=subprocess.PIPE
    )
    wait_until(lambda: len(log.read_text().splitlines()) == 2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert b"KeyboardInterrupt" in errors
    workers = {int(line.split()[2]) for line in log.read_text().splitlines()}
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert list((tmp_path / "out").glob("p[0-9]*")) == []


def test_a_killed_worker_costs_its_part_a_second_try(tmp_path: Path, log: Path) -> None:
    """The part is made in a fresh process, the others are made once; the tree is that of a quiet run."""
    run(make_plan(), "part_workers:write", LocalPool(1), tmp_path / "whole")
    log.write_text("")
    run(make_plan(), "part_workers:dies_once", LocalPool(2), tmp_path / "out")
    assert {name: entry for name, entry in tree(tmp_path / "out").items() if name != PLAN_FILE} == {
        name: entry for name, entry in tree(tmp_path / "whole").items() if name != PLAN_FILE
    }
    assert begun(log) == {"p00": 1, "p01": 1, "p02": 1, "p03": 2, "p04": 1, "p05": 1}


def test_a_part_that_always_kills_its_worker_fails_alone(tmp_path: Path, log: Path) -> None:
    """All others are done, the error names it, nothing half-made stays; a run with a sound worker makes just it."""
    root = tmp_path / "out"
    with pytest.raises(PartialFailureError) as caught:
        run(make_plan(), "part_workers:dies", LocalPool(2), root)
    assert [name for name, _ in caught.value.failures] == ["p03"]
    assert "worker process was killed" in caught.value.failures[0][1]
    assert sorted(path.name for path in root.iterdir()) == ["p00", "p01", "p02", "p04", "p05", PLAN_FILE]
    assert run(make_plan(), "part_workers:write", LocalPool(2), root).made == ("p03",)


@pytest.mark.parametrize("processes", [1, 2])
def test_failed_parts_are_all_named(tmp_path: Path, log: Path, processes: int) -> None:
    """In plan order, each with its reason; a defect's traceback comes as a note; events tell the rest."""
    events: list[Progress | Note] = []
    with pytest.raises(PartialFailureError) as caught:
        run(make_plan(), "part_workers:fails", LocalPool(processes), tmp_path / "out", progress=events.append)
    assert caught.value.failures == (
        ("p01", "row 7 has no text"),
        ("p02", "ZeroDivisionError: integer division or modulo by zero"),
    )
    assert str(caught.value).startswith("2 of 6 parts failed: p01: row 7 has no text; p02: ")
    assert any("in fails" in note for note in caught.value.__notes__)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["p00", "p03", "p04", "p05", PLAN_FILE]
    counts = [event.done for event in events if isinstance(event, Progress)]
    assert counts == [0, 1, 2, 3, 4]
    assert sum(isinstance(event, Note) for event in events) == 2


def test_a_changed_plan_is_never_mixed_in(tmp_path: Path, log: Path) -> None:
    """Another sharding with the same part names is refused; by `replace` the old parts go, and only those."""
    root = tmp_path / "out"
    run(make_plan(6), "part_workers:write", LocalPool(1), root)
    (root / "notes.txt").write_text("a person's own")
    (root / "mine").mkdir()
    with pytest.raises(DataError, match="holds another plan"):
        run(make_plan(4), "part_workers:write", LocalPool(1), root)
    assert len(list(root.glob("p*/manifest.json"))) == 6
    (root / "manifest.json").touch()
    result = run(make_plan(4), "part_workers:write", LocalPool(1), root, replace=True)
    assert result.reused == ()
    assert sorted(path.name for path in root.iterdir()) == ["mine", "notes.txt", "p00", "p01", "p02", "p03", PLAN_FILE]


def test_a_plan_of_which_nothing_was_made_makes_way(tmp_path: Path, log: Path) -> None:
    """There is nothing to lose, so nobody need say force."""
    root = tmp_path / "out"
    with pytest.raises(PartialFailureError):
        run(make_plan(parts=[{"name": "p01"}]), "part_workers:fails", LocalPool(1), root)
    assert run(make_plan(2), "part_workers:write", LocalPool(1), root).made == ("p00", "p01")


def test_a_part_is_not_taken_for_that_of_another_plan(tmp_path: Path, log: Path) -> None:
    """Even when its own description is the same and plan.json was lost."""
    root = tmp_path / "out"
    run(make_plan(6), "part_workers:write", LocalPool(1), root)
    (root / PLAN_FILE).unlink()
    assert run(make_plan(2), "part_workers:write", LocalPool(1), root).made == ("p00", "p01")
    assert sorted(path.name for path in root.iterdir()) == ["p00", "p01", PLAN_FILE]


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b'"plan"'])
def test_a_damaged_plan_file_is_refused(tmp_path: Path, log: Path, damage: bytes) -> None:
    """Not JSON, cut or edited: one line; `replace` writes it anew and keeps what is this plan's."""
    root = tmp_path / "out"
    run(make_plan(), "part_workers:write", LocalPool(1), root)
    (root / PLAN_FILE).write_bytes(damage)
    with pytest.raises(IntegrityError, match=r"plan\.json"):
        run(make_plan(), "part_workers:write", LocalPool(1), root)
    assert run(make_plan(), "part_workers:write", LocalPool(1), root, replace=True).made == ()


def test_an_edited_plan_file_is_refused(tmp_path: Path, log: Path) -> None:
    """Its fingerprint is that of its content."""
    root = tmp_path / "out"
    run(make_plan(), "part_workers:write", LocalPool(1), root)
    (root / PLAN_FILE).write_bytes((root / PLAN_FILE).read_bytes().replace(b'"seed": 1', b'"seed": 2', 1))
    with pytest.raises(IntegrityError, match="edited or damaged"):
        run(make_plan(), "part_workers:write", LocalPool(1), root)


def test_the_entry_point_of_other_machines_makes_the_same_parts(tmp_path: Path, log: Path) -> None:
    """`python -m hfassets.parts.worker PLAN INDEX...`: exit 0, and the run that follows finds them done."""
    run(make_plan(), "part_workers:write", LocalPool(1), tmp_path / "whole")
    root = tmp_path / "out"
    with pytest.raises(PartialFailureError):
        run(make_plan(), "part_workers:links", LocalPool(1), root)
    with pytest.raises(PartialFailureError):
        run(make_plan(), "part_workers:fails", LocalPool(1), root)
    command = [sys.executable, "-m", "hfassets.parts.worker"]
    failed = subprocess.run([*command, root / PLAN_FILE, "1", "2", "0"], capture_output=True, text=True)
    assert failed.returncode == 1
    assert "hfassets: error: p01: row 7 has no text\n" in failed.stderr
    (root / PLAN_FILE).write_bytes((tmp_path / "whole" / PLAN_FILE).read_bytes())
    subprocess.run([*command, root / PLAN_FILE, "1", "2"], check=True)
    assert run(make_plan(), "part_workers:write", LocalPool(1), root).made == ()
    assert tree(root) == tree(tmp_path / "whole")
    for wrong, code in ((["x"], 2), ([root / PLAN_FILE], 2), ([root / PLAN_FILE, "6"], 1), ([root / "no", "0"], 1)):
        ended = subprocess.run([*command, *wrong], capture_output=True, text=True)
        assert (ended.returncode, ended.stderr.count("\n")) == (code, 1)


class _Busy:
    """A pool whose workers of an earlier run are still at it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.found: list[str] = []

    def busy(self, plan_file: Path) -> bool:
        """Yes."""
        return True

    def map(self, plan_file: Path, fingerprint: str, indexes: Sequence[int]) -> Iterator[Outcome]:
        """Make them here; what lay about is remembered."""
        self.found = [path.name for path in self.root.iterdir() if path.name.endswith(".tmp")]
        return LocalPool(1).map(plan_file, fingerprint, indexes)


def test_what_a_worker_that_lives_is_about_to_publish_is_not_removed(tmp_path: Path, log: Path) -> None:
    """Its temporary folder has a manifest already, and is no stray of another plan."""
    root = tmp_path / "out"
    run(make_plan(), "part_workers:write", LocalPool(1), root)
    shutil.copytree(root / "p01", root / ".p01.0123abcd.tmp")
    shutil.rmtree(root / "p01")
    pool = _Busy(root)
    run(make_plan(), "part_workers:write", pool, root)
    assert pool.found == [".p01.0123abcd.tmp"]


def test_a_plan_refuses_names_that_are_no_folder_names() -> None:
    """Steps, separators, hidden and reserved names, and names given twice."""
    for name in ("", "..", ".hidden", "a/b", "plan.json", "manifest.json", "ä"):
        with pytest.raises(ValueError, match="cannot be named"):
            make_plan(parts=[{"name": name}])
    with pytest.raises(ValueError, match="two parts are named 'a'"):
        make_plan(parts=[{"name": "a"}, {"name": "a"}])


def test_a_worker_must_be_importable(tmp_path: Path) -> None:
    """A function of the running script or a closure cannot reach another process."""
    with pytest.raises(ValueError, match="cannot be imported"):
        run(make_plan(), lambda part, out: PartOutput(), LocalPool(1), tmp_path)
    with pytest.raises(ValueError, match="cannot be imported"):
        run(make_plan(), "__main__:work", LocalPool(1), tmp_path)


def wait_until(condition: object, seconds: float = 60) -> None:
    """Poll a condition; fail when it does not come true in time."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
