"""Commands in processes of their own that are stopped at a chosen moment, and what each of them was doing then."""

import mmap
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import pytest

TIMEOUT_SECONDS = 300
# A function by what holds it, as `monkeypatch.setattr` takes it.
Function = tuple[Any, str]


class Moment(NamedTuple):
    """When to act: at the so-manieth call of a function, or some seconds after that call began."""

    function: Function
    call: int
    act: Callable[[], None]
    delay: float = 0.0


class Ended(NamedTuple):
    """
    How a command ended.

    Attributes:
        status (`int`): of its process, negative for a signal.
        doing (`str`, *optional*): the innermost of the stages that it was in, where it was killed in one.
    """

    status: int
    doing: str | None


def send(number: int) -> Callable[[], None]:
    """Sends this process a signal."""
    return lambda: os.kill(os.getpid(), number)


def run_command(
    command: Callable[[], None],
    words: list[str],
    log: Path,
    stop: Moment | None = None,
    stages: Mapping[str, Function] | None = None,
) -> Ended:
    """
    Run a command line's function in a process of its own, which a fork spares the imports.

    Args:
        words (`list[str]`): what it finds in `sys.argv`.
        log (`Path`): that its output is added to.
        stop ([`Moment`], *optional*): what is done to it, and when.
        stages (`dict`, *optional*): functions by the names of what the process is doing while it is in them.
    """
    stages = stages or {}
    with mmap.mmap(-1, 1) as stage:  # Shared with the child, and there after its death.
        child = os.fork()
        if child == 0:
            _run_and_exit(command, words, log, stop, stages, stage)
        ended = _wait(child, log)
        number = stage[0]
    return Ended(os.waitstatus_to_exitcode(ended), None if number == 0 else list(stages)[number - 1])


def _run_and_exit(command, words, log, stop, stages, stage) -> None:
    status = 70
    try:
        with open(log, "ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        if stop is not None:
            act_at(stop)
        for number, function in enumerate(stages.values(), start=1):
            _note_in(function, stage, number)
        sys.argv = words
        command()
        status = 0
    except SystemExit as error:
        status = error.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def act_at(moment: Moment) -> None:
    """Act at a moment of this process; those that it forks in turn do not count."""
    own, calls, function = os.getpid(), [0], getattr(*moment.function)

    @wraps(function)
    def counted(*args, **kwargs):
        calls[0] += os.getpid() == own
        if calls[0] == moment.call:
            calls[0] += 1
            threading.Timer(moment.delay, moment.act).start() if moment.delay > 0 else moment.act()
        return function(*args, **kwargs)

    setattr(*moment.function, counted)


def _note_in(place: Function, stage: mmap.mmap, number: int) -> None:
    own, function = os.getpid(), getattr(*place)

    @wraps(function)
    def noted(*args, **kwargs):
        if os.getpid() != own:
            return function(*args, **kwargs)
        before, stage[0] = stage[0], number
        try:
            return function(*args, **kwargs)
        finally:
            stage[0] = before

    setattr(*place, noted)


def _wait(child: int, log: Path) -> int:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail(f"the command hangs: {log.read_text()[-2000:]}")
        time.sleep(0.02)
    return ended[1]
