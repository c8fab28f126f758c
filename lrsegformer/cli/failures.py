"""What a command line says and how it exits where a run cannot go on: one clear line, never a traceback."""

import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from lrsegformer.errors import InputError, Stopped
from lrsegformer.visible import log_plainly, tell
from lrsegformer.writing import disk_failure

INPUT_ERROR_STATUS = 2
SIGNALLED_STATUS = 128  # and the number of the signal, as of a program that it ends
# How long a process waits before it prints an error that another one may have to explain: longer than processes are
# apart in finding the same mistake, and than a launcher takes to end the others once one has failed.
PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class Remedies:
    """
    What a command line advises where a run cannot go on, in words that end a line.

    Attributes:
        out_of_memory (`str`): the options that take less memory.
        stopped (`str`): what is kept of a run that Ctrl-C or SIGTERM stopped, and how it continues.
    """

    out_of_memory: str
    stopped: str


def run_or_explain(run: Callable[[], None], remedies: Remedies) -> None:
    """
    Call `run`; where the user has to act, print one line and exit.

    Of several processes under a launcher the first one (`RANK` 0) speaks. An error that another one has alone is
    printed too, by that one, after a wait in which the launcher ends it if the first one has failed.

    Args:
        run (`Callable`): without arguments.
        remedies ([`Remedies`]): those of the command line.

    Raises:
        `SystemExit`: with status 2 after a user's mistake or a lack of memory, with 130 after Ctrl-C and 143
        after SIGTERM.
    """
    try:
        with _stopped_by_sigterm():
            _run_or_fail(run, remedies)
    except (KeyboardInterrupt, Stopped) as stopped:
        kept = getattr(stopped, "kept", None) or remedies.stopped
        # Reaches all processes, so the others have nothing to add.
        if _is_first():
            _say(f"stopped: {kept}")
        sys.exit(SIGNALLED_STATUS + getattr(stopped, "signal_number", signal.SIGINT))


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Raises `Stopped` at SIGTERM, as Python raises `KeyboardInterrupt` at Ctrl-C: in the main thread, of no child."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == own:
            raise Stopped(number)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def tell_progress() -> bool:
    """
    Print what this package tells of its work, plainly, by the first process alone; others say what goes wrong.

    Returns:
        `bool`: whether this is the first process.
    """
    log_plainly()
    logging.getLogger("lrsegformer").setLevel(logging.INFO)
    return leave_telling_to_the_first()


def leave_telling_to_the_first() -> bool:
    """
    Silence what every process would tell alike in all but the first one: progress and warnings, those of libraries
    too. Errors are for all to say.

    Returns:
        `bool`: whether this is the first process.
    """
    if _is_first():
        return True
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    logging.getLogger("lrsegformer").setLevel(logging.ERROR)
    set_verbosity_error()
    disable_progress_bar()
    warnings.simplefilter("ignore")
    return False


def _run_or_fail(run: Callable[[], None], remedies: Remedies) -> None:
    try:
        run()
    except InputError as error:
        _fail(_own_line(str(error)))
    except Exception as error:
        if _is_out_of_memory(error):
            _fail(f"out of memory: {remedies.out_of_memory}")
        if reason := disk_failure(error):
            _fail(f"{reason}: make room, or give another folder to write to; what is finished is kept.")
        if isinstance(error, RuntimeError) and os.environ.get("WORLD_SIZE", "1") != "1":
            # The end of another process is a RuntimeError here: its own line is not to drown in this traceback.
            time.sleep(PATIENCE_SECONDS)
        raise


def _fail(explanation: str) -> NoReturn:
    """Print the line and exit with status 2; another process than the first waits before it does."""
    if not _is_first():
        # Where the first process has the same error, it says so at once, and the launcher ends this one meanwhile.
        time.sleep(PATIENCE_SECONDS)
    _say(f"error: {explanation}")
    sys.exit(INPUT_ERROR_STATUS)


def _say(line: str) -> None:
    """Print to standard error, on a line of its own: bars of progress that stand open there are ended first."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        for bar in list(tqdm._instances):
            bar.close()
    tell(" ".join(line.splitlines()), sys.stderr)


def _is_first() -> bool:
    """Whether this is the first of the processes that `torchrun` or `accelerate launch` started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def _own_line(message: str) -> str:
    """The message itself, where a worker process of the data loader has wrapped it in its traceback."""
    return message.rsplit("InputError: ", maxsplit=1)[-1].strip()


def _is_out_of_memory(error: BaseException) -> bool:
    # On a GPU torch raises OutOfMemoryError, a RuntimeError; on a CPU a plain RuntimeError of the allocator.
    words = ("out of memory", "not enough memory", "can't allocate memory")
    if isinstance(error, RuntimeError):
        return any(word in str(error).lower() for word in words)
    return isinstance(error, MemoryError)
