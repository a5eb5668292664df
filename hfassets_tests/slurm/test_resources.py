"""What a job asks for: parsed strictly, merged by rule, rendered so that sbatch reads what was meant."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfassets.slurm.errors import ResourceError
from hfassets.slurm.resources import Resources, largest, override, parse_resources, sbatch_options

pytestmark = pytest.mark.unit

NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
COUNTS = st.integers(1, 9999)
MERGEABLE = st.fixed_dictionaries(
    {},
    optional={
        "nodes": COUNTS,
        "cpus": COUNTS,
        "memory": COUNTS.map(lambda size: f"{size}G"),
        "time": COUNTS,
        "tmp": COUNTS.map(lambda size: f"{size}M"),
        "exclusive": st.booleans(),
        "requeue": st.booleans(),
        "gpus": st.integers(1, 64),
    },
).map(lambda values: parse_resources(values, ""))
ANY = st.dictionaries(st.sampled_from(sorted(Resources.model_fields)), st.text(max_size=30) | COUNTS | NAMES)


@pytest.mark.parametrize(
    ("field", "written", "option"),
    [
        ("memory", "32G", "--mem=32768M"),
        ("memory", "32GB", "--mem=32768M"),
        ("memory", "0.5G", "--mem=512M"),
        ("memory", 500, "--mem=500M"),
        ("memory", "1T", "--mem=1048576M"),
        ("memory", "1K", "--mem=1M"),
        ("tmp", "1500G", "--tmp=1536000M"),
        ("time", "12:00:00", "--time=0-12:00:00"),
        ("time", "2-00", "--time=2-00:00:00"),
        ("time", "1-02:03:04", "--time=1-02:04:00"),
        ("time", "90", "--time=0-01:30:00"),
        ("time", "30:30", "--time=0-00:31:00"),
        ("cpus", "8", "--cpus-per-task=8"),
        ("gpus", "a100:2", "--gpus=a100:2"),
        ("gres", "gpu:a100:2,shard:4", "--gres=gpu:a100:2,shard:4"),
        ("signal", "B:TERM@120", "--signal=B:TERM@120"),
        ("constraint", "cascadelake&ib", "--constraint=cascadelake&ib"),
        ("exclusive", "true", "--exclusive"),
        ("requeue", "no", "--no-requeue"),
        ("requeue", True, "--requeue"),
        ("partition", "a,b", "--partition=a,b"),
    ],
)
def test_what_people_write_becomes_the_option_that_sbatch_reads(field: str, written: Any, option: str) -> None:
    assert sbatch_options(parse_resources({field: written}, "")) == (option,)


def test_false_flags_ask_for_nothing() -> None:
    assert sbatch_options(parse_resources({"exclusive": "false"}, "")) == ()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"memory": "lots"}, "here: memory must be a size like 32G"),
        ({"memory": 0}, "memory must be a size"),
        ({"memory": True}, "memory must be a size"),
        ({"time": "soon"}, 'time must be a time limit like "12:00:00"'),
        ({"time": "0"}, "more than 0"),
        ({"time": "400-00"}, "at most 366 days"),
        ({"cpus": "2.5"}, "cpus must be a whole number"),
        ({"nodes": 0}, "nodes must be a whole number of at least 1"),
        ({"partition": "a b"}, "without spaces"),
        ({"partition": "--nice"}, "not beginning with a dash"),
        ({"account": 'x"y'}, "without spaces and quotes"),
        ({"gpus": "two"}, "a100:2"),
        ({"exclusive": "maybe"}, "true or false"),
        ({"signal": "whenever"}, "B:TERM@120"),
        ({"cpu": 2}, "cpu is no field; did you mean cpus?"),
        ({"frobnicate": 2}, "frobnicate is no field; the fields are partition, account"),
    ],
)
def test_a_mistake_is_said_with_what_would_be_right(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ResourceError) as raised:
        parse_resources(values, "here: ")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(ResourceError, match=r"cpus must be .*; memory must be"):
        parse_resources({"cpus": "x", "memory": "y"}, "")


@given(ANY)
def test_no_value_can_end_its_option_and_begin_another(values: dict[str, Any]) -> None:
    try:
        options = sbatch_options(parse_resources(values, ""))
    except ResourceError as error:
        assert "\n" not in str(error)
        return
    for option in options:
        assert re.fullmatch(r"--[a-z-]+(=[^\s\"'\\$`;]+)?", option), option


@given(MERGEABLE, MERGEABLE, MERGEABLE)
def test_the_largest_meets_everybody_in_any_order(one: Resources, two: Resources, three: Resources) -> None:
    merged = largest([("a", one), ("b", two), ("c", three)])
    assert merged == largest([("c", three), ("a", one), ("b", two)])
    for request in (one, two, three):
        assert largest([("m", merged), ("r", request)]) == merged
        for name in ("nodes", "cpus", "memory", "time", "tmp"):
            assert (getattr(merged, name) or 0) >= (getattr(request, name) or 0)
        assert not request.exclusive or merged.exclusive
        assert request.requeue is not False or merged.requeue is False


@given(MERGEABLE, MERGEABLE)
def test_what_a_later_layer_says_wins(lower: Resources, upper: Resources) -> None:
    merged = override(lower, upper)
    for name in Resources.model_fields:
        said = getattr(upper, name)
        assert getattr(merged, name) == (getattr(lower, name) if said is None else said)


def test_names_that_differ_have_no_largest() -> None:
    one, other = parse_resources({"partition": "gpu"}, ""), parse_resources({"partition": "cpu"}, "")
    with pytest.raises(ResourceError, match=r"slurm/partition: tokens asks for gpu and logits for cpu.*run tag"):
        largest([("tokens", one), ("logits", other)])
