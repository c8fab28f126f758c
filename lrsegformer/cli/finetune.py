"""`lrsegformer finetune-seg` and `finetune-cls`: the options of a fine-tuning run, and the run."""

import os
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from lrsegformer.choices import NO_STRATEGY
from lrsegformer.cli.failures import Remedies, leave_telling_to_the_first, run_or_explain
from lrsegformer.cli.parser import OneLineParser, Parsed, program
from lrsegformer.data.arguments import DataArguments
from lrsegformer.errors import InputError, Stopped
from lrsegformer.recipes import TASK_DEFAULTS, fill_in
from lrsegformer.training.arguments import ModelArguments, TrainingDefaults
from lrsegformer.visible import without_tokens

DESCRIPTIONS = {
    "segmentation": "Fine-tune SegFormer for semantic segmentation with a Lipschitz-constrained decode head.",
    "classification": "Fine-tune SegFormer for image classification with a Lipschitz-constrained classifier.",
}
EPILOG = (
    "Every other field of transformers.TrainingArguments is an option too (--help_all lists them). "
    "--config FILE.yaml gives options by name; the command line wins."
)
REMEDIES = Remedies(
    out_of_memory=(
        "give a smaller --per_device_train_batch_size (the total batch size stays the same, by accumulation), a "
        "smaller --image_size, or --activation_checkpointing."
    ),
    stopped="the same command with --resume_from_checkpoint continues from the last checkpoint of its --output_dir.",
)


def main(task: str, argv: list[str] | None = None) -> None:
    """Run the fine-tuning command line of `task`; exits after one line where the input is wrong or Ctrl-C stops it."""
    argv = sys.argv[1:] if argv is None else argv
    run_or_explain(lambda: finetune_command(task, argv), REMEDIES)


def finetune_command(task: str, argv: Sequence[str], **defaults: Any) -> None:
    """Parse `argv` and run; the command line of the run, for its model card, is that of this process."""
    leave_telling_to_the_first()
    arguments = parse_arguments(task, argv, **defaults)
    from lrsegformer.training.run.finetune import finetune

    words = program()
    line = [*words, *sys.argv[len(words) :]]
    try:
        finetune(task, *arguments, command=command_without_folders(line))
    except Stopped as stopped:
        kept = "" if stopped.kept is None else f"{stopped.kept}; "
        raise Stopped(stopped.signal_number, f"{kept}continue with: {command_to_continue(line)}") from None


def command_to_continue(line: Sequence[str]) -> str:
    """By which a run goes on from its newest checkpoint; under a launcher, whose words are not known, in words."""
    words, rest = [], list(line)
    while rest:
        word = rest.pop(0)
        if word.split("=")[0].replace("-", "_") != "__resume_from_checkpoint":
            words.append(word)
        elif "=" not in word and rest and not rest[0].startswith("-"):
            rest.pop(0)
    if "LOCAL_RANK" in os.environ:
        return "the same command and --resume_from_checkpoint"
    return _without_token(shlex.join([*words, "--resume_from_checkpoint"]))


def command_without_folders(argv: list[str]) -> str:
    """The command line for a model card: of an absolute path the last part, which says what it is, and no token."""
    command = shlex.join(os.path.basename(word.rstrip("/")) if os.path.isabs(word) else word for word in argv)
    return _without_token(command)


def _without_token(command: str) -> str:
    return without_tokens(re.sub(r"(--hub[_-]token[= ])\S+", r"\1...", command))


def build_parser(
    task: str,
    description: str | None = None,
    training_class: type = TrainingDefaults,
    own_options: tuple[type, ...] = (),
) -> OneLineParser:
    """
    The parser of a task.

    Args:
        task (`str`): `"segmentation"` or `"classification"`; sets the recipe's defaults.
        description (`str`, *optional*): first paragraph of `--help`; that of the task by default.
        training_class (`type`, *optional*, defaults to `TrainingDefaults`):
            `TrainingDefaults` for `--help`, which then needs no torch, or `LRSegformerTrainingArguments` to parse.
        own_options (`tuple[type]`, *optional*): dataclasses of what a command has beyond the others, for its `--help`.
    """
    kinds = (*own_options, ModelArguments, DataArguments, training_class)
    parser = OneLineParser(kinds, description=description or DESCRIPTIONS[task], epilog=EPILOG)
    parser.add_argument("--config", metavar="FILE", default=None, help="YAML or JSON file of options.")
    parser.add_argument(
        "--help_all", action="store_true", help="List the options of transformers.TrainingArguments too."
    )
    parser.set_defaults(**TASK_DEFAULTS[task])
    return parser


def parse_arguments(task: str, argv: Sequence[str], **defaults: Any) -> tuple[ModelArguments, DataArguments, Any]:
    """
    Parse a command line.

    Args:
        defaults: what a command gives options that are not given, where it is not what the fields or the task say; a
            recipe wins over it.

    Returns:
        The model, data and training arguments; the last an `LRSegformerTrainingArguments`.

    Raises:
        [`~lrsegformer.errors.InputError`]: for anything wrong with the options. `SystemExit`: after `--help`.
    """
    if any(option in ("-h", "--help") for option in argv):
        build_parser(task).parse_args(["--help"])
    from lrsegformer.training.training_arguments import LRSegformerTrainingArguments
    from lrsegformer.zero import check_zero

    parser = build_parser(task, training_class=LRSegformerTrainingArguments)
    parser.set_defaults(**defaults)
    if "--help_all" in argv:
        parser.parse_args(["--help"])
    parsed = parser.parse_with_config(argv)
    fill_in(task, parsed.values, parsed.in_file | parsed.on_line)
    _settle_exclusive_options(parsed)
    strategy = parsed.values["strategy"]
    check_zero(parsed.values["deepspeed"], None if strategy == NO_STRATEGY else strategy)
    try:
        return parser.build(parsed.values)
    except InputError:
        raise
    except ValueError as error:  # transformers' own checks of the values.
        raise InputError(f"{' '.join(str(error).split())}; see --help_all.") from None


def _settle_exclusive_options(parsed: Parsed) -> None:
    """
    Unset what contradicts a stronger source: the command line is stronger than the file, and both than the recipe.

    A run's length is given in steps or in epochs. Of the three batch sizes two determine the third.
    """
    values, in_file, on_line = parsed.values, parsed.in_file, parsed.on_line
    given = in_file | on_line
    if "max_steps" in given and "num_train_epochs" not in given:
        values["num_train_epochs"] = None
    if "num_train_epochs" in on_line and "max_steps" not in on_line:
        values["max_steps"] = None
    sizes = ("gradient_accumulation_steps", "per_device_train_batch_size", "total_batch_size")
    if on_line.intersection(sizes) and in_file.intersection(sizes):
        weakest = next((name for name in sizes if name not in on_line), None)
        if weakest is not None:
            values[weakest] = None
    if None not in (values[sizes[0]], values[sizes[1]]) and "total_batch_size" not in given:
        values["total_batch_size"] = None
