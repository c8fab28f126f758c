"""
What an attack costs: PGD with 20 steps on our model and on stock SegFormer with the same weights.

    pip install -c constraints.txt '.[bench]'
    python benchmarks/attack.py --output docs/benchmarks.md

Both stand for the same function, and the run stops where the first gradient does not agree. Writes the section
`attack`.
"""

import argparse
from pathlib import Path

import torch
from cases import CLASSES, IGNORE_INDEX, SIDE, Workload
from equality import GRADIENT_TOLERANCE, OURS, STOCK, TOLERANCE, Action, Outcome, check_equal
from figures import TIME, Figure, figure_tables
from measuring import interleaved
from report import publish, run_header
from torch import nn
from torch.nn import functional
from transformers import SegformerImageProcessorPil

from lrsegformer.attacks.base import value_and_gradient
from lrsegformer.attacks.objectives.table import find_objective
from lrsegformer.attacks.pgd import pgd
from lrsegformer.attacks.pixel_model import PixelModel
from lrsegformer.attacks.threat import Threat

STEPS, RADIUS, GOAL = 20, 4 / 255, 2.0
PLAIN = "stock, plain PGD"

EXPLANATION = f"""
One image of {SIDE}x{SIDE}, {CLASSES} classes, B0 in eval mode with random weights, float32; linf, radius 4/255, no
random start. *Plain PGD* is the loop that users write: upsample the logits, cross entropy, backward to the image,
step, project; it scores nothing and keeps no best iterate, which `lrsegformer.attacks.pgd` does. Both are timed on
stock's model. The clean image's loss is held to stock's to {TOLERANCE:.0e} and its gradient to
{GRADIENT_TOLERANCE:.0e}, or the run stops.
"""


def plain_gradient(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The cross entropy of the upsampled logits, and its gradient in the images."""
    images = images.detach().requires_grad_()
    logits = functional.interpolate(model(images), labels.shape[-2:], mode="bilinear", align_corners=False)
    loss = functional.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX)
    (gradient,) = torch.autograd.grad(loss, images)
    return loss.detach(), gradient


def plain_pgd(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    current = images
    for _ in range(STEPS):
        _, gradient = plain_gradient(model, current, labels)
        stepped = current.detach() + RADIUS * 2.5 / STEPS * gradient.sign()
        current = torch.min(torch.max(stepped, images - RADIUS), images + RADIUS).clamp(0, 1)
    return current


def make_actions() -> tuple[dict[str, Action], dict[str, Action]]:
    """The attacks by name, and the first gradients for the check."""
    workload = Workload("b0", 1, training=False)
    processor = SegformerImageProcessorPil()
    models = {name: PixelModel(model, processor).eval() for name, model in workload.models.items()}
    images, labels = torch.rand_like(workload.images), workload.labels
    threat = Threat("linf", RADIUS)

    def attack(name: str) -> Action:
        return lambda: Outcome([pgd(models[name], images, labels, threat, STEPS, random_start=False).images], [])

    def our_gradient() -> Outcome:
        values, _, gradient = value_and_gradient(models[OURS], images, labels, find_objective("cross_entropy"))
        return Outcome([values.sum()], [gradient])

    def stock_gradient() -> Outcome:
        value, gradient = plain_gradient(models[STOCK], images, labels)
        return Outcome([value], [gradient])

    attacks = {OURS: attack(OURS), STOCK: attack(STOCK)}
    attacks[PLAIN] = lambda: Outcome([plain_pgd(models[STOCK], images, labels)], [])
    return attacks, {OURS: our_gradient, STOCK: stock_gradient}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--output", type=Path, help="Markdown file whose section `attack` is replaced")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    attacks, gradients = make_actions()
    check_equal("gradient of the attack", gradients)
    times = interleaved(attacks, arguments.rounds, 90)
    label = f"PGD-{STEPS}, B0"
    figures = [
        Figure(TIME, f"{label}: our attack on our model, plain PGD on stock", times[OURS], times[PLAIN], GOAL),
        Figure(TIME, f"{label}: our attack on either model", times[OURS], times[STOCK]),
        Figure(TIME, f"{label}, stock: our attack, plain PGD", times[STOCK], times[PLAIN]),
    ]
    parts = ["## Attack", run_header(["torch", "transformers", "numpy"]), EXPLANATION.strip(), *figure_tables(figures)]
    publish("\n\n".join(parts), arguments.output, "attack")


if __name__ == "__main__":
    main()
