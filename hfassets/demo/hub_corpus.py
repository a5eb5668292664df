"""Real text that every machine has: the sources and documentation strings of Python's own standard library.

Invariant: for one installed Python the texts and their order are always the same.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

from hfassets.errors import DataError

_PACKAGES = ("asyncio", "collections", "concurrent/futures", "email", "http", "importlib", "json", "logging",
             "multiprocessing", "pydoc_data", "unittest", "urllib", "xml/dom", "xml/etree")  # fmt: skip
_PASSAGE = 2000


@dataclass(frozen=True, slots=True)
class Module:
    """A module of the standard library with its source text."""

    name: str
    path: str
    source: str


@dataclass(frozen=True, slots=True)
class Documented:
    """A function or class that explains itself: its name in the module, whether it is a class, and its docstring."""

    module: Module
    name: str
    is_class: bool
    docstring: str
    arguments: int


@cache
def modules() -> tuple[Module, ...]:
    """The modules at the top of the library and in some packages, by path; raises DataError when it has no sources."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = chain(root.glob("*.py"), *((root / package).glob("*.py") for package in _PACKAGES))
    found = []
    for path in sorted(paths):
        relative = path.relative_to(root)
        # Written when Python was built: it holds the paths of the machine that did.
        if path.name.startswith("_sysconfigdata"):
            continue
        source = path.read_text(encoding="utf-8", errors="replace")
        name = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        if len(source) > 500:
            found.append(Module(name, relative.as_posix(), source))
    if not found:
        raise DataError(f"{root}: no Python sources there; the sample Hub makes its texts from them")
    return tuple(found)


@cache
def documented() -> tuple[Documented, ...]:
    """Everything with a docstring of 40 characters or more, in the order of `modules` and of their text."""
    return tuple(item for module in modules() for item in _documented_in(module))


def _documented_in(module: Module) -> Iterator[Documented]:
    def walk(node: ast.AST, prefix: str) -> Iterator[Documented]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                docstring = ast.get_docstring(child) or ""
                is_class = isinstance(child, ast.ClassDef)
                if len(docstring) >= 40:
                    count = 0 if isinstance(child, ast.ClassDef) else len(child.args.args)
                    yield Documented(module, prefix + child.name, is_class, docstring, count)
                if is_class:
                    yield from walk(child, f"{prefix}{child.name}.")

    yield from walk(ast.parse(module.source), "")


@cache
def passages() -> tuple[tuple[Module, str], ...]:
    """The library cut at blank lines into passages of about 2,000 characters, each with its module."""
    found: list[tuple[Module, str]] = []
    for module in modules():
        passage: list[str] = []
        size = 0
        for paragraph in module.source.split("\n\n"):
            passage.append(paragraph)
            size += len(paragraph) + 2
            if size >= _PASSAGE:
                found.append((module, "\n\n".join(passage)))
                passage, size = [], 0
        if passage:
            found.append((module, "\n\n".join(passage)))
    return tuple(found)
