"""Batch scripts without Dagster that take longer than their jobs may."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from hfassets.slurm.continuing import next_script
from hfassets_tests.cluster import Cluster
from hfassets_tests.dagster_service import wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

_STEPS = """
import sys, time
from pathlib import Path
done = Path("done")
for step in range(int(sys.argv[1])):
    if len(done.read_text().split()) > step if done.exists() else False:
        continue
    time.sleep(float(sys.argv[2]))
    with done.open("a") as file:
        file.write(f"{step}\\n")
"""


class Scripts:
    """Scripts in a folder whose command takes steps, each once, over several jobs."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder = folder
        self.cluster = cluster
        (folder / "steps.py").write_text(_STEPS)

    def submit(self, *command: str, options: tuple[str, ...] = ("--time=10",), at_most: int = 10) -> str:
        """Submit it, with directives in the script and options outside of it; the job's id."""
        words = [
            sys.executable,
            "-m",
            "hfassets.cli.main",
            "slurm",
            "continue",
            "--at-most",
            str(at_most),
            "--",
            *command,
        ]
        script = self.folder / "script.sh"
        line = " ".join(f"'{word}'" for word in words)
        script.write_text(f"#!/bin/bash\n#SBATCH --output={self.folder}/%j.log\nexec {line}\n")
        given = [f"--chdir={self.folder}", "--mem=400M", *options]
        return self.cluster.run("sbatch", "--parsable", *given, str(script)).strip()

    def steps(self, count: int, seconds: float) -> tuple[str, ...]:
        """The command."""
        return (sys.executable, str(self.folder / "steps.py"), str(count), str(seconds))

    @property
    def done(self) -> list[str]:
        """The steps that were made."""
        file = self.folder / "done"
        return file.read_text().split() if file.exists() else []

    def wait_empty(self, seconds: float = 60.0) -> None:
        """Until no job is left."""
        wait_for("an empty queue", lambda: not self.cluster.jobs("RUNNING", "PENDING", "COMPLETING"), seconds)

    @property
    def logs(self) -> str:
        """What all jobs said."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("*.log")))


def kill_processes(job: str) -> None:
    """As the kernel does that needs memory: the batch process first."""
    for place in sorted(Path("/proc").glob("[0-9]*/environ"), key=lambda path: int(path.parent.name)):
        with suppress(OSError):
            if f"SLURM_JOB_ID={job}".encode() in place.read_bytes().split(b"\0"):
                os.kill(int(place.parent.name), signal.SIGKILL)


@pytest.fixture
def scripts(tmp_path: Path, cluster: Cluster) -> Scripts:
    """On the two-node cluster."""
    return Scripts(tmp_path, cluster)


def test_a_command_that_comes_to_its_end_leaves_no_job_behind(scripts: Scripts) -> None:
    """Good or bad: the job ends as the command did, and the next one is cancelled."""
    job = scripts.submit(*scripts.steps(2, 0.1))
    scripts.wait_empty()
    assert scripts.done == ["0", "1"] and scripts.cluster.field(job, "JobState") == "COMPLETED"
    job = scripts.submit(sys.executable, "-c", "raise SystemExit(3)")
    scripts.wait_empty()
    assert scripts.cluster.field(job, "ExitCode") == "3:0" and len(list(scripts.folder.glob("*.log"))) == 2


def test_a_job_that_dies_without_a_word_is_gone_on_with(scripts: Scripts) -> None:
    """SIGKILL of all its processes: the next job makes what is left, with what sbatch was told on its command line."""
    scripts.submit(*scripts.steps(4, 1.0), options=("--time=7",))
    wait_for("a step", lambda: scripts.done)
    (job,) = scripts.cluster.jobs("RUNNING")
    (following,) = scripts.cluster.jobs("PENDING")
    assert scripts.cluster.field(following, "TimeLimit") == "00:07:00"
    kill_processes(job)
    scripts.wait_empty()
    assert scripts.done == ["0", "1", "2", "3"]
    assert "job 2 of at most 10" in scripts.logs


def test_who_cancels_a_job_cancels_the_row(scripts: Scripts) -> None:
    """scancel means it."""
    job = scripts.submit(*scripts.steps(2, 60.0))
    wait_for("the next job", lambda: scripts.cluster.jobs("PENDING"))
    wait_for("the command", lambda: "goes on if" in scripts.logs)
    scripts.cluster.run("scancel", job)
    scripts.wait_empty()
    assert scripts.done == []


@pytest.mark.drill
def test_five_minutes_of_work_in_jobs_of_one_minute(scripts: Scripts) -> None:
    """Each job is ended by its time limit; no step is made twice; no more jobs than allowed."""
    scripts.submit(*scripts.steps(30, 10.0), options=("--time=1",))
    scripts.wait_empty(800)
    assert scripts.done == [str(step) for step in range(30)]
    jobs = len(list(scripts.folder.glob("*.log")))
    assert 4 <= jobs <= 10


@pytest.mark.drill
def test_the_row_ends_after_so_many_jobs(scripts: Scripts) -> None:
    """Though the work is not done."""
    scripts.submit(*scripts.steps(100, 10.0), options=("--time=1",), at_most=2)
    scripts.wait_empty(400)
    assert 0 < len(scripts.done) < 100 and len(list(scripts.folder.glob("*.log"))) == 2
    assert "the last one" in scripts.logs


def test_the_next_script_asks_for_what_this_job_was_given() -> None:
    """Directives first, then what really held; nothing that is not set."""
    shown = {
        "Partition": "long",
        "TimeLimit": "1-00:00:00",
        "Account": "(null)",
        "MinMemoryNode": "32G",
        "TresPerNode": "gres:gpu:2",
        "OverSubscribe": "NO",
    }
    written = "#!/bin/bash\n#SBATCH --time=01:00:00\n##SBATCH --account=\n#SBATCH --mail-type=FAIL\nexec x\n"
    script = next_script(shown, written, ["a b", "c"], 3, {"LC_ALL": "de_DE.UTF-8"})
    assert script.splitlines() == [
        "#!/bin/bash",
        "#SBATCH --time=01:00:00",
        "#SBATCH --mail-type=FAIL",
        "#SBATCH --partition=long",
        "#SBATCH --time=1-00:00:00",
        "#SBATCH --mem=32G",
        "#SBATCH --gres=gpu:2",
        "#SBATCH --exclusive",
        "export LC_ALL=de_DE.UTF-8",
        "unset SLURM_TIME_FORMAT",
        "export HFASSETS_JOB_NUMBER=3",
        "exec 'a b' c",
    ]
