"""One squeue for everybody: many processes, a TTL, and a controller that does not answer."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hfassets.slurm.client import SlurmClient
from hfassets.slurm.errors import SlurmError
from hfassets.slurm.queue import SharedQueue, runtime_folder

pytestmark = pytest.mark.unit

LINE = "{job}|RUNNING|None|1795000000|N/A|1794990000|0:10|10:00|n1|normal|dagster:ab:run-{job}:1"


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An squeue that prints what is in `queue` (or fails where there is none), and counts its calls in `calls`."""
    script = tmp_path / "bin" / "squeue"
    script.parent.mkdir()
    script.write_text(
        f"#!/bin/bash\necho x >> {tmp_path}/calls\ncat {tmp_path}/queue 2>/dev/null && exit\n"
        "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    (tmp_path / "runtime").mkdir(mode=0o700)
    return tmp_path


def calls(folder: Path) -> int:
    return len((folder / "calls").read_text().split())


def fill(folder: Path, count: int) -> None:
    (folder / "queue").write_text("".join(LINE.format(job=job) + "\n" for job in range(1, count + 1)))


def test_eight_processes_ask_once(recorded: Path) -> None:
    fill(recorded, 100)
    code = (
        "from hfassets.slurm.queue import SharedQueue; from hfassets.slurm.client import SlurmClient; import time\n"
        "queue = SharedQueue(SlurmClient(), ttl_s=600)\n"
        "for _ in range(50): assert len(queue.snapshot().jobs) == 100\n"
    )
    workers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(8)]
    assert [worker.wait() for worker in workers] == [0] * 8
    assert calls(recorded) == 1


def test_an_answer_is_kept_for_its_time_and_asked_anew_when_wanted(recorded: Path) -> None:
    fill(recorded, 1)
    queue = SharedQueue(SlurmClient(), ttl_s=600)
    first = queue.snapshot()
    assert queue.snapshot() is first
    fill(recorded, 2)
    assert len(queue.snapshot().jobs) == 1
    assert len(queue.snapshot(max_age_s=0).jobs) == 2
    assert calls(recorded) == 2
    assert queue.snapshot().by_comment["dagster:ab:run-2:1"][0].job_id == "2"


def test_without_an_answer_the_last_one_stands_with_the_error(recorded: Path) -> None:
    queue = SharedQueue(SlurmClient(), ttl_s=600)
    nothing = queue.snapshot()
    assert nothing.jobs == {} and "does not answer" in (nothing.error or "")
    fill(recorded, 3)
    good = queue.snapshot(max_age_s=0)
    assert good.error is None and len(good.jobs) == 3
    (recorded / "queue").unlink()
    old = queue.snapshot(max_age_s=0)
    assert old.error is not None and len(old.jobs) == 3 and old.taken_at == good.taken_at
    # A controller that is down is not asked by everybody either.
    asked = calls(recorded)
    assert SharedQueue(SlurmClient(), ttl_s=600).snapshot().error == old.error
    assert calls(recorded) == asked


def test_a_damaged_file_is_asked_anew(recorded: Path) -> None:
    fill(recorded, 1)
    SharedQueue(SlurmClient(), ttl_s=600).snapshot()
    (file,) = (recorded / "runtime" / "slurm-dagster").glob("squeue-*.json")
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    for damage in (b"", b"{", b"[]", b'{"format": 99}'):
        time.sleep(0.01)
        file.write_bytes(damage)
        assert len(SharedQueue(SlurmClient(), ttl_s=600).snapshot().jobs) == 1


def test_a_folder_that_is_somebody_elses_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "slurm-dagster").mkdir(mode=0o777)
    (tmp_path / "slurm-dagster").chmod(0o777)
    with pytest.raises(SlurmError, match="is not yours alone"):
        runtime_folder()


def test_a_host_without_slurm_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    assert "squeue is not on PATH" in (SharedQueue(SlurmClient()).snapshot().error or "")
