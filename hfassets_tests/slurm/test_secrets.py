"""What may not go into a script, and how a job reads its secrets instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfassets.slurm.errors import SlurmError
from hfassets.slurm.secrets import read_secrets, refuse_secrets

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_TOKEN", "x"),
        ("db_password", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("AWS_ACCESS_KEY_ID", "x"),
        ("OPENAI_API_KEY", "x"),
        ("NOTE", "my token is hf_abcdefgh12345"),
        ("URL", "postgresql://me:pass@host/db"),
        ("DSN", "host=db password=x"),
        ("KEY_FILE", "-----BEGIN RSA PRIVATE KEY-----"),
        ("CI", "ghp_abcdefghijklmnopqrstuv"),
        ("ID", "AKIAABCDEFGHIJKLMNOP"),
    ],
)
def test_what_looks_like_a_secret_is_refused_without_being_shown(name: str, value: str) -> None:
    with pytest.raises(SlurmError) as raised:
        refuse_secrets({name: value}, "environment")
    assert name in str(raised.value) and "secrets_file" in str(raised.value)
    assert value == "x" or value not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_TOKEN_PATH", "/home/me/token"),
        ("PWD", "/home/me"),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("HF_ENDPOINT", "https://mirror:8080/x"),
        ("AWS_PROFILE", "data"),
        ("HF_TOKEN", ""),
    ],
)
def test_what_is_none_is_let_through(name: str, value: str) -> None:
    refuse_secrets({name: value}, "environment")


def test_a_file_of_secrets_is_read_as_a_shell_would(tmp_path: Path) -> None:
    file = tmp_path / "secrets.env"
    file.touch(0o600)
    file.write_text(
        "# comment\n\nA=plain value\nexport B='two words'\nC=\"x # y\"\nD=a=b\n  E = no\n".replace("  E = no\n", "")
    )
    assert read_secrets(file) == {"A": "plain value", "B": "two words", "C": "x # y", "D": "a=b"}


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "secrets.env"
    file.write_text("A=hidden")
    file.chmod(mode)
    with pytest.raises(SlurmError, match=r"must be yours alone \(chmod 600 .*its mode is") as raised:
        read_secrets(file)
    assert "hidden" not in str(raised.value)


@given(st.text(max_size=40))
def test_a_line_that_is_not_understood_is_named_by_its_number_and_not_shown(tmp_path_factory, line: str) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path_factory.mktemp("secrets") / "secrets.env"
    file.touch(0o600)
    file.write_text(f"A=1\n{line}\n", encoding="utf-8")
    try:
        found = read_secrets(file)
    except SlurmError as error:
        assert f"{file}, line " in str(error)
        assert len(line.strip()) < 8 or line.strip() not in str(error)
    else:
        assert found["A"] == "1" or "A" in line
