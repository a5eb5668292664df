"""The rules that keep the house a house: who may import whom, what loads fast, how things are named."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hfassets

pytestmark = pytest.mark.unit

PACKAGE = Path(hfassets.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
# The faces, and what shows them off: these may import Dagster and each other.
FACES = {"defs", "cli", "demo", "definitions"}
# Dagster's by nature: a run launcher, its reconciler and what a job runs; the examination of a Dagster deployment.
DAGSTERS_OWN = {
    *(
        f"slurm/{name}.py"
        for name in ("coordinator", "definitions", "interruption", "job", "launcher", "local_runs", "reconciler")
    ),
    *(f"slurm/{name}.py" for name in ("draining", "termination", "workload")),
    *(f"service/{name}.py" for name in ("storage", "upgrade", "web")),
    *(f"doctor/{name}.py" for name in ("deployment", "examine", "node")),
}
# Costs seconds or hundreds of MB: imported inside the function that needs it.
HEAVY = {"datasets", "torch", "transformers", "streaming", "matplotlib", "pandas", "boto3", "playwright", "hypothesis"}
MOST_LINES = 450


def relative(path: Path) -> str:
    """`storage/lease.py`."""
    return path.relative_to(PACKAGE).as_posix()


def imported(tree: ast.AST, path: Path) -> Iterator[tuple[str, ast.stmt]]:
    """Every module that a file imports, by its full name; TYPE_CHECKING blocks count, strings do not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}:{node.lineno}: relative import"
            assert node.module is not None
            yield node.module, node
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node


def runs_at_import(tree: ast.Module) -> Iterator[ast.stmt]:
    """Import statements that run when the module is imported."""

    def visit(statements: list[ast.stmt]) -> Iterator[ast.stmt]:
        for node in statements:
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield node
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                yield from visit(node.orelse)
            elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef):
                for block in ("body", "orelse", "finalbody"):
                    yield from visit(getattr(node, block, []))

    return visit(tree.body)


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_domain_packages_know_no_face(path: Path) -> None:
    """Nothing below `defs/`, `cli/` and `demo/` imports dagster or a face, not even within a function."""
    top = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if top in FACES or relative(path) in DAGSTERS_OWN:
        return
    for name, node in imported(ast.parse(path.read_text()), path):
        parts = name.split(".")
        face = parts[0] == "hfassets" and len(parts) > 1 and parts[1] in FACES
        assert not face, f"{relative(path)}:{node.lineno} imports {name}"
        assert not parts[0].startswith("dagster"), f"{relative(path)}:{node.lineno} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_every_module_states_itself(path: Path) -> None:
    """A docstring first, short enough to be one thing, a name in lower case."""
    text = path.read_text()
    tree = ast.parse(text)
    if not tree.body:
        assert path.name == "__init__.py"
        return
    assert ast.get_docstring(tree), f"{relative(path)} has no docstring"
    assert text.count("\n") <= MOST_LINES, f"{relative(path)} is probably two files"
    assert re.fullmatch(r"[a-z_][a-z0-9_]*\.py", path.name)


@pytest.mark.parametrize("path", [path for path in MODULES if path.name == "__init__.py"], ids=relative)
def test_a_package_hands_out_names_and_nothing_more(path: Path) -> None:
    """Docstring, imports, `__all__`, `__version__`: no logic."""
    for node in ast.parse(path.read_text()).body:
        plain = isinstance(node, ast.Import | ast.ImportFrom) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        )
        named = isinstance(node, ast.Assign) and all(
            isinstance(target, ast.Name) and target.id in ("__all__", "__version__") for target in node.targets
        )
        # A name that costs much to import is handed out when it is asked for (PEP 562).
        lazy = (isinstance(node, ast.FunctionDef) and node.name == "__getattr__") or (
            isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        )
        assert plain or named or lazy, f"{relative(path)}:{node.lineno}"


def test_the_launcher_is_usable_without_the_rest() -> None:
    """`hfassets.slurm` imports nothing of hfassets but itself."""
    for path in (PACKAGE / "slurm").glob("*.py"):
        for name, node in imported(ast.parse(path.read_text()), path):
            ours = name.split(".")[0] == "hfassets" and name != "hfassets"
            assert not ours or name.startswith("hfassets.slurm"), f"{relative(path)}:{node.lineno} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_what_is_heavy_is_imported_where_it_is_used(path: Path) -> None:
    """Except in `hub/library.py`, which is imported as late itself: it is all that touches `datasets`."""
    if relative(path) in ("hub/library.py", "hub/resolution.py"):
        return
    for node in runs_at_import(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]  # type: ignore[attr-defined]
        assert not {name.split(".")[0] for name in names} & HEAVY, f"{relative(path)}:{node.lineno}"


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("hfassets.cli.main", {*HEAVY, "dagster", "pyarrow", "huggingface_hub"}),
        ("hfassets.cli.slurm", {*HEAVY, "dagster", "pyarrow", "huggingface_hub"}),
        ("hfassets.cli.doctor", {*HEAVY, "dagster", "pyarrow", "huggingface_hub"}),
        ("hfassets.slurm", {*HEAVY, "dagster", "pyarrow", "huggingface_hub"}),
        ("hfassets.cli.hub", {*HEAVY, "dagster", "pyarrow", "huggingface_hub"}),
        ("hfassets.parts", {*HEAVY, "dagster", "pyarrow", "huggingface_hub"}),
        ("hfassets.hub.download", {*HEAVY, "dagster", "pyarrow"}),
        ("hfassets.hub.verify", {*HEAVY, "dagster", "pyarrow", "huggingface_hub"}),
        ("hfassets.definitions", HEAVY),
    ],
)
def test_importing_costs_nothing_heavy(module: str, forbidden: set[str], tmp_path: Path) -> None:
    """In a fresh process: what a command or the code location loads before it has anything to do."""
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text("datasets: []\n")
    code = (
        f"import os, sys; os.environ['HFASSETS_CATALOG'] = {str(catalog)!r}; import {module};"
        f"bad = sorted({forbidden!r} & set(sys.modules)); sys.exit(', '.join(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_is_swallowed_pickled_or_run_by_a_shell() -> None:
    """No bare `except: pass`, no `shell=True`; pickle only between the processes of one run, never from disk."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
                silent = all(isinstance(statement, ast.Pass) for statement in node.body)
                assert not (broad and silent), f"{relative(path)}:{node.lineno} swallows everything"
            if isinstance(node, ast.keyword) and node.arg == "shell":
                assert ast.unparse(node.value) == "False", f"{relative(path)}: shell=True"
            if isinstance(node, ast.Import) and relative(path) != "parts/arena.py":
                assert not {"pickle", "dill", "cloudpickle"} & {alias.name for alias in node.names}, relative(path)


def test_tests_mirror_the_package() -> None:
    """A test folder has the name of the package that it tests."""
    tests = Path(__file__).parent
    folders = {path.name for path in tests.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))}
    assert folders <= {path.name for path in PACKAGE.iterdir() if path.is_dir()} | {"browser"}
