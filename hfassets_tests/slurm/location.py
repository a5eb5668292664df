"""Heavy work of every kind for the tests of SLURM runs: a code location of its own, as another project would have it.

`worked.log` in TRIAL_FOLDER gets a line when a part begins and one when it is done, so that a test sees what was done
how often, and by which job.
"""

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from hfassets.parts import LocalPool, PartOutput, Plan, run
from hfassets.storage.lease import lease

FOLDER = "TRIAL_FOLDER"


def say(text: str) -> None:
    """One line of the log, whole: appends of this size are."""
    with (Path(os.environ[FOLDER]) / "worked.log").open("a") as file:
        file.write(f"{text} {os.environ.get('SLURM_JOB_ID', '-')} {os.getpid()} {os.getppid()}\n")


def slow_part(part: Mapping[str, Any], folder: Path) -> PartOutput:
    """A part that takes its time and writes in two halves."""
    say(f"begin {part['name']}")
    with (folder / "data.bin").open("wb") as file:
        file.write(b"a" * 1000)
        file.flush()
        time.sleep(part["seconds"])
        file.write(b"b" * 1000)
    say(f"done {part['name']}")
    return PartOutput(account={"bytes": 2000})


class Parts(dg.Config):
    """How many parts of how many seconds."""

    name: str
    parts: int = 5
    seconds: float = 1.0


@dg.asset(metadata={"slurm/request": {"default": {}}, "slurm/network": "none"})
def slow_parts(context: dg.AssetExecutionContext, config: Parts) -> None:
    """Parts under a lease, as the heavy assets of this project are made."""
    root = Path(os.environ[FOLDER]) / config.name
    parts = [{"name": f"part-{number}", "seconds": config.seconds} for number in range(config.parts)]
    context.log.info(f"offline: {os.environ.get('HF_HUB_OFFLINE', '0')}")
    print(f"making {config.name}", flush=True)
    with lease(root.with_suffix(".lease"), config.name, run_id=context.run.run_id):
        plan = Plan("slow_parts", 1, {}, {"name": config.name}, parts)
        run(plan, slow_part, LocalPool(1), root)


class Memory(dg.Config):
    """How much memory to take, in MB."""

    megabytes: int


@dg.asset(metadata={"slurm/request": {"default": {"memory": "300M"}}})
def hungry(config: Memory) -> None:
    """Takes memory and keeps it until SLURM has seen it."""
    taken = bytearray(config.megabytes * 1_000_000)
    for offset in range(0, len(taken), 4096):
        taken[offset] = 1
    say("fed")
    time.sleep(60)


class Signals(dg.Config):
    """When to signal this step's process, and when the worker: seconds from the step's start; none: never."""

    step: float | None = None
    worker: float | None = None


@dg.asset(metadata={"slurm/request": {"default": {}}})
def stopped(config: Signals) -> None:
    """Is ended as SLURM does it: every process of the job gets SIGTERM, one a little before the other."""
    for target, delay in ((os.getpid(), config.step), (int(os.environ["WORKER_PID"]), config.worker)):
        if delay is not None:
            subprocess.Popen(["sh", "-c", f"sleep {delay}; kill -TERM {target}"], start_new_session=True)
    time.sleep(60)


@dg.asset
def broken() -> None:
    """Fails by itself."""
    raise RuntimeError("broken by itself")


@dg.asset
def light() -> None:
    """Asks for nothing."""
    say("light")


@dg.asset
def trusted() -> None:
    """Says whether it has a token, and not which."""
    say(f"trusted {'yes' if os.environ.get('HF_TOKEN') and os.environ.get('DAGSTER_PG_PASSWORD') else 'no'}")


scheduled = dg.define_asset_job("scheduled", selection=["slow_parts"])


@dg.schedule(job=scheduled, cron_schedule="* * * * *")
def every_minute(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """One run a minute, while it is switched on."""
    config = {"ops": {"slow_parts": {"config": {"name": "scheduled", "parts": 1, "seconds": 0.1}}}}
    return dg.RunRequest(run_key="once", run_config=config)


defs = dg.Definitions(
    assets=[slow_parts, hungry, stopped, broken, light, trusted], jobs=[scheduled], schedules=[every_minute]
)
