"""`python -m hfassets.service.child SIGNAL COMMAND…`: become COMMAND, and get SIGNAL when the parent process dies.

Invariant: no server outlives its supervisor, even one that is killed: the kernel sees to it (PR_SET_PDEATHSIG of
prctl(2), which exec keeps).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Never returns."""
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.Signals[arguments[0]]), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    if parent == 1 or os.getppid() != parent:
        sys.exit(1)
    os.execvp(arguments[1], arguments[1:])  # noqa: S606 - becoming the command is what this is for


if __name__ == "__main__":
    main(sys.argv[1:])
