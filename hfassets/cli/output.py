"""What commands print: results on stdout, as tables for people or as JSON for programs.

Invariant: with `--json` and no path, stdout carries that one JSON document and nothing else. On a pipe or in a file
tables are plain aligned text, never cut or wrapped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import orjson

from hfassets.storage.atomic import write_atomic

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Command = TypeVar("Command", bound=Callable[..., Any])

STDOUT = "-"
# Wide enough that no row is ever folded when nobody's terminal sets the width.
PLAIN_WIDTH = 10_000


def json_option(command: Command) -> Command:
    """`--json [PATH]`: passes `json_path`, None without the flag, "-" for stdout, else the file to write."""
    option = click.option(
        "--json",
        "json_path",
        is_flag=False,
        flag_value=STDOUT,
        default=None,
        metavar="[PATH]",
        help="Print the result as JSON, or write it to PATH.",
    )
    return option(command)


def console() -> Console:
    """The console of results: the terminal's width and colours, or plain unwrapped text."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, width=PLAIN_WIDTH, no_color=True)


def show(json_path: str | None, document: Any, *renderables: RenderableType) -> None:
    """Print the result for people unless stdout is wanted for JSON; write or print the JSON if it is wanted.

    `document` may hold dataclasses, paths, sets and mappings at any depth.
    """
    if json_path != STDOUT and all(isinstance(one, str) for one in renderables):
        # Nothing to lay out: what does that takes as long to import as a small command takes to run.
        sys.stdout.writelines(f"{line.rstrip()}\n" for one in renderables for line in str(one).split("\n"))
    elif json_path != STDOUT:
        out = console()
        with out.capture() as captured:
            for renderable in renderables:
                out.print(renderable, soft_wrap=isinstance(renderable, str), markup=False)
        # Cells are padded to their column's width, the last one too.
        sys.stdout.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())
    if json_path is not None:
        data = orjson.dumps(plain(document), option=orjson.OPT_INDENT_2) + b"\n"
        if json_path == STDOUT:
            sys.stdout.write(data.decode())
        else:
            write_atomic(Path(json_path), data)


def plain(value: Any) -> Any:
    """A value as JSON can hold it: dataclasses and mappings become objects, sequences and sets lists, paths strings."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value) if field.repr}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, Path):
        return str(value)
    return value
