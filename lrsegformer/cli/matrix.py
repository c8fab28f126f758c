"""`lrsegformer run --matrix`: the experiments of a file, each by the ordinary command."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrsegformer.cli import certify, evaluate, finetune, robustness
from lrsegformer.cli.failures import Remedies, run_or_explain
from lrsegformer.cli.parser import OneLineParser, read_mapping
from lrsegformer.data.arguments import DIGITS
from lrsegformer.errors import InputError
from lrsegformer.inference.evaluation_arguments import NAMING_OPTIONS
from lrsegformer.matrix.definition import parse_definition
from lrsegformer.matrix.planning import Commands, Length, Request, Verdict, describe_left_out, make_plan
from lrsegformer.matrix.processes import end_with_parent, launch_words
from lrsegformer.ranges import COUNT, check_ranges
from lrsegformer.visible import tell

if TYPE_CHECKING:
    from lrsegformer.matrix.running import Outcome

DESCRIPTION = "Run the experiments of a file: every combination of its lists, each by the ordinary command."
EPILOG = "What the file may say: docs/matrix.md."
_FOLLOW_UPS = {"evaluate": evaluate, "robustness": robustness, "certify": certify}


@dataclass
class MatrixArguments:
    """
    What `run` asks where `--matrix` is given.

    Raises:
        InputError: a number is out of its range.
    """

    _argument_group_name = "matrix"

    matrix: str = field(metadata={"help": "YAML or JSON file of the experiments."})
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder of the cells and their tables. Default: runs/<name of the file>."}
    )
    dry_run: bool = field(
        default=False,
        metadata={
            "help": "Run nothing into the folder: print the cells and an estimate of the time, from finished cells "
            "or else from a few steps of each distinct configuration in a temporary folder (Ctrl-C skips those)."
        },
    )
    retry_failed: bool = field(default=False, metadata={"help": "Try cells again that have failed."})
    jobs: int = field(default=1, metadata={"help": "Cells at a time. They share the machine's devices."})
    accelerate_config: str | None = field(
        default=None, metadata={"help": "File for `accelerate launch --config_file`. Default: accelerate's own."}
    )

    def __post_init__(self):
        check_ranges(self, {"jobs": COUNT})
        if self.accelerate_config is not None and not Path(self.accelerate_config).is_file():
            raise InputError(f"--accelerate_config {self.accelerate_config}: no such file")
        if self.output_dir is None:
            self.output_dir = str(Path("runs") / Path(self.matrix).stem)


def build_parser() -> OneLineParser:
    """The parser of the options."""
    return OneLineParser(MatrixArguments, description=DESCRIPTION, epilog=EPILOG)


def main(argv: list[str] | None = None) -> None:
    """
    Run the matrix; exits after one line where the input is wrong or Ctrl-C stops it, and with status 1 where a cell
    is not finished.
    """
    argv = sys.argv[1:] if argv is None else argv
    run_or_explain(lambda: _run(argv), Remedies(out_of_memory="give fewer --jobs.", stopped=_continuing(argv)))


def _continuing(argv: Sequence[str]) -> str:
    return f"finished cells are kept; this goes on: lrsegformer run {shlex.join(argv)}"


def _run(argv: list[str]) -> None:
    parser = build_parser()
    (arguments,) = parser.build(vars(parser.parse_args(argv)))
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("a matrix starts accelerate for each cell: start it without; see --accelerate_config.")
    definition = parse_definition(read_mapping("--matrix", arguments.matrix), arguments.matrix)
    folder = Path(arguments.output_dir)
    plan = make_plan(definition, Commands(_judge_elsewhere, follow_up_words))
    for line in describe_left_out(plan):
        tell(line)

    def launch(command: str, words: Sequence[str]) -> list[str]:
        return launch_words(command, words, arguments.accelerate_config)

    from lrsegformer.matrix.ledger import read_entries
    from lrsegformer.matrix.preview import preview
    from lrsegformer.matrix.running import run_plan

    if arguments.dry_run:
        preview(plan, read_entries(folder), launch, _say)
        return
    outcome = run_plan(plan, folder, launch, _say, arguments.retry_failed, arguments.jobs)
    _report(outcome, folder, argv)
    if not outcome.is_complete:
        raise SystemExit(1)


def _say(line: str) -> None:
    tell(line)


def _report(outcome: "Outcome", folder: Path, argv: Sequence[str]) -> None:
    count = len(outcome.done) + len(outcome.failed) + len(outcome.pending)
    tell(f"{len(outcome.done)} of {count} cells are finished. Tables: {folder / 'summary.md'}")
    for name, error in outcome.failed.items():
        tell(f"failed: {name}: {error}", sys.stderr)
    for name, error in outcome.pending.items():
        tell(f"unfinished: {name}: {error}", sys.stderr)
    if outcome.failed:
        tell(f"to try them again: lrsegformer run {shlex.join([*argv, '--retry_failed'])}", sys.stderr)


def _judge_elsewhere(requests: Sequence[Request]) -> list[Verdict]:
    """Verdicts of another process: parsing training's options may take hold of a GPU, as long as its process lives."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        return pool.submit(judge, requests).result()


def judge(requests: Sequence[Request]) -> list[Verdict]:
    """
    Parse each request as the fine-tuning command does, and build the constrained model that it asks for, at the
    smallest size.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()
    return [_verdict(request) for request in requests]


def _verdict(request: Request) -> Verdict:
    from lrsegformer.models.loading import build_model
    from lrsegformer.training.run.starting import constraint_options, has_penalty
    from lrsegformer.training.training_arguments import LRSegformerTrainingArguments

    try:
        parser = finetune.build_parser(request.task, training_class=LRSegformerTrainingArguments)
        words = parser.words_of(request.options, "its options")
        model, data, training = finetune.parse_arguments(request.task, words)
    except InputError as error:
        return Verdict([], error=str(error))
    try:
        weighs = has_penalty(build_model(request.task, "tiny", **constraint_options(model)))
    except InputError as error:
        return Verdict([], refusal=str(error))
    length = Length(
        max(training.max_steps, 0),
        training.num_train_epochs,
        str(training.eval_strategy.value),
        training.eval_steps or 0.0,
        data.max_eval_samples,
        data.dataset == DIGITS,
    )
    return Verdict(words, weighs=weighs, length=length)


def follow_up_words(command: str, task: str, options: Mapping[str, Any]) -> list[str]:
    """
    Options of a command that looks at trained models, as on its command line.

    Raises:
        [`~lrsegformer.errors.InputError`]: for anything wrong with them, or that the task does not have.
    """
    module = _FOLLOW_UPS[command]
    words = module.build_parser().words_of(options, "its options")
    if command == "evaluate":
        # Before the cell is trained, any data set stands for its own.
        named = set(NAMING_OPTIONS) & options.keys()
        evaluate.parse_arguments(["cell", *words, *([] if named else ["--dataset", DIGITS])])
    else:
        own, _ = module.parse_arguments(["--models", "cell", *words])
        own.check_task(task)
    return words
