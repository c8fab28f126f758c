"""The short option names of `scripts/run.py`, translated to the options of the fine-tuning command lines."""

import argparse
import sys
from typing import Any

from lrsegformer.cli import command_line
from lrsegformer.errors import InputError
from lrsegformer.layers.registry import STRATEGIES

# short name: option of the fine-tuning command lines
SHORT_NAMES = {"--epochs": "--num_train_epochs", "--batch_size": "--total_batch_size", "--lr": "--learning_rate"}
DEFAULT_STRATEGY = "stable_softplus"


class OneLineArgumentParser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` that raises its errors as [`InputError`]; negative numbers are values."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self._negative_number_matcher = command_line.NEGATIVE_NUMBER

    def error(self, message: str) -> None:
        raise InputError(f"{message}; see --help.")


def build_parser() -> OneLineArgumentParser:
    """The parser of the options that `run.py` has under its own names; it leaves the others alone."""
    parser = OneLineArgumentParser(
        description="Fine-tune SegFormer: both tasks behind one command with short names.",
        epilog="Every other option of scripts/finetune_seg.py (finetune_cls.py) works too; see their --help.",
        allow_abbrev=False,
    )
    parser.add_argument("--task", choices=tuple(command_line.DESCRIPTIONS), required=True, help="What to train for.")
    parser.add_argument(
        "--variant", choices=("baseline", "lipschitz"), default="lipschitz", help="Without or with the constraint."
    )
    parser.add_argument(
        "--strategy",
        choices=tuple(STRATEGIES),
        help=f"Lipschitz strategy, default {DEFAULT_STRATEGY}. {STRATEGIES.summaries()}.",
    )
    parser.add_argument("--epochs", help="Passes over the training images (--num_train_epochs).")
    parser.add_argument("--batch_size", help="Samples an optimizer step, over all devices (--total_batch_size).")
    parser.add_argument(
        "--lr", help="Base learning rate (--learning_rate); the head gets --head_learning_rate_multiplier times it."
    )
    parser.add_argument("--lambda_lip", help="Weight of the Lipschitz penalty in the loss.")
    return parser


def translate(argv: list[str]) -> tuple[str, list[str]]:
    """
    Translate the options of `run.py`.

    Returns:
        The task, and the options of its fine-tuning command line.

    Raises:
        [`~lrsegformer.errors.InputError`]: for a wrong value, or a strategy given to the baseline.
    """
    arguments, others = build_parser().parse_known_args(argv)
    if arguments.variant == "baseline":
        if arguments.strategy is not None:
            raise InputError(
                f"--variant baseline has no constraint, but --strategy {arguments.strategy} was given: leave one out."
            )
        strategy = "none"
    else:
        strategy = arguments.strategy or DEFAULT_STRATEGY
    options = ["--strategy", strategy]
    for short, full in {**SHORT_NAMES, "--lambda_lip": "--lambda_lip"}.items():
        value = getattr(arguments, short.removeprefix("--"))
        if value is not None:
            options += [full, value]
    return arguments.task, options + others


def main(argv: list[str] | None = None) -> None:
    """The entry of `scripts/run.py`."""
    argv = sys.argv[1:] if argv is None else argv

    def run() -> None:
        task, options = translate(argv)
        command_line.finetune_command(task, options)

    command_line.run_or_explain(run)
