"""`hfassets stage` as its users call it."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from hfassets.cli.main import main
from hfassets_tests.staging.test_copy import content, fill


def test_a_variable_in_single_quotes_is_the_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Put in where it is staged; one that is not set is named."""
    source = fill(tmp_path / "source")
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    assert main(["stage", "--from", str(source), "--to", "$SLURM_TMPDIR/data"]) == 2
    assert "SLURM_TMPDIR is not set on this node" in capsys.readouterr().err
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path / "node"))
    assert main(["stage", "--from", str(source), "--to", "$SLURM_TMPDIR/data", "--json"]) == 0
    told = orjson.loads(capsys.readouterr().out)
    assert told["copied_files"] == told["files"] == len(content(source))
    assert content(tmp_path / "node/data") == content(source)
    assert main(["stage", "--verify", "--to", "$SLURM_TMPDIR/data"]) == 0
    assert "intact" in capsys.readouterr().out


def test_the_list_has_a_line_for_each_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also for names with line ends, and for those that are no text."""
    source = fill(tmp_path / "source")
    assert main(["stage", "--from", str(source), "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(content(source))
    assert main(["stage", "--list"]) == 2 and main(["stage", "--from", str(source)]) == 2
    assert main(["stage", "--from", str(tmp_path / "gone"), "--to", str(tmp_path / "to")]) == 1
