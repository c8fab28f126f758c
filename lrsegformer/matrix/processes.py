"""Starting a command of a cell, waiting for it, stopping it, and what its log says of its end."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

from lrsegformer.matrix import keeper

# How long a command may take to stop by itself once it is asked to.
STOPPING_SECONDS = 20.0
_POLLING_SECONDS = 0.2
_STOPPED = "stopped; the same command goes on from there"
_ACCELERATE = "CalledProcessError: "
_EXCEPTION = re.compile(r"^[\w.]*(Error|Exception|Interrupt|Exit|Warning)\b(: .*)?$")
_SIGNAL = re.compile(r"died with <Signals\.(SIG\w+)|Signal \d+ \((SIG\w+)\) received")


class End(NamedTuple):
    """
    How a command ended.

    Attributes:
        succeeded (`bool`): by itself, with status 0.
        interrupted (`bool`): by a signal, so that the same command may go on.
        error (`str`, *optional*): one line that says why it did not succeed.
    """

    succeeded: bool
    interrupted: bool = False
    error: str | None = None


class CommandProcess:
    """
    A command of a cell, under accelerate, its output added to a log.

    It ends with this process, however this one ends; see [`~lrsegformer.matrix.keeper`].

    Args:
        words (sequence of `str`): of the command line.
        log (`Path`): file that its output is added to.
        mark (`str`): what the cell's processes carry in their environment. Living ones of an earlier matrix are ended
            first.
    """

    def __init__(self, words: Sequence[str], log: Path, mark: str):
        keeper.end_marked(mark)
        self._mark, self._log = mark, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} $ {shlex.join(words)}\n".encode())
            file.flush()
            self._begins_at = file.tell()
            self._process = subprocess.Popen(
                [sys.executable, keeper.__file__, *words],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, keeper.MARK: mark, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )

    def wait(self, stop: Event, watch: Callable[[], None] | None = None, every: float = _POLLING_SECONDS) -> End:
        """
        Wait for the end; nothing of the command is left then.

        Args:
            stop (`threading.Event`): once it is set, the command is asked to stop, as by Ctrl-C, and ended where it
                has not in 20 seconds.
            watch (`Callable`, *optional*): is called again and again meanwhile.
            every (`float`, *optional*, defaults to 0.2): seconds between two looks.
        """
        interrupted = False
        while self._process.poll() is None:
            if interrupted := stop.wait(every):
                self._interrupt()
                break
            if watch is not None:
                watch()
        status = self._process.wait()
        keeper.end_marked(self._mark)
        self._process.stdin.close()
        if status == 0:
            return End(True)
        if interrupted:  # However it took that: a command that is only starting has no words for it.
            return End(False, True, _STOPPED)
        with open(self._log, "rb") as file:
            file.seek(self._begins_at)
            text = file.read().decode(errors="replace")
        return _explain(text, status, self._log)

    def _interrupt(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGINT)
        deadline = time.monotonic() + STOPPING_SECONDS
        while keeper.marked(self._mark) and time.monotonic() < deadline:
            self._process.poll()  # Without it a keeper that has ended would stay among the living.
            time.sleep(_POLLING_SECONDS)
        keeper.end_marked(self._mark)


def end_with_parent() -> None:
    """Have this process end when the one that started it with `multiprocessing` does, even by SIGKILL."""

    def watch() -> None:
        parent.join()
        os._exit(1)

    parent = multiprocessing.parent_process()
    if parent is not None:
        Thread(target=watch, daemon=True).start()


def launch_words(command: str, words: Sequence[str], accelerate_config: str | None) -> list[str]:
    """The command line of a command under accelerate, by this interpreter."""
    config = [] if accelerate_config is None else ["--config_file", accelerate_config]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *config]
    return [*launcher, "-m", "lrsegformer", command, *words]


def _explain(text: str, status: int, log: Path) -> End:
    """From what a command printed to one line: its own error line, or else its exception."""
    signals = [match.group(1) or match.group(2) for match in _SIGNAL.finditer(text)]
    if status < 0:
        signals.append(signal.Signals(-status).name)
    elif status > 128 and status - 128 in set(signal.Signals):
        signals.append(signal.Signals(status - 128).name)
    lines = [line.strip() for line in text.splitlines()]
    own = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if own:
        return End(False, error=own[-1])
    if signals:
        return End(False, True, f"ended by {signals[-1]}; the same command goes on from there")
    if any(line.startswith("stopped: ") for line in lines):
        return End(False, True, _STOPPED)
    exceptions = [line for line in lines if _EXCEPTION.match(line) and _ACCELERATE not in line]
    return End(False, error=f"{exceptions[-1] if exceptions else f'exit status {status}'}; see {log}")
