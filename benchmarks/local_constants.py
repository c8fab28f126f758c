"""
How much of a network's proven constant is reached: the steepest slopes that can be found, in both norms.

    python benchmarks/local_constants.py --models runs/certified --dataset path/to/data --max_eval_samples 4 \\
        --output docs/benchmarks.md

Around images of the data set, around the same under attack, and around noise, in float64. Exits with status 1 where a
slope is above the constant. Writes the section `slopes`.
"""

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from certified_models import CertifiedRun, certified_runs
from local_slopes import decided_features, steepest_slope
from report import markdown_table, publish, run_header, significant
from torch import Tensor

from lrsegformer.attacks.pgd import pgd
from lrsegformer.attacks.threat import Threat
from lrsegformer.choices import CERTIFICATE_NORMS
from lrsegformer.cli.failures import Remedies, run_or_explain
from lrsegformer.cli.parser import OneLineParser
from lrsegformer.errors import InputError
from lrsegformer.robustness.bench.arguments import BenchDataArguments

REMEDIES = Remedies("give a smaller --eval_size.", "nothing is kept.")
# What the attacked images were moved by, in [0, 1] pixel units; far enough to change most predictions.
ATTACK = Threat("linf", 8 / 255)
ATTACK_STEPS = 10
HEADER = ["model", "norm", "around", "images", "steepest slope found (estimate)", "constant (proven)", "share"]
EXPLANATION = """
A slope is the l2 distance of two images' features, at the pixel where they are farthest apart, over the distance of
the images in the norm; features as far as the classifier tells them apart. Directions by power iteration on the
Jacobian, centres moved along them (`benchmarks/local_slopes.py`). The constant is proven for all images; the slope is
the steepest of those that were tried, and bounds nothing. What lies between them is slack of the proof, or of the
search.
"""


@dataclass
class SlopeArguments:
    """
    Which models, and how long to search.

    Raises:
        [`~lrsegformer.errors.InputError`]: a number is out of its range.
    """

    models: list[str] = field(metadata={"help": "Checkpoints of --scope certified."})
    starts: int = field(default=4, metadata={"help": "Random pixels that a search begins with."})
    iterations: int = field(default=10, metadata={"help": "Steps of the power iteration."})
    moves: int = field(default=6, metadata={"help": "How often a centre may move."})
    seed: int = field(default=42, metadata={"help": "Seed of the subset and of the search."})
    output: str | None = field(default=None, metadata={"help": "Markdown file whose section `slopes` is replaced."})

    def __post_init__(self):
        for option, least in (("starts", 1), ("iterations", 1), ("moves", 0)):
            if getattr(self, option) < least:
                raise InputError(f"--{option} is {getattr(self, option)}: give a whole number of at least {least}")


def centres(run: CertifiedRun, seed: int) -> Iterator[tuple[str, Tensor]]:
    """What slopes are searched around, `(1, channels, height, width)`, each with its kind."""
    for batch in run.singly():
        image, labels = batch.images, batch.labels
        yield "images", image
        yield "attacked images", pgd(run.pixels, image, labels, ATTACK, ATTACK_STEPS, seed=seed).images
        generator = torch.Generator().manual_seed(seed + batch.ids[0])
        yield "noise", torch.rand(image.shape, generator=generator).to(image)


def measure(run: CertifiedRun, arguments: SlopeArguments) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """The steepest slope and the constant, for each norm and kind of centre, image by image."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    around = list(centres(run, arguments.seed))
    constants = {
        (norm, centre.shape): run.constant(norm, centre) for norm in CERTIFICATE_NORMS for _, centre in around
    }
    features = decided_features(run.pixels.double(), run.rows)
    numbers = arguments.starts, arguments.iterations, arguments.moves, arguments.seed
    for kind, centre in around:
        for norm in CERTIFICATE_NORMS:
            slope = steepest_slope(features, centre.double(), norm, *numbers)
            found.setdefault((norm, kind), []).append((slope.value, constants[norm, centre.shape]))
    return found


def main() -> None:
    parser = OneLineParser((SlopeArguments, BenchDataArguments), description=__doc__.split("\n\n")[0])
    arguments, data_arguments = parser.parse_args_into_dataclasses()
    cells, holds = [], True
    for run in certified_runs(arguments.models, data_arguments, arguments.seed):
        for (norm, kind), slopes in measure(run, arguments).items():
            slope, constant = max(slopes, key=lambda pair: pair[0] / pair[1])
            holds &= slope <= constant
            figures = [str(len(slopes)), significant(slope), significant(constant), f"{slope / constant:.3f}"]
            cells.append([run.label, norm, kind, *figures])
    header = run_header(["torch", "transformers", "numpy"])
    parts = ["## Slopes and constants", header, EXPLANATION.strip(), markdown_table(HEADER, cells, text_columns=3)]
    publish("\n\n".join(parts), arguments.output and Path(arguments.output), "slopes")
    if not holds:
        sys.exit(1)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    run_or_explain(main, REMEDIES)
