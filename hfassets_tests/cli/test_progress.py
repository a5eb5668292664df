"""Progress goes to stderr: bars on a terminal, few plain lines elsewhere."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import termios
import threading

import pytest

from hfassets.cli.progress import ProgressDisplay
from hfassets.progress import Note, Progress

pytestmark = pytest.mark.unit


def test_plain_lines_come_at_intervals_and_at_the_end() -> None:
    """A thousand events make a line each ten seconds; a repeated end and an empty task make none."""
    stream, now = io.StringIO(), [0.0]
    with ProgressDisplay(stream, clock=lambda: now[0]) as display:
        for step in range(1001):
            now[0] = step / 40
            display(Progress("download duorc", step * 1000, 1_000_000, "B"))
        display(Progress("download duorc", 1_000_000, 1_000_000, "B"))
        display(Progress("nothing to do", 0, 0, "B"))
        display(Note("the Hub asks to wait 3 s", "warning"))
        display(Progress("rows", 7, None, "rows"))
    assert stream.getvalue().splitlines() == [
        "download duorc: 400.0 kB of 1.0 MB (40 %), 10.0 s, 40.0 kB/s",
        "download duorc: 800.0 kB of 1.0 MB (80 %), 20.0 s, 40.0 kB/s",
        "download duorc: 1.0 MB of 1.0 MB (100 %), 25.0 s, 40.0 kB/s",
        "warning: the Hub asks to wait 3 s",
        "rows: 7 rows",
    ]


def test_bars_on_a_terminal() -> None:
    """Bars are redrawn in place and gone at the end; a note stands on a line of its own."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with os.fdopen(theirs, "w") as terminal:
        with ProgressDisplay(terminal) as display:
            display(Progress("download", 1_000_000, 4_000_000, "B"))
            display(Note("a notice"))
            display(Progress("verify", 10, None, "files"))
            display(Progress("download", 4_000_000, 4_000_000, "B"))
        # What is written to a terminal arrives piece by piece.
        terminal.write("(end)")
        terminal.flush()
        text = ""
        while not text.endswith("(end)"):
            text += os.read(ours, 1 << 16).decode()
    os.close(ours)
    text = text.removesuffix("(end)")
    assert "download:  25%" in text
    assert "1.00M/4.00M" in text
    assert "a notice\r\n" in text
    assert text.split("\n")[-1].strip(" \r\x1b[A") == ""


def test_events_from_many_threads() -> None:
    """Lines are never mixed up."""
    stream = io.StringIO()
    with ProgressDisplay(stream, line_every=0) as display:
        threads = [
            threading.Thread(
                target=lambda name=f"task {number}": [display(Progress(name, i, 200, "files")) for i in range(1, 201)]
            )
            for number in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 8 * 200
    assert all(line.startswith("task ") and " of 200 files (" in line for line in lines)
