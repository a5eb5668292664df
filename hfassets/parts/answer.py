"""A process that answers calls: `python -m hfassets.parts.answer LINE INCOMING OUTGOING…`, descriptors given by
`CallProcesses`."""

from __future__ import annotations

import signal
import sys
from multiprocessing.connection import Connection

from hfassets.parts.arena import Line, answering
from hfassets.storage.ahead import keep_buffers


def answer(line: Line) -> None:
    """Answer calls until nobody is there to make them."""
    # An interrupt from the keyboard reaches the whole process group: whoever calls decides what becomes of the work.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_buffers()
    answering(line)
    try:
        sys.path[:] = line.receive()
        while True:
            function, arguments = line.receive()
            try:
                answered = True, function(*arguments)
            except Exception as error:
                answered = False, error
            line.send(answered)
    except (EOFError, OSError):
        return


if __name__ == "__main__":
    descriptor, incoming, *outgoing = map(int, sys.argv[1:])
    answer(Line(Connection(descriptor), outgoing, [incoming]))
