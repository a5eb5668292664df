"""What is on disk about jobs: intents before submissions, endings, and one worker of a run at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfassets.slurm.attempts import Attempts, Claim, ClaimFolder, End, Intent, job_comment, parse_comment, tail
from hfassets.slurm.client import SlurmClient
from hfassets.slurm.endings import conclude, settle, settle_vanished
from hfassets.slurm.errors import SlurmError
from hfassets.slurm.queue import QueueSnapshot
from hfassets.slurm.reconciler import Memory
from hfassets.slurm.states import JobDetail, JobState
from hfassets.slurm.tags import RunRecord, changed, is_local, local, record, status
from hfassets_tests.cluster import wait_until

pytestmark = pytest.mark.unit

RUN = "0d5c8a1e-1111-2222-3333-444455556666"
IDS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


def intent(attempt: int) -> Intent:
    return Intent(RUN, attempt, job_comment("i", RUN, attempt), "name", None, 1.0, ("--mem=1M",), ("n1",))


@given(IDS, IDS, st.integers(1, 99))
def test_a_comment_names_its_instance_run_and_attempt(storage: str, run: str, attempt: int) -> None:
    comment = job_comment(storage, run, attempt)
    assert parse_comment(comment, storage) == (run, attempt)
    assert parse_comment(comment, f"{storage}x") is None


@given(st.text(max_size=60))
def test_no_foreign_comment_is_taken_for_ours(comment: str) -> None:
    found = parse_comment(comment, "storage")
    assert found is None or comment == job_comment("storage", *found)


def test_what_was_written_is_read_and_the_newest_attempt_is_found(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)
    assert attempts.latest(RUN) is None and attempts.tried_at(RUN, 1) == 0.0
    for number in (1, 2, 10):
        attempts.record_intent(intent(number), "#!/bin/bash\n")
    assert attempts.latest(RUN) == intent(10)
    attempts.record_end(RUN, 1, End("7", "NODE_FAIL", "said", True, 2.0, ("n1",)))
    attempts.record_end(RUN, 2, End("8", "TIMEOUT", "said", True, 3.0))
    assert attempts.end(RUN, 1) == End("7", "NODE_FAIL", "said", True, 2.0, ("n1",))
    assert attempts.failed_nodes(RUN) == ("n1",)
    attempts.record_tried(RUN, 10)
    assert abs(attempts.tried_at(RUN, 10) - time.time()) < 60


def test_a_script_without_its_intent_was_never_to_be_submitted(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)
    attempts.record_intent(intent(1), "x")
    attempts.attempt_folder(RUN, 2).mkdir()
    attempts.script(RUN, 2).write_text("x")
    (attempts.attempt_folder(RUN, 2) / "intent.json").write_text("{damaged")
    assert attempts.intent(RUN, 2) is None


@pytest.mark.parametrize("run_id", ["", "..", "a/b", "a b", "x" * 65])
def test_an_id_that_could_leave_its_folder_is_refused(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(SlurmError, match="is no run id"):
        Attempts(tmp_path).run_folder(run_id)


def test_the_tail_of_a_log_is_its_last_lines_made_printable(tmp_path: Path) -> None:
    file = tmp_path / "log"
    assert tail(file) == ""
    file.write_bytes(b"first\n" * 5000 + b"bar 10%\x1b[0m\xff\nlast\n")
    assert tail(file, 2) == "bar 10% [0m\ufffd\nlast"
    assert len(tail(file, 10**6)) <= 16_384


def claim(attempt: int, job: str = "7", restart: int = 0) -> Claim:
    return Claim(attempt, job, restart, "n1", f"{attempt}-{job}-{restart}")


@pytest.mark.parametrize(
    ("later", "earlier", "so"),
    [
        (claim(2), claim(1), True),
        (claim(1), claim(2), False),
        (claim(1, restart=1), claim(1), True),
        (claim(1), claim(1, restart=1), False),
        (claim(1, "8"), claim(1, "7"), False),
        (claim(1), claim(1), False),
    ],
)
def test_a_later_life_supersedes_and_a_duplicate_never_does(later: Claim, earlier: Claim, so: bool) -> None:
    assert later.supersedes(earlier) is so


def test_a_claim_lives_until_it_is_released_or_its_worker_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ClaimFolder(tmp_path)
    mine = folder.make(1, "7", 0, "n1")
    assert folder.current() is None and not folder.alive(mine)
    folder.enter(mine)
    assert folder.current() == mine and folder.alive(mine)
    silent = time.time() - ClaimFolder.STALE_AFTER - 1
    os.utime(tmp_path / "beats" / mine.token, (silent, silent))
    assert not folder.alive(mine)
    folder.beat(mine)
    assert folder.alive(mine)
    folder.release(mine)
    assert not folder.alive(mine)


WORKER = """
import sys, time
from pathlib import Path
from hfassets.slurm import job
from hfassets.slurm.attempts import ClaimFolder
ClaimFolder.BEAT_EVERY, ClaimFolder.STALE_AFTER = 0.1, 2.0
folder, attempt = Path(sys.argv[1]), int(sys.argv[2])
with job._claimed(ClaimFolder(folder), attempt) as claim:
    print("in", flush=True)
    (folder / "working").open("x").close()
    try:
        time.sleep(600)
    finally:
        (folder / "working").unlink()
"""


def worker(folder: Path, attempt: int, job: str, restart: int = 0) -> subprocess.Popen[str]:
    env = {**os.environ, "SLURM_JOB_ID": job, "SLURM_RESTART_COUNT": str(restart)}
    command = [sys.executable, "-c", WORKER, str(folder), str(attempt)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_worker_that_lives_on_ends_when_a_later_one_takes_the_run_over_and_never_both_work(tmp_path: Path) -> None:
    first = worker(tmp_path, 1, "7")
    wait_until("the first to work", lambda: (tmp_path / "working").exists())
    second = worker(tmp_path, 2, "8")
    assert first.wait(30) == -signal.SIGTERM or first.returncode != 0
    assert second.stdout is not None and second.stdout.readline() == "in\n"
    second.kill()
    second.wait()


def test_a_duplicate_of_the_same_attempt_leaves_the_run_alone(tmp_path: Path) -> None:
    first = worker(tmp_path, 1, "7")
    wait_until("the first to work", lambda: (tmp_path / "working").exists())
    second = worker(tmp_path, 1, "8")
    _, said = second.communicate(timeout=30)
    assert second.returncode == 1 and "works on this run already" in said
    assert first.poll() is None
    first.kill()
    first.wait()


@pytest.mark.parametrize(
    ("detail", "resume"),
    [
        (JobDetail("7", JobState.TIMEOUT), True),
        (JobDetail("7", JobState.NODE_FAIL, nodes="n1"), True),
        (JobDetail("7", JobState.BOOT_FAIL, nodes="n1"), True),
        (JobDetail("7", JobState.PREEMPTED), True),
        (JobDetail("7", JobState.COMPLETED), True),
        (JobDetail("7", JobState.FAILED, exit_code=75), True),
        (JobDetail("7", JobState.FAILED, exit_code=1), False),
        (JobDetail("7", JobState.OUT_OF_MEMORY), False),
        (JobDetail("7", JobState.CANCELLED), False),
        (JobDetail("7", JobState.DEADLINE), False),
    ],
)
def test_what_says_nothing_against_the_work_goes_on_in_a_new_job(detail: JobDetail, resume: bool) -> None:
    end = conclude(detail, 1.0)
    assert end.resume is resume
    assert end.nodes == (("n1",) if detail.nodes else ())


def test_an_ending_is_concluded_once(tmp_path: Path) -> None:
    attempts, found = Attempts(tmp_path), RunRecord(RUN, "7", None, 1)
    attempts.record_intent(intent(1), "x")
    empty = QueueSnapshot(0.0, {})
    assert settle(found, empty, SlurmClient(), attempts, 5.0) is None
    gone = settle_vanished(found, None, attempts, 5.0)
    assert gone.resume and "not known" in gone.message
    assert settle(found, empty, SlurmClient(), attempts, 9.0) == gone
    known = settle_vanished(found, JobDetail("7", JobState.OUT_OF_MEMORY), attempts, 6.0)
    assert not known.resume


class Run:
    def __init__(self, run_id: str, tags: dict[str, str]) -> None:
        self.run_id, self.tags = run_id, tags


def test_the_record_of_another_run_counts_for_nothing() -> None:
    tags = RunRecord("parent", "7", "c", 2).as_tag()
    assert record(Run("parent", tags)) == RunRecord("parent", "7", "c", 2)
    assert record(Run("child", tags)) is None
    assert record(Run("parent", {".slurm/run": "{broken"})) is None


def test_a_local_run_takes_back_what_it_copied() -> None:
    run = Run("child", {**RunRecord("parent", "7", None, 1).as_tag(), **status(state="FAILED", job="7")})
    run.tags |= local(run)
    assert is_local(run) and record(run) is None
    assert {value for name, value in run.tags.items() if name.startswith("slurm-status/")} == {"-"}


def test_tags_are_written_only_on_change_and_are_short() -> None:
    wanted = status(state="PENDING", reason="x" * 5000, job="7", attempt=1)
    assert max(len(value) for value in wanted.values()) <= 200
    assert changed(Run("r", {}), wanted) == wanted
    assert changed(Run("r", dict(wanted)), wanted) == {}


def test_what_a_tick_leaves_to_the_next_survives_and_a_damaged_cursor_is_an_empty_one() -> None:
    memory = Memory({"r": 1.0}, {"s": 2.0}, ["7"], 3.0, 4.0)
    assert Memory.load(memory.dump()) == memory
    for damaged in (None, "", "[]", "{", '{"absent": 3}', '{"due": "x"}'):
        assert Memory.load(damaged) == Memory()
