"""What the cluster's commands print, understood; recorded from SLURM 22.05 and 23.11."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfassets.slurm.client import client_environment, parse_history, parse_queue, parse_show
from hfassets.slurm.errors import DeferredError, RefusedError, UnreachableError
from hfassets.slurm.refusals import refusal
from hfassets.slurm.states import JobDetail, JobState, clock, explain, parse_clock, parse_state

pytestmark = pytest.mark.unit

QUEUE = """\
CLUSTER: test
12|PENDING|Resources|1795000000|N/A|1794990000|0:00|10:00||normal|dagster:ab:run-1:1
13|RUNNING|None|1794990000|1794990600|1794990000|1-02:03:04|UNLIMITED|n[1-2]|normal|hfassets:command:a|b|c
14|FUTURE_STATE|None|N/A|N/A|N/A|INVALID|NOT_SET|n1|normal|(null)
15_[1-3]|PENDING|None|N/A|N/A|N/A|0:00|10:00||normal|array of somebody
garbage
"""
SHOW = (
    "JobId=7 JobName=dagster-1 UserId=me(1000) Priority=1 Account=(null) QOS=(null) JobState=FAILED"
    " Reason=JobLaunchFailure Dependency=(null) Requeue=1 Restarts=2 BatchFlag=1 ExitCode=0:9 RunTime=00:01:05"
    " TimeLimit=00:10:00 NodeList=n1 BatchHost=n1 MinMemoryNode=300M StdErr=/shared/slurm/err StdIn=/dev/null"
)
SACCT = """\
7|CANCELLED by 0|0:15|65|10||300M|n1|None
7.batch|CANCELLED|0:15|65||433K||n1|
7.extern|COMPLETED|0:0|65||2.5M||n1|
8|COMPLETED|0:0|5|10||4Gn|n2|None
9|OUT_OF_ME+|0:125|5|10||4G|n2|OutOfMemory
"""


def test_the_queue_is_read_line_by_line_and_what_is_no_job_passed_over() -> None:
    pending, running, strange = parse_queue(QUEUE, "test")
    assert (pending.state, pending.reason, pending.start, pending.end) == (JobState.PENDING, "Resources", 1795e6, None)
    assert (pending.comment, pending.cluster, pending.limit_s) == ("dagster:ab:run-1:1", "test", 600.0)
    assert (running.elapsed_s, running.limit_s, running.nodes) == (93784.0, None, "n[1-2]")
    assert running.comment == "hfassets:command:a|b|c"
    assert strange.state == JobState.UNKNOWN and not strange.state.ended and not strange.state.pending
    assert (strange.comment, strange.elapsed_s) == ("", None)


def test_a_shown_job_has_signal_limit_and_restarts() -> None:
    detail = parse_show(SHOW)
    assert detail is not None
    assert (detail.state, detail.signal, detail.exit_code, detail.restarts) == (JobState.FAILED, 9, None, 2)
    assert (detail.elapsed_s, detail.limit_s, detail.memory_bytes) == (65.0, 600.0, 300 * 1024**2)
    assert parse_show("") is None


def test_accounting_gives_who_cancelled_and_the_peak_of_the_steps() -> None:
    found = parse_history(SACCT)
    assert (found["7"].state, found["7"].cancelled_by) == (JobState.CANCELLED, "root")
    assert found["7"].max_rss_bytes == int(2.5 * 1024**2)
    assert found["8"].memory_bytes == 4 * 1024**3
    assert found["9"].state == JobState.UNKNOWN
    assert set(found) == {"7", "8", "9"}


@pytest.mark.parametrize(
    ("text", "state", "by"),
    [
        ("RUNNING", JobState.RUNNING, None),
        ("CANCELLED by 1000", JobState.CANCELLED, "1000"),
        ("CANCELLED+", JobState.CANCELLED, None),
        ("completed", JobState.COMPLETED, None),
        ("SOMETHING_NEW", JobState.UNKNOWN, None),
    ],
)
def test_a_state_is_read_in_all_its_forms(text: str, state: JobState, by: str | None) -> None:
    assert parse_state(text) == (state, by)


@given(st.integers(0, 10**7))
def test_a_clock_reads_what_it_writes(seconds: int) -> None:
    assert parse_clock(clock(seconds)) == seconds


ENDED = JobDetail("7", JobState.FAILED, nodes="n1", elapsed_s=65.0, limit_s=600.0, memory_bytes=300 * 1024**2)


@pytest.mark.parametrize(
    ("detail", "stderr", "said"),
    [
        (replace(ENDED, state=JobState.TIMEOUT), "", ["TIMEOUT", "time limit of 00:10:00", "n1", "slurm/time"]),
        (replace(ENDED, state=JobState.OUT_OF_MEMORY), "", ["more memory", "300 MiB", "slurm/memory"]),
        (
            replace(ENDED, signal=9, max_rss_bytes=310 * 1024**2),
            "slurmstepd: error: Detected 1 oom_kill event",
            ["OUT_OF_MEMORY", "peak 310 MiB"],
        ),
        (replace(ENDED, signal=9), "", ["signal 9", "memory"]),
        (replace(ENDED, exit_code=3), "", ["exit code 3", "stderr"]),
        (replace(ENDED, state=JobState.NODE_FAIL), "", ["NODE_FAIL", "n1", "left out"]),
        (replace(ENDED, state=JobState.BOOT_FAIL), "", ["BOOT_FAIL", "left out"]),
        (replace(ENDED, state=JobState.PREEMPTED), "", ["PREEMPTED", "slurm/requeue", "slurm/qos"]),
        (replace(ENDED, state=JobState.CANCELLED, cancelled_by="ann"), "", ["CANCELLED by ann"]),
        (replace(ENDED, state=JobState.CANCELLED), "", ["does not say by whom"]),
        (replace(ENDED, state=JobState.DEADLINE), "", ["DEADLINE", "slurm/time"]),
        (replace(ENDED, state=JobState.REVOKED), "", ["REVOKED", "federation"]),
    ],
)
def test_each_ending_says_itself_where_and_what_would_help(detail: JobDetail, stderr: str, said: list[str]) -> None:
    text = explain(detail, stderr)
    assert all(words in text for words in said), text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("words", "kind", "advice"),
    [
        ("sbatch: error: Batch job submission failed: Invalid partition name specified", RefusedError, "sinfo"),
        ("sbatch: error: Memory specification can not be satisfied", RefusedError, "slurm/memory"),
        ("sbatch: error: Requested node configuration is not available", RefusedError, "slurm/cpus"),
        ("sbatch: error: Invalid account or account/partition combination specified", RefusedError, "slurm/"),
        ("sbatch: error: Invalid qos specification", RefusedError, "slurm/qos"),
        ("sbatch: error: Requested reservation is invalid", RefusedError, "slurm/reservation"),
        ("sbatch: error: Invalid feature specification", RefusedError, "slurm/constraint"),
        ("sbatch: error: Invalid generic resource (gres) specification", RefusedError, "slurm/gres"),
        ("sbatch: error: Requested time limit is invalid (missing or exceeds some limit)", RefusedError, "slurm/time"),
        ("sbatch: error: something nobody has seen before", RefusedError, ""),
        ("", RefusedError, "no reason"),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit: Job violates accounting/QOS policy", DeferredError, ""),
        ("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying", DeferredError, ""),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller", UnreachableError, ""),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv", UnreachableError, ""),
    ],
)
def test_the_clusters_words_are_kept_and_tell_for_good_from_for_now(words: str, kind: type, advice: str) -> None:
    error = refusal(words)
    assert type(error) is kind
    assert words.rpartition(": ")[2] in str(error) and advice in str(error)
    if isinstance(error, DeferredError):
        assert error.unknown == isinstance(error, UnreachableError)


def test_commands_inherit_nothing_of_a_job_that_the_daemon_may_live_in() -> None:
    before = {"SLURM_CONF": "/c", "SLURM_JOB_ID": "1", "SBATCH_PARTITION": "p", "SQUEUE_FORMAT": "x", "HOME": "/h"}
    assert client_environment(before) == {"SLURM_CONF": "/c", "HOME": "/h", "SLURM_TIME_FORMAT": "%s", "LC_ALL": "C"}
