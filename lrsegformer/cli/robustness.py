"""`lrsegformer robustness`: score models under attack, corruption and shifted data."""

import os
import sys

from lrsegformer.cli.failures import Remedies, run_or_explain, tell_progress
from lrsegformer.cli.parser import OneLineParser
from lrsegformer.robustness.bench.arguments import BenchDataArguments, RobustnessArguments
from lrsegformer.visible import tell

DESCRIPTION = "Score SegFormer models, ours or stock, under attack, corruption and shifted data."
REMEDIES = Remedies(
    out_of_memory="give a smaller --batch_size or a smaller --eval_size; finished cells are kept.",
    stopped="finished cells are kept in cells.jsonl of the --output_dir; the same command continues.",
)


def main(argv: list[str] | None = None) -> None:
    """Run the bench; exits after one line where the input is wrong or Ctrl-C stops it."""
    argv = sys.argv[1:] if argv is None else argv
    run_or_explain(lambda: _run(argv), REMEDIES)


def build_parser() -> OneLineParser:
    """The parser of the options."""
    parser = OneLineParser((RobustnessArguments, BenchDataArguments), description=DESCRIPTION)
    parser.add_config()
    return parser


def parse_arguments(argv: list[str]) -> tuple[RobustnessArguments, BenchDataArguments]:
    """
    Parse a command line.

    Raises:
        [`~lrsegformer.errors.InputError`]: for anything wrong with the options. `SystemExit`: after `--help`.
    """
    parser = build_parser()
    return parser.build(parser.parse_with_config(argv).values)


def _run(argv: list[str]) -> None:
    arguments = parse_arguments(argv)
    from lrsegformer.robustness.bench.bench import run_bench

    is_first = tell_progress()
    run_bench(*arguments)
    if is_first:
        tell(f"Report: {os.path.join(arguments[0].output_dir, 'results.md')}")
