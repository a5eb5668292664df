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


EARLY = """
import os, signal, time
from hfassets.hub.prepare import children_die_with_us
signal.signal(signal.SIGTERM, lambda number, frame: None)
os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))
with children_die_with_us(2):
    child = os.fork()
    if child == 0:
        time.sleep(20)
        os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""


def test_a_worker_that_is_ended_before_it_has_begun_ends() -> None:
    """A pool whose other workers have done everything tells the last one while it is forked."""
    done = subprocess.run([sys.executable, "-c", EARLY], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "-15 set()\n"
