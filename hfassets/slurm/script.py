"""The batch script of a job. A pure function: the same description, the same bytes.

Invariant: every value is quoted where the shell reads it and refused where it could leave its `#SBATCH` line; the
worker replaces the shell (`exec`), so that it is the batch process, gets its signals and gives the job its exit code.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hfassets.slurm.errors import SlurmError


@dataclass(frozen=True, slots=True)
class BatchScript:
    """What a script is made of. `options` are words for sbatch; `command` begins with a full path.

    `preamble` is shell, as it stands in the launcher's config; a line of it that fails ends the job. `ignored` are
    signals that do nothing until the command handles them.
    """

    options: tuple[str, ...]
    command: tuple[str, ...]
    working_directory: Path
    stdout: Path
    stderr: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    preamble: tuple[str, ...] = ()
    activate: Path | None = None
    wrapper: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def render(script: BatchScript) -> str:
    """The text of the script. Raises SlurmError for a value that cannot stand in an `#SBATCH` line."""
    fixed = (
        f"--chdir={script.working_directory}",
        f"--output={_no_patterns(script.stdout)}",
        f"--error={_no_patterns(script.stderr)}",
        "--open-mode=append",
        "--export=NONE",
    )
    lines = ["#!/bin/bash", *(f"#SBATCH {_directive(option)}" for option in (*script.options, *fixed)), ""]
    # With --export=NONE SLURM sets this, and `srun` would then start its steps with an empty environment too.
    lines += ["unset SLURM_EXPORT_ENV"]
    lines += [f"trap '' {name}" for name in script.ignored]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in sorted(script.environment.items())]
    lines += _guarded(script.preamble)
    if script.activate is not None:
        lines += _guarded([f"source {shlex.quote(str(script.activate))}"])
    return "\n".join([*lines, f"exec {shlex.join((*script.wrapper, *script.command))}", ""])


def _guarded(preamble: Sequence[str]) -> list[str]:
    """Lines after each of which the job ends if it failed; `set -e` would break what module systems source."""
    if not preamble:
        return []
    check = '|| { code=$?; echo "job: the preamble failed: $failed" >&2; exit "$code"; }'
    lines: list[str] = []
    for line in preamble:
        lines += [f"failed={shlex.quote(line)}", f"{{ {line}", f"}} {check}"] if line.strip() else []
    return lines


def _no_patterns(path: Path) -> str:
    r"""A file name in which SLURM replaces nothing: `%` begins a pattern, and `%%` is the character."""
    return str(path).replace("%", "%%")


def _directive(option: str) -> str:
    """An option as sbatch reads it from a line: words are split at spaces, quotes as in a shell."""
    name, equals, value = option.partition("=")
    if not option.isprintable() or not name.startswith("--"):
        raise SlurmError(f"{option!r} cannot stand in a batch script as an option")
    if not equals or all(letter.isalnum() or letter in "_.,:@%+=[]*/-" for letter in value):
        return option
    if '"' in value or "\\" in value:
        raise SlurmError(f"{name}: {value!r} has a quote or backslash, which sbatch cannot read from a script")
    return f'{name}="{value}"'
