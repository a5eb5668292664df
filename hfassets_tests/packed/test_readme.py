"""The distillation loss of the README, as it stands there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import orjson
import pytest

from hfassets_tests.conftest import ClientEnvironment
from hfassets_tests.mds.pipeline import corpus

pytestmark = pytest.mark.hub

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.drill
def test_a_student_learns_by_the_example(
    hub_env: ClientEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and a teacher of the Hub by the commands, then the code: the loss falls."""
    section = README.read_text().partition("## What a student trains on")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (words,) = re.findall(r"\$ (hfassets distill logits .*)", section)
    monkeypatch.chdir(tmp_path)
    Path("data/distillation/math_reasoning").mkdir(parents=True)
    lines = b"".join(orjson.dumps(row) + b"\n" for row in corpus(60))
    Path("data/distillation/math_reasoning/gsm8k.jsonl").write_bytes(lines)
    tokenize = "hfassets distill tokenize --input data/distillation --recursive --output data/packed"
    assert tokenize in section
    more = ["--tokenizer", "EleutherAI/pythia-70m", "--max-seq-length", "128", "--packing", "best_fit"]
    for command in ([*tokenize.split(), *more], words.split()):
        hub_env.run(sys.executable, "-m", "hfassets.cli.main", *command[1:])
    done = hub_env.run(sys.executable, "-c", code).stdout
    steps, first, last = re.search(r"(\d+) steps: ([\d.]+) -> ([\d.]+)", done).groups()  # type: ignore[union-attr]
    assert int(steps) > 20 and float(last) < 0.9 * float(first)
