"""`lrsegformer report`: one page from many runs and reports."""

import sys
from dataclasses import dataclass, field

from lrsegformer.cli.failures import Remedies, run_or_explain
from lrsegformer.cli.parser import OneLineParser
from lrsegformer.visible import tell

DESCRIPTION = (
    "One self-contained HTML page, and its tables as Markdown, from runs, robustness reports, certificates and "
    "evaluations below some folders."
)
REMEDIES = Remedies(
    out_of_memory="give fewer folders; nothing was written.",
    stopped="nothing was written; the same command starts again.",
)


@dataclass
class ReportArguments:
    """What the page is made of, and where it goes."""

    output: str = field(
        default="report.html",
        metadata={"help": "The HTML file; the Markdown file beside it has the same name with the ending .md."},
    )
    title: str = field(default="Robustness report", metadata={"help": "Heading of the page."})


def main(argv: list[str] | None = None) -> None:
    """Write the page; exits after one line where the input is wrong or Ctrl-C stops it."""
    argv = sys.argv[1:] if argv is None else argv
    run_or_explain(lambda: _run(argv), REMEDIES)


def build_parser() -> OneLineParser:
    """The parser of the folders and options."""
    parser = OneLineParser((ReportArguments,), description=DESCRIPTION)
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="Of runs and reports, searched downwards.")
    parser.add_config()
    return parser


def parse_arguments(argv: list[str]) -> tuple[list[str], ReportArguments]:
    """
    Parse a command line: the folders, and the options.

    Raises:
        [`~lrsegformer.errors.InputError`]: for anything wrong with the options. `SystemExit`: after `--help`.
    """
    parser = build_parser()
    values = parser.parse_with_config(argv).values
    (arguments,) = parser.build(values)
    return values["folders"], arguments


def _run(argv: list[str]) -> None:
    folders, arguments = parse_arguments(argv)
    from lrsegformer.reporting.page.write import write_page

    written = write_page(folders, arguments.output, arguments.title)
    for line in written.left_out:
        tell(f"note: {line}", sys.stderr)
    tell(f"Report: {written.html} (tables as Markdown: {written.markdown})")
