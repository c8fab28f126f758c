"""
Score models under attack, corruption and shifted data.

    accelerate launch scripts/robustness.py --models runs/baseline runs/stable_softplus --dataset path/to/data \\
        --attacks pgd segpgd cospgd sea --norm linf --eps 0.25 0.5 1 2 4 --corruptions common

Stopped, the same command continues. `--help` lists the options.
"""

import dataclasses
import logging
import os
import sys

os.environ["LRSEGFORMER_PARSE_ONLY"] = "1"

from lrsegformer.cli.command_line import Remedies, run_or_explain
from lrsegformer.cli.parser import OneLineParser, config_to_options, find_config
from lrsegformer.robustness.bench.arguments import BenchDataArguments, RobustnessArguments

DESCRIPTION = "Score SegFormer models, ours or stock, under attack, corruption and shifted data."
REMEDIES = Remedies(
    out_of_memory="give a smaller --batch_size or a smaller --eval_size; finished cells are kept.",
    stopped="finished cells are kept in cells.jsonl of the --output_dir; the same command continues.",
)


def main(argv: list[str] | None = None) -> None:
    """Run the bench; exits after one line where the input is wrong or Ctrl-C stops it."""
    argv = sys.argv[1:] if argv is None else argv
    run_or_explain(lambda: run(argv), REMEDIES)


def run(argv: list[str]) -> None:
    arguments = parse_arguments(argv)
    from lrsegformer.robustness.bench.bench import run_bench

    logging.basicConfig(format="%(message)s")
    logging.getLogger("lrsegformer").setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    run_bench(*arguments)
    if os.environ.get("RANK", "0") == "0":
        print(f"Report: {os.path.join(arguments[0].output_dir, 'results.md')}")


def parse_arguments(argv: list[str]) -> tuple[RobustnessArguments, BenchDataArguments]:
    parser = OneLineParser((RobustnessArguments, BenchDataArguments), description=DESCRIPTION)
    parser.add_argument("--config", metavar="FILE", help="YAML or JSON file of options; the command line wins.")
    file = find_config(argv)
    known = {field.name for kind in parser.dataclass_types for field in dataclasses.fields(kind)}
    options = [] if file is None else config_to_options(file, known)
    namespace = vars(parser.parse_args(options + argv))
    robustness, data = (
        kind(**{field.name: namespace[field.name] for field in dataclasses.fields(kind)})
        for kind in parser.dataclass_types
    )
    return robustness, data


if __name__ == "__main__":
    main()
