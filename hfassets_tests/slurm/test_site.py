"""Site profiles and the launcher's config: what they accept, and what they say otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hfassets.slurm.errors import SlurmError
from hfassets.slurm.settings import parse_settings, references
from hfassets.slurm.site import load_site, parse_site

pytestmark = pytest.mark.unit

PROFILES = sorted((Path(__file__).parents[2] / "slurm" / "profiles").glob("*.yaml"))


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_the_profiles_that_we_ship_are_valid(path: Path) -> None:
    assert load_site(path).resources.partition


def test_a_profile_is_the_base_and_dagster_yaml_wins_field_by_field(tmp_path: Path) -> None:
    profile = tmp_path / "site.yaml"
    profile.write_text(
        "resources: {partition: normal, time: 12:00:00, cpus: 4}\nprofiles: {a: {cpus: 1}, b: {cpus: 2}}\n"
        "environment: {A: from the site, B: from the site}\nnetwork: daemon\n"
        "preamble: |\n  module load x\n  module load y\n"
    )
    config = {
        "site": str(profile),
        "resources": {"cpus": 8},
        "profiles": {"b": {"cpus": 3}},
        "environment": {"B": "ours"},
        "preamble": None,
    }
    site = parse_settings(config, tmp_path).site
    assert (site.resources.partition, site.resources.time, site.resources.cpus) == ("normal", 720, 8)
    assert (site.profiles["a"].cpus, site.profiles["b"].cpus) == (1, 3)
    assert site.environment == {"A": "from the site", "B": "ours"}
    assert (site.network, site.preamble) == ("daemon", ("module load x", "module load y"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"network": "sometimes"}, "network must be everywhere, daemon or partition:NAME"),
        ({"netwrok": "daemon"}, "netwrok is no key; did you mean network?"),
        ({"extra_args": ["--nice; rm -rf /\nx"]}, "extra_args must be a list of sbatch options"),
        ({"extra_args": "--nice"}, "extra_args must be a list"),
        ({"activate": "venv/bin/activate"}, "activate must be an absolute path"),
        ({"environment": {"A B": "1"}}, "names of variables"),
        ({"environment": {"HF_TOKEN": "hf_abcdefghijkl"}}, "HF_TOKEN looks like a secret"),
        ({"environment": {"HTTPS_PROXY": "http://me:secret@proxy:1"}}, "HTTPS_PROXY looks like a secret"),
        ({"resources": {"cups": 1}}, "resources: cups is no field; did you mean cpus?"),
        ({"profiles": {"big": {"memory": "x"}}}, "profiles, big: memory must be a size"),
        ({"profiles": ["big"]}, "profiles must be a mapping"),
    ],
)
def test_a_mistake_is_one_line_and_shows_no_secret(values: dict[str, Any], said: str) -> None:
    with pytest.raises(SlurmError) as raised:
        parse_site(values, "site.yaml: ")
    assert said in str(raised.value) and str(raised.value).startswith("site.yaml: ")
    assert "hf_abc" not in str(raised.value) and "secret@" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [("- a\n", "must be a mapping of keys"), ("a: [", "is no YAML"), (None, "cannot be read: No such file")],
)
def test_a_file_that_is_no_profile_is_said_by_name(tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "site.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SlurmError, match=r"the site profile .*site\.yaml") as raised:
        load_site(file)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"route": "some"}, "route must be one of heavy, all, not 'some'"),
        ({"folder": "slurm"}, "folder must be an absolute path"),
        ({"submissions_per_second": 0}, "greater than 0"),
        ({"max_jobs": 0}, "greater than 0"),
        ({"resources": {"time": 43200}}, 'resources: time must stand in quotes, like "12:00:00"'),
        ({"profiles": {"long": {"time": 43200}}}, "profiles, long: time must stand in quotes"),
    ],
)
def test_a_launcher_config_that_cannot_work_is_one_line(config: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(SlurmError) as raised:
        parse_settings(config, tmp_path)
    assert said in str(raised.value)


def test_settings_have_defaults_below_dagster_home(tmp_path: Path) -> None:
    settings = parse_settings({}, tmp_path)
    assert (settings.route, settings.folder, settings.cluster) == ("heavy", tmp_path / "slurm", None)
    assert parse_settings({"export": ["MY_NAME"]}, tmp_path).exported[-1] == "MY_NAME"


def test_a_webhook_is_not_part_of_what_settings_print(tmp_path: Path) -> None:
    settings = parse_settings({"notices": {"webhook": "https://hooks/T0123", "file": "/n"}}, tmp_path)
    assert settings.notices.webhook == "https://hooks/T0123"
    assert "T0123" not in repr(settings)


def test_references_to_variables_are_found_at_any_depth() -> None:
    document = {"storage": {"postgres": {"password": {"env": "A"}, "port": [{"env": "B"}]}}, "x": {"env": {"env": "C"}}}
    assert references(document) == {"A", "B", "C"}
    assert references(None) == set()
