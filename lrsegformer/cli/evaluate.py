"""`lrsegformer evaluate`: the scores of a checkpoint by every protocol."""

import os
import sys
from collections.abc import Mapping
from typing import Any

from lrsegformer.cli.failures import Remedies, run_or_explain, tell_progress
from lrsegformer.cli.parser import OneLineParser
from lrsegformer.inference.evaluation_arguments import (
    EvaluateArguments,
    EvaluationDataArguments,
    run_folder,
    with_data_of_run,
)
from lrsegformer.training.run.run_config import RUN_CONFIG_FILE
from lrsegformer.visible import tell

DESCRIPTION = "Score a SegFormer checkpoint, ours or stock, of either task, on a labelled data set."
REMEDIES = Remedies(
    out_of_memory="give a smaller --batch_size, or --protocols slide with a smaller --window.",
    stopped="nothing was written; the same command starts anew.",
)
_COLUMNS = {
    "segmentation": ("mean_iou", "mean_accuracy", "overall_accuracy", "f1", "matthews_correlation"),
    "classification": ("accuracy", "precision", "recall", "f1", "matthews_correlation"),
}


def main(argv: list[str] | None = None) -> None:
    """Evaluate; exits after one line where the input is wrong or Ctrl-C stops it."""
    argv = sys.argv[1:] if argv is None else argv
    run_or_explain(lambda: _run(argv), REMEDIES)


def build_parser() -> OneLineParser:
    """The parser: the model by its place, everything else by options."""
    parser = OneLineParser((EvaluateArguments, EvaluationDataArguments), description=DESCRIPTION)
    parser.add_model()
    parser.add_config()
    return parser


def parse_arguments(argv: list[str]) -> tuple[str, EvaluateArguments, EvaluationDataArguments, bool]:
    """
    Parse a command line.

    Returns:
        The model, the options, and whether the data are those that the model's run was scored on.

    Raises:
        [`~lrsegformer.errors.InputError`]: for anything wrong with the options. `SystemExit`: after `--help`.
    """
    parser = build_parser()
    parsed = parser.parse_with_config(argv)
    model = parsed.values["model"]
    values, is_own = with_data_of_run(parsed.values, parsed.in_file | parsed.on_line, model)
    return model, *parser.build(values), is_own


def _run(argv: list[str]) -> None:
    model, arguments, data_arguments, is_own = parse_arguments(argv)
    from lrsegformer.inference.evaluate import evaluate

    is_first = tell_progress()
    # A checkpoint on the way is not what the run's folder is about.
    own = run_folder(model) if is_own and os.path.isfile(os.path.join(model, RUN_CONFIG_FILE)) else None
    report, folder = evaluate(model, arguments, data_arguments, own)
    if is_first:
        tell(table_of(report))
        tell(f"Results: {folder}" + (f", and evaluation.json in {own}" if own is not None else ""))


def table_of(report: Mapping[str, Any]) -> str:
    """The scores of an `evaluation.json` as a table, a row for each protocol and size."""
    names = _COLUMNS[report["task"]]
    images = f"{report['num_images']} of {report['of']}"
    lines = [f"{report['model']} on {report['dataset']} ({report['split']}, {images} images, input {report['input']})"]
    lines.append(f"{'protocol':<28}" + "".join(f"{name:>22}" for name in names))
    for protocol, sizes in report["protocols"].items():
        for size, scores in sizes.items():
            shown = ("-" if scores[name] is None else f"{scores[name]:.5f}" for name in names)
            lines.append(f"{protocol + ', ' + size:<28}" + "".join(f"{value:>22}" for value in shown))
    return "\n".join(lines)
