"""`python -m hfassets.arrays.task RECORD`: one task of a job array, which makes its parts of a stored plan.

Exit code 0 when all of them are done, 1 after a failure, so that SLURM says FAILED when it is so. What became of each
part goes to a file beside the record as it ends: the coordinator reads it, and needs nobody to live.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import orjson

from hfassets.arrays.record import ArrayRecord, outcomes_file, read_record
from hfassets.errors import HfassetsError
from hfassets.parts import LocalPool


def main(arguments: list[str]) -> int:
    """Make the parts of the task that SLURM_ARRAY_TASK_ID names."""
    path = Path(arguments[0])
    task = int(os.environ["SLURM_ARRAY_TASK_ID"])
    try:
        record = read_record(path)
    except HfassetsError as error:
        _say(f"hfassets.slurm: error: {error}")
        return 1
    return _work(record, path, task)


def _work(record: ArrayRecord, path: Path, task: int) -> int:
    plan_file = Path(record.plan)
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    failed = 0
    with outcomes_file(path, task).open("ab", buffering=0) as lines:
        for outcome in LocalPool(record.processes).map(plan_file, record.fingerprint, record.tasks[task]):
            told = {"index": outcome.index, "made": outcome.made, "error": outcome.error, "trace": outcome.trace}
            # One write a line: a line that a kill cut off is not read.
            lines.write(orjson.dumps({**told, "node": node}) + b"\n")
            if outcome.error is not None:
                failed += 1
                _say(f"hfassets.slurm: error: part {outcome.index}: {outcome.error}")
    return 1 if failed else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
