"""`lrsegformer export`: a saved model as a stock checkpoint, as ONNX, and as a program of torch.export."""

import sys

from lrsegformer.cli.failures import Remedies, run_or_explain, tell_progress
from lrsegformer.cli.parser import OneLineParser
from lrsegformer.export.arguments import ExportArguments
from lrsegformer.visible import tell

DESCRIPTION = "Write a SegFormer model, ours or stock, of either task, in formats that need this package no more."
REMEDIES = Remedies(
    out_of_memory="give a smaller --image_size (onnx, pt2), or one format at a time; finished formats are kept.",
    stopped="finished formats are kept; the same command with the others alone continues.",
)


def main(argv: list[str] | None = None) -> None:
    """Export; exits after one line where the input is wrong or Ctrl-C stops it."""
    argv = sys.argv[1:] if argv is None else argv
    run_or_explain(lambda: _run(argv), REMEDIES)


def build_parser() -> OneLineParser:
    """The parser: the model by its place, everything else by options."""
    parser = OneLineParser(ExportArguments, description=DESCRIPTION)
    parser.add_model()
    parser.add_config()
    return parser


def parse_arguments(argv: list[str]) -> tuple[str, ExportArguments]:
    """
    Parse a command line.

    Returns:
        The model, and the options.

    Raises:
        [`~lrsegformer.errors.InputError`]: for anything wrong with the options. `SystemExit`: after `--help`.
    """
    parser = build_parser()
    values = parser.parse_with_config(argv).values
    return values["model"], parser.build(values)[0]


def _run(argv: list[str]) -> None:
    model, arguments = parse_arguments(argv)
    from lrsegformer.export.run import export

    tell_progress()
    for folder in export(model, arguments):
        tell(f"Written: {folder}")
