"""A process that answers calls: `python -m hfassets.parts.answer FD`, started by `CallProcesses`."""

from __future__ import annotations

import signal
import sys
from multiprocessing.connection import Connection

from hfassets.storage.ahead import keep_buffers


def answer(connection: Connection) -> None:
    """Answer calls until nobody is there to make them."""
    # An interrupt from the keyboard reaches the whole process group: whoever calls decides what becomes of the work.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_buffers()
    try:
        sys.path[:] = connection.recv()
        while True:
            function, arguments = connection.recv()
            try:
                answered = True, function(*arguments)
            except Exception as error:
                answered = False, error
            connection.send(answered)
    except (EOFError, OSError):
        return


if __name__ == "__main__":
    answer(Connection(int(sys.argv[1])))
