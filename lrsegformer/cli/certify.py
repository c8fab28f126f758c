"""`lrsegformer certify`: certificates of models, beside attacks and smoothing."""

import os
import sys

from lrsegformer.cli.failures import Remedies, run_or_explain, tell_progress
from lrsegformer.cli.parser import OneLineParser
from lrsegformer.robustness.bench.arguments import BenchDataArguments
from lrsegformer.robustness.certificates.arguments import CertificateArguments
from lrsegformer.visible import tell

DESCRIPTION = "Certify predictions of SegFormer models, and compare with attacks and randomised smoothing."
REMEDIES = Remedies(
    out_of_memory="give a smaller --batch_size or a smaller --eval_size; finished attacks are kept.",
    stopped="finished attacks are kept in cells.jsonl of the --output_dir; the same command continues.",
)


def main(argv: list[str] | None = None) -> None:
    """Certify; exits after one line where the input is wrong or Ctrl-C stops it."""
    argv = sys.argv[1:] if argv is None else argv
    run_or_explain(lambda: _run(argv), REMEDIES)


def build_parser() -> OneLineParser:
    """The parser of the options."""
    parser = OneLineParser((CertificateArguments, BenchDataArguments), description=DESCRIPTION)
    parser.add_config()
    return parser


def parse_arguments(argv: list[str]) -> tuple[CertificateArguments, BenchDataArguments]:
    """
    Parse a command line.

    Raises:
        [`~lrsegformer.errors.InputError`]: for anything wrong with the options. `SystemExit`: after `--help`.
    """
    parser = build_parser()
    return parser.build(parser.parse_with_config(argv).values)


def _run(argv: list[str]) -> None:
    arguments = parse_arguments(argv)
    from lrsegformer.robustness.certificates.run import run_certificates

    is_first = tell_progress()
    run_certificates(*arguments)
    if is_first:
        tell(f"Report: {os.path.join(arguments[0].output_dir, 'results.md')}")
