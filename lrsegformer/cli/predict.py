"""`lrsegformer predict`: a model's predictions of image files and videos."""

import sys

from lrsegformer.cli.failures import Remedies, run_or_explain, tell_progress
from lrsegformer.cli.parser import OneLineParser
from lrsegformer.inference.arguments import PredictArguments
from lrsegformer.visible import tell

DESCRIPTION = "Predict images and videos with a SegFormer model, ours or stock, of either task."
REMEDIES = Remedies(
    out_of_memory="give a smaller --batch_size, or --protocol slide with a smaller --window; what is done is kept.",
    stopped="what is done is kept in the --output_dir; the same command continues.",
)
# Images that cannot be read were left out, and the rest was predicted.
SOME_UNREADABLE_STATUS = 1


def main(argv: list[str] | None = None) -> None:
    """Predict; exits after one line where the input is wrong or Ctrl-C stops it, and with 1 where images were left
    out."""
    argv = sys.argv[1:] if argv is None else argv
    run_or_explain(lambda: _run(argv), REMEDIES)


def build_parser() -> OneLineParser:
    """The parser: the model and the images by their places, everything else by options."""
    parser = OneLineParser(PredictArguments, description=DESCRIPTION)
    parser.add_model()
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", help="Images, folders of images or frames, patterns in quotes, videos."
    )
    parser.add_config()
    return parser


def parse_arguments(argv: list[str]) -> tuple[str, list[str], PredictArguments]:
    """
    Parse a command line.

    Returns:
        The model, what is to be predicted, and the options.

    Raises:
        [`~lrsegformer.errors.InputError`]: for anything wrong with the options. `SystemExit`: after `--help`.
    """
    parser = build_parser()
    values = parser.parse_with_config(argv).values
    return values["model"], values["images"], parser.build(values)[0]


def _run(argv: list[str]) -> None:
    model, images, arguments = parse_arguments(argv)
    from lrsegformer.inference.predict import predict_files

    is_first = tell_progress()
    done = predict_files(model, images, arguments)
    if is_first:
        before = f", {done.skipped} done before" if done.skipped else ""
        tell(f"{done.predicted} predicted{before}. Table: {done.table}")
        if done.unreadable:
            tell(f"{len(done.unreadable)} could not be read: see unreadable.txt there.", sys.stderr)
    if done.unreadable:
        sys.exit(SOME_UNREADABLE_STATUS)
