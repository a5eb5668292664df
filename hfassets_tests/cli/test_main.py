"""What every command's end means: exit codes, one line for a mistake, instant help."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest

from hfassets.cli.main import COMMANDS, cli, main
from hfassets.cli.options import Size
from hfassets.cli.output import plain, show
from hfassets.errors import CatalogError, HfassetsError, HubError, UsageError
from hfassets.report.tables import build_table

pytestmark = pytest.mark.unit

BLOCKING = """
import sys, time, click
from hfassets.cli import main as frame
@click.command()
def slow():
    try:
        print("ready", file=sys.stderr, flush=True)
        time.sleep(60)
    finally:
        print("cleaned up", file=sys.stderr, flush=True)
frame.COMMANDS["slow"] = ("__main__:slow", "Sleep.")
sys.exit(frame.main(["slow"]))
"""

FORKING = """
import os, signal, sys, click
from hfassets.cli import main as frame
@click.command()
def forks():
    read, write = os.pipe()
    def hang():
        os.write(write, b"x")
        try:
            signal.pause()
        except BaseException:
            pass
        signal.pause()
    os.register_at_fork(after_in_child=hang)
    child = os.fork()
    os.read(read, 1)
    os.kill(child, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
frame.COMMANDS["forks"] = ("__main__:forks", "Fork.")
sys.exit(frame.main(["forks"]))
"""


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """`hfassets fails` raises what is put into the list."""
    raised: list[BaseException] = []

    @click.command()
    def command() -> None:
        raise raised[0]

    monkeypatch.setitem(COMMANDS, "fails", ("hfassets_fails:command", "Fail."))
    monkeypatch.setitem(sys.modules, "hfassets_fails", type("Module", (), {"command": command}))  # type: ignore[arg-type]
    return raised


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (HubError("the Hub\nsays no"), 1, "hfassets: error: the Hub says no"),
        (UsageError("--a and --b do not fit"), 2, "hfassets: error: --a and --b do not fit"),
        (CatalogError(["c.yaml:1 a: no", "c.yaml:2 b: no"]), 1, "hfassets: error: c.yaml:1 a: no"),
        (PermissionError(13, "Permission denied", "/x"), 1, "hfassets: error: /x: Permission denied"),
        (
            ZeroDivisionError("oh"),
            1,
            "hfassets: internal error: ZeroDivisionError: oh (set HFASSETS_DEBUG=1 to see where)",
        ),
        (KeyboardInterrupt(), 130, "hfassets: interrupted; run the same command again to go on where it stopped"),
    ],
)
def test_each_kind_of_failure_is_one_line_and_one_code(
    fails: list[BaseException], capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    """On stderr, never a traceback; a catalog has one line a mistake."""
    fails.append(error)
    assert main(["fails"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == line
    assert len(err.splitlines()) == (2 if isinstance(error, CatalogError) else 1)


def test_a_traceback_on_request(
    fails: list[BaseException], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """HFASSETS_DEBUG=1 shows where it was."""
    monkeypatch.setenv("HFASSETS_DEBUG", "1")
    fails.append(HfassetsError("x"))
    assert main(["fails"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["nope"], ["--nope"], ["hub", "nope"], ["hub", "verify", "--workers", "0"], ["hub"]])
def test_a_usage_error_gives_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """And one line that says where help is (or the help itself, when nothing was asked for)."""
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words == ["hub"] or (err.count("\n") == 1 and "--help" in err)


def test_help_lists_every_noun(capsys: pytest.CaptureFixture[str]) -> None:
    """`hfassets --help` and `--version` are successes on stdout; each noun can be imported and has help."""
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, (_, help_text) in COMMANDS.items():
        assert name in text
        assert help_text in text
        assert main([name, "--help"]) == 0
        assert capsys.readouterr().out.startswith(f"Usage: hfassets {name}")
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("hfassets ")
    with click.Context(cli) as context:
        assert cli.get_command(context, "nope") is None


def test_help_is_instant() -> None:
    """Nothing heavy, not even our own domain code, is imported for the list of commands."""
    heavy = (
        "datasets",
        "torch",
        "transformers",
        "dagster",
        "pyarrow",
        "huggingface_hub",
        "requests",
        "rich",
        "pydantic",
    )
    code = (
        "import sys; from hfassets.cli.main import main; main(['--help']);"
        f"bad = [name for name in {heavy!r} if name in sys.modules]; sys.exit(repr(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_signals_end_a_command_tidily(number: signal.Signals, code: int, word: str) -> None:
    """What is under way is cleaned up (leases, temporary files), then one line and the usual code."""
    with subprocess.Popen([sys.executable, "-c", BLOCKING], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        process.send_signal(number)
        rest = process.stderr.read()
    assert process.returncode == code
    assert rest.splitlines()[0] == "cleaned up"
    assert len(rest.splitlines()) == 2
    assert word in rest


def test_a_forked_worker_ends_by_sigterm_even_where_exceptions_are_ignored() -> None:
    """Pools end their workers by SIGTERM and wait: at-fork callbacks, where Python drops exceptions, included."""
    done = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{128 + signal.SIGTERM}\n", "")


def test_a_reader_that_goes_away_is_no_defect() -> None:
    """`hfassets ... | head -1`: no complaint, the exit code of a closed pipe."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "hfassets.cli.main", "--help"], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@dataclass(frozen=True)
class Sample:
    """A result with a secret that is no part of its repr."""

    path: Path
    names: frozenset[str]
    token: str = field(repr=False, default="secret")


def test_json_goes_where_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Alone on stdout, or into a file beside the table; fields hidden from repr are hidden here."""
    sample = Sample(Path("/x"), frozenset({"b", "a"}))
    wanted = {"path": "/x", "names": ["a", "b"]}
    table = build_table(["name", "n>"], [("a" * 300, 1)]).rich()
    show("-", sample, table)
    assert json.loads(capsys.readouterr().out) == wanted
    show(str(tmp_path / "deep" / "out.json"), sample, table)
    assert json.loads((tmp_path / "deep" / "out.json").read_text()) == wanted
    out = capsys.readouterr().out
    assert "a" * 300 in out
    assert all(line == line.rstrip() for line in out.splitlines())
    show(None, sample, "[bold]text[/] as it is")
    assert capsys.readouterr().out == "[bold]text[/] as it is\n"
    assert plain({1: (Path("a"), [None, 1.5])}) == {"1": ["a", [None, 1.5]]}


@pytest.mark.parametrize(("text", "size"), [("1", 1), ("200GB", 200 * 10**9), ("1.5 TB", 15 * 10**11), ("1KiB", 1024)])
def test_sizes(text: str, size: int) -> None:
    """Decimal units, and binary ones by name."""
    assert Size().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "many", "1 parsec"])
def test_what_is_no_size(text: str) -> None:
    """Refused with an example."""
    with pytest.raises(click.UsageError, match="looks like 200GB"):
        Size().convert(text, None, None)
