"""The entry of the command lines: arguments in, one clear line out where they are wrong."""

import os
import re
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from lrsegformer.errors import InputError

DESCRIPTIONS = {
    "segmentation": "Fine-tune SegFormer for semantic segmentation with a Lipschitz-constrained decode head.",
    "classification": "Fine-tune SegFormer for image classification with a Lipschitz-constrained classifier.",
}
INPUT_ERROR_STATUS = 2
# For argparse's parsers, which have no public way to say it: their own pattern takes -1e-3 and -5. for options.
NEGATIVE_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE)
STOPPED_STATUS = 130  # 128 + SIGINT, as of a program that Ctrl-C ends
# How long a process waits before it prints an error that another one may have to explain: longer than processes are
# apart in finding the same mistake, and than a launcher takes to end the others once one has failed.
PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class Remedies:
    """
    What a command line advises where a run cannot go on, in words that end a line.

    Attributes:
        out_of_memory (`str`): the options that take less memory.
        stopped (`str`): what is kept of a run that Ctrl-C stopped, and how it continues.
    """

    out_of_memory: str
    stopped: str


TRAINING_REMEDIES = Remedies(
    out_of_memory=(
        "give a smaller --per_device_train_batch_size (the total batch size stays the same, by accumulation), a "
        "smaller --image_size, or --activation_checkpointing."
    ),
    stopped="the same command with --resume_from_checkpoint continues from the last checkpoint of its --output_dir.",
)


def main(task: str, argv: list[str] | None = None) -> None:
    """Run the fine-tuning command line of `task`; exits after one line where the input is wrong or Ctrl-C stops it."""
    argv = sys.argv[1:] if argv is None else argv
    run_or_explain(lambda: finetune_command(task, argv))


def finetune_command(task: str, argv: list[str]) -> None:
    """Parse `argv` and run; the command line of the run, for its model card, is that of this process."""
    from lrsegformer.cli.parser import parse_arguments

    arguments = parse_arguments(task, argv, DESCRIPTIONS[task])
    from lrsegformer.training.finetune import finetune

    finetune(task, *arguments, command=command_without_folders([os.path.relpath(sys.argv[0]), *sys.argv[1:]]))


def command_without_folders(argv: list[str]) -> str:
    """The command line for a model card: of an absolute path the last part, which says what it is, and no token."""
    command = shlex.join(os.path.basename(word.rstrip("/")) if os.path.isabs(word) else word for word in argv)
    return re.sub(r"(--hub[_-]token[= ])\S+", r"\1...", command)


def run_or_explain(run: Callable[[], None], remedies: Remedies = TRAINING_REMEDIES) -> None:
    """
    Call `run`; where the user has to act, print one line and exit.

    Of several processes under a launcher the first one (`RANK` 0) speaks. An error that another one has alone is
    printed too, by that one, after a wait in which the launcher ends it if the first one has failed.

    Args:
        run (`Callable`): without arguments.
        remedies ([`Remedies`], *optional*): those of the command line; of fine-tuning by default.

    Raises:
        `SystemExit`: with status 2 after a user's mistake or a lack of memory, with 130 after Ctrl-C.
    """
    try:
        _run_or_fail(run, remedies)
    except KeyboardInterrupt:
        # Reaches all processes, so the others have nothing to add.
        if _is_first():
            print(f"stopped: {remedies.stopped}", file=sys.stderr)
        sys.exit(STOPPED_STATUS)


def _run_or_fail(run: Callable[[], None], remedies: Remedies) -> None:
    try:
        run()
    except InputError as error:
        _fail(_own_line(str(error)))
    except (MemoryError, RuntimeError) as error:
        if _is_out_of_memory(error):
            _fail(f"out of memory: {remedies.out_of_memory}")
        if os.environ.get("WORLD_SIZE", "1") != "1":
            # The end of another process is a RuntimeError here: its own line is not to drown in this traceback.
            time.sleep(PATIENCE_SECONDS)
        raise


def _fail(explanation: str) -> NoReturn:
    """Print the line and exit with status 2; another process than the first waits before it does."""
    if not _is_first():
        # Where the first process has the same error, it says so at once, and the launcher ends this one meanwhile.
        time.sleep(PATIENCE_SECONDS)
    print(f"error: {explanation}", file=sys.stderr)
    sys.exit(INPUT_ERROR_STATUS)


def _is_first() -> bool:
    """Whether this is the first of the processes that `torchrun` or `accelerate launch` started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def _own_line(message: str) -> str:
    """The message itself, where a worker process of the data loader has wrapped it in its traceback."""
    return message.rsplit("InputError: ", maxsplit=1)[-1].strip()


def _is_out_of_memory(error: BaseException) -> bool:
    # On a GPU torch raises OutOfMemoryError, a RuntimeError; on a CPU a plain RuntimeError of the allocator.
    words = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)
