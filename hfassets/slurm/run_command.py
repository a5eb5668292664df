"""A command with the secrets of its site: `python -m hfassets.slurm.run_command SECRETS_FILE COMMAND …`.

The command replaces this process, so that it is the job's process: its signals and its exit code are its own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hfassets.slurm.errors import SlurmError
from hfassets.slurm.secrets import read_secrets

EXIT_FAILED = 1


def main(arguments: list[str]) -> int:
    """Become the command; returns only when that is impossible."""
    file, *command = arguments
    try:
        os.execve(command[0], command, {**os.environ, **read_secrets(Path(file))})  # noqa: S606 - words, no shell
    except SlurmError as error:
        print(f"hfassets.slurm: error: {error}", file=sys.stderr)  # noqa: T201
    except OSError as error:
        print(f"hfassets.slurm: error: {command[0]} cannot be run: {error.strerror}", file=sys.stderr)  # noqa: T201
    return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
