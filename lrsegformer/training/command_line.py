"""The entry of the command lines: arguments in, one clear line out where they are wrong."""

import os
import re
import shlex
import sys
from collections.abc import Callable

from lrsegformer.errors import InputError

DESCRIPTIONS = {
    "segmentation": "Fine-tune SegFormer for semantic segmentation with a Lipschitz-constrained decode head.",
    "classification": "Fine-tune SegFormer for image classification with a Lipschitz-constrained classifier.",
}
INPUT_ERROR_STATUS = 2


def main(task: str, argv: list[str] | None = None) -> None:
    """Run the fine-tuning command line of `task`; exits with status 2 after one line where the input is wrong."""
    argv = sys.argv[1:] if argv is None else argv
    run_or_explain(lambda: finetune_command(task, argv))


def finetune_command(task: str, argv: list[str]) -> None:
    """Parse `argv` and run; the command line of the run, for its model card, is that of this process."""
    from lrsegformer.training.parser import parse_arguments

    arguments = parse_arguments(task, argv, DESCRIPTIONS[task])
    from lrsegformer.training.finetune import finetune

    finetune(task, *arguments, command=command_without_folders([os.path.relpath(sys.argv[0]), *sys.argv[1:]]))


def command_without_folders(argv: list[str]) -> str:
    """The command line for a model card: of an absolute path the last part, which says what it is, and no token."""
    command = shlex.join(os.path.basename(word.rstrip("/")) if os.path.isabs(word) else word for word in argv)
    return re.sub(r"(--hub[_-]token[= ])\S+", r"\1...", command)


def run_or_explain(run: Callable[[], None]) -> None:
    """Call `run`; for a user's mistake or a lack of memory print one line and exit with status 2."""
    try:
        run()
    except InputError as error:
        explanation = _own_line(str(error))
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        explanation = (
            "out of memory: give a smaller --per_device_train_batch_size (the total batch size stays the same, by "
            "accumulation), a smaller --image_size, or --activation_checkpointing."
        )
    else:
        return
    if _speaks():
        print(f"error: {explanation}", file=sys.stderr)
    sys.exit(INPUT_ERROR_STATUS)


def _speaks() -> bool:
    """Whether this process prints its error: the first one, and every one once data differ between them."""
    distributed = sys.modules.get("torch.distributed")
    training_together = distributed is not None and distributed.is_available() and distributed.is_initialized()
    return training_together or os.environ.get("LOCAL_RANK", "0") == "0"


def _own_line(message: str) -> str:
    """The message itself, where a worker process of the data loader has wrapped it in its traceback."""
    return message.rsplit("InputError: ", maxsplit=1)[-1].strip()


def _is_out_of_memory(error: BaseException) -> bool:
    # On a GPU torch raises OutOfMemoryError, a RuntimeError; on a CPU a plain RuntimeError of the allocator.
    words = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)
