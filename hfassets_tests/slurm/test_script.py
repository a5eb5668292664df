"""Batch scripts: held by golden files (HFASSETS_UPDATE_GOLDEN=1 writes them anew), and tried in a real shell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfassets.slurm.attempts import Attempts
from hfassets.slurm.errors import SlurmError
from hfassets.slurm.request import JobRequest
from hfassets.slurm.resources import parse_resources
from hfassets.slurm.script import BatchScript, render
from hfassets.slurm.settings import parse_settings
from hfassets.slurm.submission import Place, plan_attempt

pytestmark = pytest.mark.unit

GOLDEN = Path(__file__).parent / "golden"
RUN = "0d5c8a1e-1111-2222-3333-444455556666"
HOME = Path("/shared/dagster home")
PLACE = Place(HOME, "/opt/venv/bin/python3", Path("/shared/project"), frozenset({"DAGSTER_PG_HOST"}))
ENVIRONMENT = {
    "DAGSTER_PG_HOST": "db.cluster",
    "HF_ENDPOINT": "https://mirror",
    "SECRET_OF_SOMEBODY": "not exported",
    "PATH": "/not/exported",
    "SCRATCH": "/scratch/me & you",
}
PLAIN = BatchScript(
    options=(),
    command=("/bin/true",),
    working_directory=Path("/"),
    stdout=Path("/out"),
    stderr=Path("/err"),
)
CASES = {
    "plain": ({}, {}, True),
    "offline_and_large": (
        {},
        {"partition": "normal", "cpus": 8, "memory": "32G", "time": "12:00:00", "gpus": "a100:2", "requeue": False},
        False,
    ),
    "site": (
        {
            "preamble": ["module load python/3.11", "", "ulimit -n 65536"],
            "activate": "/opt/venv of ours/bin/activate",
            "wrapper": ["srun", "--ntasks=1", "--environment=emu3"],
            "extra_args": ["--mail-type=FAIL", "--switches=1@00:10:00"],
            "environment": {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "localhost,.cluster"},
            "python": "/containers/python3",
        },
        {"account": "proj", "reservation": "night", "exclusive": True},
        True,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_script_of_an_attempt_is_as_recorded(name: str) -> None:
    config, request, online = CASES[name]
    launcher = parse_settings({"folder": "/shared/slurm", **config}, HOME)
    intent, script = plan_attempt(
        launcher,
        Attempts(launcher.folder),
        "f" * 32,
        RUN,
        1,
        JobRequest(parse_resources(request, ""), online=online),
        PLACE,
        ENVIRONMENT,
    )
    golden = GOLDEN / f"{name}.sh"
    if os.environ.get("HFASSETS_UPDATE_GOLDEN"):
        golden.write_text(script)
    assert script == golden.read_text()
    assert intent.comment == f"dagster:{'f' * 32}:{RUN}:1"
    assert "not exported" not in script and "/not/exported" not in script


def test_a_variable_that_dagster_yaml_needs_and_the_job_would_lack_is_named() -> None:
    launcher = parse_settings({"folder": "/shared/slurm"}, HOME)
    place = Place(HOME, "/python", HOME, frozenset({"DAGSTER_PG_HOST", "DAGSTER_PG_PASSWORD"}))
    with pytest.raises(SlurmError, match=r"refers to DAGSTER_PG_PASSWORD, which the job would not have.*secrets_file"):
        plan_attempt(
            launcher,
            Attempts(launcher.folder),
            "f",
            RUN,
            1,
            JobRequest(parse_resources({}, ""), True),
            place,
            ENVIRONMENT,
        )


def test_a_secret_in_the_environment_of_the_launcher_is_refused_by_name() -> None:
    launcher = parse_settings({"folder": "/shared/slurm", "export": ["MY_API_KEY"]}, HOME)
    with pytest.raises(SlurmError, match="MY_API_KEY looks like a secret") as raised:
        plan_attempt(
            launcher,
            Attempts(launcher.folder),
            *("f", RUN, 1, JobRequest(parse_resources({}, ""), True), PLACE),
            {**ENVIRONMENT, "MY_API_KEY": "s3cr3t"},
        )
    assert "s3cr3t" not in str(raised.value)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["A", "B_C"]), st.text(st.characters(codec="utf-8", exclude_characters="\0"))),
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), max_size=4),
)
def test_every_value_reaches_the_worker_as_it_is(environment: dict[str, str], words: list[str]) -> None:
    code = (
        "import os, sys, json\n"
        "print(json.dumps([sys.argv[1:], {k: os.environ[k] for k in ('A', 'B_C') if k in os.environ}]))"
    )
    script = render(
        BatchScript(
            **{name: getattr(PLAIN, name) for name in ("options", "working_directory", "stdout", "stderr")},
            command=(sys.executable, "-c", code, *words),
            environment=environment,
        )
    )
    done = subprocess.run(["bash"], input=script.encode(), capture_output=True, check=True, env={"PYTHONUTF8": "1"})
    assert orjson.loads(done.stdout) == [words, environment]


def test_a_preamble_that_fails_ends_the_job_and_says_which_line() -> None:
    fields = ("options", "working_directory", "stdout", "stderr", "command")
    script = render(
        BatchScript(**{name: getattr(PLAIN, name) for name in fields}, preamble=("true", "module load nothing"))
    )
    done = subprocess.run(["bash"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 127
    assert "the preamble failed: module load nothing" in done.stderr


@pytest.mark.parametrize("option", ["--comment=a\nb", "nice", '--comment=say "x"', "--comment=a\\b", "--x=\x1b"])
def test_an_option_that_could_leave_its_line_is_refused(option: str) -> None:
    fields = ("command", "working_directory", "stdout", "stderr")
    with pytest.raises(SlurmError):
        render(BatchScript(**{name: getattr(PLAIN, name) for name in fields}, options=(option,)))
