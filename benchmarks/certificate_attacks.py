"""
Attacks on certificates: no certified pixel of any checkpoint may flip, in any step of any restart.

    python benchmarks/certificate_attacks.py --models runs/certified --dataset path/to/data --radii 36/255 \\
        --per_pixel_radii 0.5/255 --max_eval_samples 4 --json reports/attacks.json --output docs/benchmarks.md

Every image is attacked by itself: PGD on the cross entropy and on CosPGD's, Auto-PGD on the tempered Jensen-Shannon
divergence, on the certified pixels nearest to another class, and on single pixels with the smallest certified radius.
Exits with status 1 where a certified pixel flipped. Writes the section `certificates`.
"""

import json
import logging
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from certificate_judge import ATTACKS, Verdict, judge
from certified_models import CertifiedRun, certified_runs
from report import markdown_table, publish, run_header

from lrsegformer.attacks.threat import Threat
from lrsegformer.choices import CERTIFICATE_NORMS
from lrsegformer.cli.failures import Remedies, run_or_explain
from lrsegformer.cli.parser import OneLineParser
from lrsegformer.errors import InputError
from lrsegformer.robustness.bench.arguments import BenchDataArguments
from lrsegformer.robustness.certificates.arguments import parse_radius

REMEDIES = Remedies("give a smaller --eval_size.", "what was finished is in the file of --json.")
HEADER = ["model", "norm", "radius", "attack", "images", "judged pixels", "images looked at"]
HEADER += ["flipped certified pixels", "least margin left", "most of the bound used"]
EXPLANATION = """
Of each image the pixels that are certified at the radius are attacked together; *judged pixels* counts them once for
each attack. *Images looked at* are those that an attack asked the model about; a pixel counts as flipped where another
class, or a tie, was predicted in any of them. *Least margin left*: the smallest share that a certified pixel had left
of its clean distance to another class. *Most of the bound used*: the largest share of constant times perturbation by
which a distance fell; above 1 the constant would be none. The attacks are measurements: that they flip nothing proves
nothing, and that one flips a pixel would disprove the certificate.
"""


@dataclass
class JudgeArguments:
    """
    Which certificates are attacked, and how.

    Raises:
        [`~lrsegformer.errors.InputError`]: a number is out of its range, or a name is unknown.
    """

    models: list[str] = field(metadata={"help": "Checkpoints of --scope certified."})
    radii: list[str] = field(default_factory=lambda: ["36/255"], metadata={"help": "Radii in l2, such as 36/255."})
    per_pixel_radii: list[str] = field(
        default_factory=lambda: ["0.5/255"], metadata={"help": "Radii in per_pixel_l2, such as 0.5/255."}
    )
    norms: list[str] = field(
        default_factory=lambda: list(CERTIFICATE_NORMS),
        metadata={"help": "Norms of the radii that are tried.", "choices": CERTIFICATE_NORMS},
    )
    attacks: list[str] = field(
        default_factory=lambda: list(ATTACKS), metadata={"help": "Attacks.", "choices": tuple(ATTACKS)}
    )
    steps: int = field(default=100, metadata={"help": "Steps of a restart."})
    restarts: int = field(default=5, metadata={"help": "Random starts; of one_pixel: pixels."})
    seed: int = field(default=42, metadata={"help": "Seed of the subset and of random starts."})
    json: str | None = field(default=None, metadata={"help": "File for the figures, written after every image."})
    output: str | None = field(
        default=None, metadata={"help": "Markdown file whose section `certificates` is replaced."}
    )

    def __post_init__(self):
        for option in ("steps", "restarts"):
            if getattr(self, option) < 1:
                raise InputError(f"--{option} is {getattr(self, option)}: give a whole number of at least 1")
        self.threats()

    def threats(self) -> dict[tuple[str, str], Threat]:
        """By norm and the radius as it was written."""
        given = {"l2": self.radii, "per_pixel_l2": self.per_pixel_radii}
        return {(norm, text): Threat(norm, parse_radius(text)) for norm in self.norms for text in given[norm]}


def judge_run(run: CertifiedRun, arguments: JudgeArguments, rows: list[dict[str, Any]]) -> None:
    """Append the verdicts of a model to `rows`, complete or not, and keep them in the file of `--json`."""
    totals: dict[tuple[str, str, str], Verdict] = {}
    finished = list(rows)
    for batch in run.singly():
        size = tuple(batch.labels.shape[1:]) or (1, 1)
        for (norm, text), threat in arguments.threats().items():
            constant = run.constant(norm, batch.images)
            for attack in arguments.attacks:
                numbers = arguments.steps, arguments.restarts, arguments.seed, batch.ids[0]
                found = judge(run.pixels, batch.images, size, threat, constant, run.rows, attack, *numbers)
                totals[norm, text, attack] = totals.get((norm, text, attack), Verdict()) + found
        rows[:] = finished + [
            {"model": run.label, "norm": norm, "radius": text, "attack": attack, **verdict.to_json()}
            for (norm, text, attack), verdict in totals.items()
        ]
        if arguments.json is not None:
            keep(rows, Path(arguments.json))


def keep(rows: list[dict[str, Any]], file: Path) -> None:
    """Write the figures, so that a run that is stopped leaves those before or after an image, never half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.unfinished")
    unfinished.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    os.replace(unfinished, file)


def table_of(rows: list[dict[str, Any]]) -> str:
    """The verdicts, and what they sum to."""
    cells = []
    for row in rows:
        left = row["least_margin_left"]
        numbers = [str(row[name]) for name in ("images", "judged_pixels", "iterates", "flipped_pixels")]
        shares = ["-" if left is None else f"{left:.3f}", f"{row['largest_bound_used']:.3f}"]
        cells.append([row["model"], row["norm"], row["radius"], row["attack"], *numbers, *shares])
    sums = [str(sum(row[name] for row in rows)) for name in ("judged_pixels", "iterates", "flipped_pixels")]
    cells.append(["all", "", "", "", "", *sums, "", ""])
    return markdown_table(HEADER, cells, text_columns=4)


def main() -> None:
    parser = OneLineParser((JudgeArguments, BenchDataArguments), description=__doc__.split("\n\n")[0])
    arguments, data_arguments = parser.parse_args_into_dataclasses()
    rows: list[dict[str, Any]] = []
    for run in certified_runs(arguments.models, data_arguments, arguments.seed):
        judge_run(run, arguments, rows)
    header = run_header(["torch", "transformers", "numpy"])
    parts = ["## Attacks on certificates", header, EXPLANATION.strip(), table_of(rows)]
    publish("\n\n".join(parts), arguments.output and Path(arguments.output), "certificates")
    if any(row["flipped_pixels"] for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    run_or_explain(main, REMEDIES)
