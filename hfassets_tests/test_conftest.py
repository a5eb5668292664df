"""The rules of the test suite itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = {
    "test_one.py": """
        import os, pytest

        def test_skips():
            pytest.skip("no slurmctld here")

        @pytest.mark.xfail
        def test_expected():
            raise AssertionError

        def test_environment():
            assert not {"HF_TOKEN", "HTTPS_PROXY"} & set(os.environ)
    """,
    "test_two.py": """
        import pytest

        pytest.importorskip("no_such_module")
    """,
}


@pytest.mark.unit
@pytest.mark.parametrize(
    ("ci", "summary"),
    [("true", "1 failed, 1 passed, 1 xfailed, 1 error"), ("", "1 passed, 2 skipped, 1 xfailed")],
)
def test_skips_fail_in_ci_and_nothing_leaks(tmp_path, ci, summary):
    """With CI=true a skipped test or module fails; tokens and proxies of the caller reach no test."""
    (tmp_path / "conftest.py").write_bytes(Path(__file__).with_name("conftest.py").read_bytes())
    for name, code in TESTS.items():
        (tmp_path / name).write_text("\n".join(line[8:] for line in code.splitlines()))
    env = {**os.environ, "CI": ci, "HF_TOKEN": "hf_secret", "HTTPS_PROXY": "http://127.0.0.1:1"}
    env["PYTHONPATH"] = str(Path(__file__).parents[1])
    words = [sys.executable, "-m", "pytest", "-q", "--continue-on-collection-errors", "-p", "no:cacheprovider"]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert summary in done.stdout
    assert (done.returncode == 0) == (not ci)
