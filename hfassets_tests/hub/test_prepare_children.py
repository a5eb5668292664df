"""Processes that prepare a config end when their pool says so, and when their parent is gone."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.unit

# The parent turns SIGTERM into an exception, as Dagster and the command line do.
FORKS = """
import os, signal, sys
from hfassets.hub.prepare import children_die_with_us
def interrupt(number, frame):
    raise KeyboardInterrupt
signal.signal(signal.SIGTERM, interrupt)
with children_die_with_us(2):
    child = os.fork()
    if child == 0:
        os._exit(signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), signal.getsignal(signal.SIGTERM) is interrupt)
"""


def test_a_worker_has_no_handler_for_sigterm() -> None:
    """In a worker that waits for a lock a handler in Python would not run, and its pool would wait for ever."""
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "0 True\n"
