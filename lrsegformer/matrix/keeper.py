"""
Runs a command, and ends it when the process that asked for it is gone, however that one ended.

Run as a file, so that it starts at once: it imports nothing of the package. Its standard input is a pipe whose other
end only the asking process holds; the system closes it with that process. What the command starts is found by a mark
in its environment, which children inherit whatever sessions they begin (the workers of a launcher for several devices
begin their own, and outlive it).
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import psutil

MARK = "LRSEGFORMER_MATRIX_CELL"
_SECONDS = 20.0
_ROUND_SECONDS = 0.05


def marked(mark: str) -> list[psutil.Process]:
    """The living processes, this one apart, whose environment carries the mark."""
    found = []
    for process in psutil.process_iter():
        # Those of other users cannot be looked into, and some end meanwhile.
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def end_marked(mark: str) -> None:
    """
    End every other process that carries the mark, those that are born meanwhile among them; gives up after 20 seconds
    on one that the system does not end.
    """
    deadline = time.monotonic() + _SECONDS
    while (found := marked(mark)) and time.monotonic() < deadline:
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        # Not psutil's wait, which takes the status of this process's own children from those who wait for them.
        time.sleep(_ROUND_SECONDS)


def _end_with_parent(mark: str) -> None:
    os.read(0, 1)  # Returns when the pipe's other end is closed; nothing is ever written to it.
    end_marked(mark)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Run the words of the command line and exit with their status, or with 128 + the number of a signal."""
    # Ctrl-C is handed to all processes of the cell, and this one waits for the others. A handler, since what is
    # ignored here would be ignored by the command, too.
    signal.signal(signal.SIGINT, lambda *_: None)
    watch = threading.Thread(target=_end_with_parent, args=(os.environ[MARK],), daemon=True)
    watch.start()
    status = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL).wait()
    sys.exit(128 - status if status < 0 else status)


if __name__ == "__main__":
    main()
