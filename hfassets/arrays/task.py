"""`python -m hfassets.arrays.task RECORD`: one task of a job array, which makes its parts of a stored plan.

Exit code 0 when all of them are done, 1 after a failure, 75 when time ran out before, so that SLURM says FAILED when it
is so. What became of each part goes to a file beside the record as it ends: the coordinator reads it, and needs nobody
to live.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import orjson

from hfassets.arrays.clock import JobClock
from hfassets.arrays.record import ArrayRecord, Told, outcomes_file, read_record
from hfassets.errors import HfassetsError
from hfassets.parts import LocalPool
from hfassets.slurm.client import SlurmClient
from hfassets.slurm.errors import SlurmError

WARNING = signal.SIGUSR1
"""Sent by SLURM some time before the limit."""
EXIT_UNFINISHED = 75
"""EX_TEMPFAIL of sysexits.h, as a run's worker has it: the rest goes on in another job."""


def main(arguments: list[str]) -> int:
    """Make the parts of the task that SLURM_ARRAY_TASK_ID names."""
    path = Path(arguments[0])
    task = int(os.environ["SLURM_ARRAY_TASK_ID"])
    try:
        record = read_record(path)
    except HfassetsError as error:
        _say(f"hfassets.slurm: error: {error}")
        return 1
    processes = record.processes or int(os.environ.get("SLURM_CPUS_ON_NODE") or os.cpu_count() or 1)
    clock = JobClock(_given_end(), processes, lambda: _asked_end(record.cluster))
    signal.signal(WARNING, lambda _number, _frame: threading.Thread(target=clock.warn, daemon=True).start())
    signal.signal(signal.SIGTERM, lambda _number, _frame: clock.stop())
    # Asked beside the work: most tasks are over long before.
    threading.Thread(target=clock.learn, daemon=True).start()
    return _work(record, path, task, LocalPool(processes, clock), clock)


def _work(record: ArrayRecord, path: Path, task: int, pool: LocalPool, clock: JobClock) -> int:
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    left = dict.fromkeys(record.tasks[task])
    failed = False
    with outcomes_file(path, task).open("ab", buffering=0) as lines:

        def tell(told: Told) -> None:
            # One write a line: a line that a kill cut off is not read.
            lines.write(orjson.dumps(asdict(told)) + b"\n")

        for outcome in pool.map(Path(record.plan), record.fingerprint, record.tasks[task]):
            del left[outcome.index]
            tell(Told(outcome.index, node, outcome.made, outcome.error, outcome.trace))
            if outcome.error is not None:
                failed = True
                _say(f"hfassets.slurm: error: part {outcome.index}: {outcome.error}")
        abandoned = set(clock.abandoned)
        for index in left:
            tell(Told(index, node, left="abandoned" if index in abandoned else "not begun"))
    if left:
        _say(
            f"hfassets.slurm: time is over; {len(left):,} parts are left to another job, {len(abandoned)} of them begun"
        )
    return EXIT_UNFINISHED if left else int(failed)


def _given_end() -> float | None:
    """When the job ends, from its environment (newer SLURM says it there)."""
    given = os.environ.get("SLURM_JOB_END_TIME", "")
    return float(given) if given.isdecimal() else None


def _asked_end(cluster: str | None) -> float | None:
    """The same, from the controller; None when it does not answer or there is no limit."""
    try:
        return SlurmClient(cluster).end_time("{SLURM_ARRAY_JOB_ID}_{SLURM_ARRAY_TASK_ID}".format_map(os.environ))
    except (SlurmError, KeyError):
        return None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
