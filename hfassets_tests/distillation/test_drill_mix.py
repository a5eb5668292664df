"""The long drill of mixes: the whole command killed at any moment, made by one process or two, with another dedup."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hfassets.demo.hub_app import TOKEN
from hfassets.demo.hub_faults import Fault
from hfassets_tests.conftest import ClientEnvironment

pytestmark = [pytest.mark.drill, pytest.mark.timeout(900)]

KINDS = {
    "one at a time": "",
    "by two processes": "workers: 2\n",
    "no text twice in all": "preprocessing: {dedup_scope: mix}\n",
    "redistributed": "on_shortfall: redistribute\nworkers: 2\n",
}


def files(folder: Path) -> dict[str, bytes]:
    """The JSONL files, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("*/*.jsonl"))}


@pytest.mark.parametrize("kind", KINDS)
def test_kills_at_any_moment_change_nothing(hub_env: ClientEnvironment, tmp_path: Path, kind: str) -> None:
    """After many SIGKILLs of the whole process group and one run to the end: the bytes of a calm run, nothing left."""
    mix = tmp_path / "mix.yaml"
    mix.write_text(
        f"total_samples: 3000\nsoftware_heritage: {{endpoint_url: '{hub_env.hub.url}/_s3', workers: 4}}\n{KINDS[kind]}"
    )

    def command(place: str) -> list[str]:
        places = ["--output-dir", str(tmp_path / place), "--state-dir", str(tmp_path / f"state-{place}")]
        caches = ["--cache-dir", str(tmp_path / f"cache-{place}"), "--backoff-factor", "0.05"]
        return [sys.executable, "-m", "hfassets.cli.main", "distill", "--config", str(mix), *places, *caches]

    environment = {**hub_env.variables, "HF_TOKEN": TOKEN}
    hub_env.run(*command("calm"), HF_TOKEN=TOKEN)
    hub_env.hub.set_faults(
        Fault("slow", path="*.parquet", rate=120_000),
        Fault("slow", path="*openhermes*", rate=200_000),
        Fault("delay", path="/_s3/*", wait=0.02),
        Fault("cut", path="*.json", every=3, after=50_000),
    )
    moments = random.Random(kind)
    for _ in range(14):
        process = subprocess.Popen(
            command("wild"), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        time.sleep(moments.uniform(0.5, 4.0))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    hub_env.hub.set_faults()
    hub_env.run(*command("wild"), HF_TOKEN=TOKEN)
    calm = files(tmp_path / "calm")
    assert len(calm) == 12
    assert files(tmp_path / "wild") == calm
    left = [path for path in (tmp_path / "state-wild" / "work").rglob("*") if path.is_file()]
    left += [path for path in (tmp_path / "wild").rglob(".*") if path.is_file()]
    assert not left
