"""SIGKILL at random moments of every stage, ten of each, with 1, 2 and 8 workers: the trees are those of quiet runs."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from hfassets.mds.sample import Member, Sampling, make_sampling
from hfassets.mds.stage import StageOutput, find_stage
from hfassets_tests.mds.pipeline import Pipeline, corpus, tree, write_jsonl

pytestmark = pytest.mark.drill
STAGES = ("text", "tokens", "chunks", "fused", "sampled")
KILLS = 10

_SCRIPT = """
import sys
from pathlib import Path
from hfassets_tests.mds.pipeline import Pipeline
from hfassets_tests.mds.test_drill_kills import make
if __name__ == "__main__":
    make(Pipeline(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[4])), sys.argv[3])
"""


def make(pipeline: Pipeline, stage: str) -> StageOutput:
    """One stage of a pipeline."""
    if stage != "sampled":
        made: StageOutput = getattr(pipeline, stage)()
        return made
    source = pipeline.root / "chunks"
    found = find_stage(source)
    assert found is not None
    sampling = Sampling(pipeline.root / "sampled", [Member("chunks", source, found.fingerprint, 400_000)], 3)
    return make_sampling(sampling, pipeline.run)


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("stage", STAGES)
def test_kills_at_any_moment_change_nothing(made: Pipeline, tmp_path: Path, stage: str, workers: int) -> None:
    """Killed ten times at moments spread over the time that it takes, then let run: equal to the last byte."""
    for before in ("fused", "sampled"):
        make(made, before)
    other = Pipeline(tmp_path, made.tokenizer, workers)
    write_jsonl(other.root / "source", corpus(2200))
    for before in ("text", "tokens", "chunks"):
        if stage != "fused" and STAGES.index(before) < STAGES.index(stage):
            make(other, before)
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    command = [sys.executable, str(script), str(other.root), str(other.tokenizer), stage, str(workers)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    choose = random.Random(workers)
    killed = 0
    for _ in range(KILLS):
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        work = other.root / stage
        deadline = time.monotonic() + 60
        while not work.exists() and not list(other.root.glob(f".{stage}.*")) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(choose.random() * 0.3)
        killed += process.poll() is None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert killed >= 3
    make(other, stage)
    assert tree(other.root / stage) == tree(made.root / stage)
    assert not [path for path in other.root.rglob("*.tmp") if path.name.startswith(".")]
