"""Keeping secrets out of what others can read: what may go into a job's script, and how a job gets its secrets instead.

Invariant: no value of a secret is part of any error, and a file of secrets that others may read is not used.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from hfassets.slurm.errors import SlurmError

# Names that end so hold a secret, except those that name a file or a service.
_NAMES = re.compile(r"(^|_)(TOKENS?|PASSWORD|PASSWD|PWD|SECRETS?|CREDENTIALS?|(ACCESS|SECRET|API|PRIVATE)_?KEY(_ID)?)$")
_ALLOWED = frozenset({"PWD", "OLDPWD"})
# Tokens of the Hub (a folder may be named hf_datasets), of AWS and GitHub, private keys, and addresses or connection
# strings with a password in them.
_VALUES = re.compile(
    r"(?<![\w/])hf_[A-Za-z0-9]{8,}|hf_[A-Za-z0-9]{30,}|\b(AKIA|ASIA)[A-Z0-9]{12,}|\bgh[pousr]_[A-Za-z0-9]{20,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@|\bpassword=\S"
)


def refuse_secrets(environment: Mapping[str, str], where: str) -> None:
    """Raise SlurmError when a variable looks like a secret, by its name or its value; the value is never shown."""
    for name, value in environment.items():
        by_name = bool(value) and name not in _ALLOWED and _NAMES.search(name.upper())
        if by_name or _VALUES.search(value):
            raise SlurmError(
                f"{where}: {name} looks like a secret, and scripts of jobs can be read by others; put it into the"
                " secrets_file (mode 600), which jobs read themselves"
            )


def read_secrets(path: Path) -> dict[str, str]:
    """The variables of a secrets file: NAME=value lines, values quoted as in a shell if need be, `#` comments.

    Raises SlurmError when it is not this user's, others may read it, or a line is not understood.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SlurmError(f"the secrets file {path} cannot be read: {error.strerror}") from None
    with os.fdopen(descriptor, encoding="utf-8") as file:
        found = os.fstat(file.fileno())
        if found.st_uid != os.getuid() or found.st_mode & 0o077:
            mode = f"{found.st_mode & 0o777:o}"
            raise SlurmError(f"the secrets file {path} must be yours alone (chmod 600 {path}); its mode is {mode}")
        lines = file.read().splitlines()
    return dict(pair for number, line in enumerate(lines, 1) if (pair := _pair(line, f"{path}, line {number}")))


def _pair(line: str, where: str) -> tuple[str, str] | None:
    text = line.strip().removeprefix("export ").lstrip()
    if not text or text.startswith("#"):
        return None
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise SlurmError(f"{where}: must be NAME=value")
    if value[:1] not in ("'", '"'):
        return name, value.strip()
    try:
        words = shlex.split(value)
    except ValueError:
        words = []
    if len(words) != 1:
        raise SlurmError(f"{where}: the value of {name} has a quote that does not end, or text after it")
    return name, words[0]
