"""`lrsegformer run`: both tasks behind one command, with a strategy unless the baseline is asked for."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from lrsegformer.choices import NO_STRATEGY, TASKS
from lrsegformer.cli import finetune, matrix
from lrsegformer.cli.failures import run_or_explain
from lrsegformer.cli.parser import OneLineParser, find_option
from lrsegformer.errors import InputError
from lrsegformer.layers.registry import DEFAULT_STRATEGY

MATRIX_OPTION = "--matrix"
DESCRIPTION = (
    "Fine-tune SegFormer: both tasks behind one command. With --matrix FILE it runs the experiments of a file instead "
    "and has other options: --matrix FILE --help lists them."
)


@dataclass
class RunArguments:
    """What `run` asks beyond the options of the fine-tuning command lines; on the command line alone."""

    _argument_group_name = "run"

    task: str = field(metadata={"help": "What to train for.", "choices": TASKS})
    variant: str = field(
        default="lipschitz",
        metadata={
            "help": f"Without or with the constraint, of the strategy {DEFAULT_STRATEGY} where none is given.",
            "choices": ("baseline", "lipschitz"),
        },
    )


def split_options(argv: Sequence[str]) -> tuple[str, list[str]]:
    """
    Take the options of `run` out of a command line.

    Returns:
        The task, and the options of its fine-tuning command line.

    Raises:
        [`~lrsegformer.errors.InputError`]: for a wrong value, or a strategy that contradicts the variant.
    """
    own, others = OneLineParser(RunArguments, add_help=False).parse_known_args(argv)
    strategy = find_option("--strategy", others)
    if own.variant == "baseline":
        if strategy not in (None, NO_STRATEGY):
            raise InputError(
                f"--variant baseline has no constraint, but --strategy {strategy} was given: leave one out."
            )
        others = [*others, "--strategy", NO_STRATEGY]
    elif strategy == NO_STRATEGY:
        raise InputError(f"--strategy {NO_STRATEGY} has no constraint: give --variant baseline, or a strategy.")
    return own.task, others


def build_parser() -> OneLineParser:
    """The parser of `--help`."""
    parser = finetune.build_parser("segmentation", DESCRIPTION, own_options=(RunArguments,))
    parser.set_defaults(strategy=DEFAULT_STRATEGY)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command line; exits after one line where the input is wrong or Ctrl-C stops it."""
    argv = sys.argv[1:] if argv is None else argv
    if any(word == MATRIX_OPTION or word.startswith(f"{MATRIX_OPTION}=") for word in argv):
        matrix.main(argv)
    else:
        run_or_explain(lambda: _run(argv), finetune.REMEDIES)


def _run(argv: list[str]) -> None:
    if any(option in ("-h", "--help") for option in argv):
        build_parser().parse_args(["--help"])
    task, options = split_options(argv)
    finetune.finetune_command(task, options, strategy=DEFAULT_STRATEGY)
