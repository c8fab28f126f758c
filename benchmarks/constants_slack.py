"""
Where a network's bound is loose: for each of its parts what was measured, over what is proven.

    python benchmarks/constants_slack.py runs/certified path/to/image.png ... --output docs/results.md

For a checkpoint of scope `certified`, whose `network_modules(height, width)` yields `(name, module, constants)`. Each
module is measured at what reaches it when the images go through the model, and at last the whole with its classifier,
as a function of the images. What is measured is attained: slopes between two points, found by power iteration at the
data and by ascent of both points from there, in float64. A share above 1 would disprove the bound, and ends the run.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from report import markdown_table, publish, run_header, significant
from torch import nn

from lrsegformer.certification.calculus import Constants
from lrsegformer.certification.parts import finite_norm
from lrsegformer.certification.primitives import pointwise
from lrsegformer.data import open_image
from lrsegformer.data.processor import normalisation, without_normalising
from lrsegformer.robustness.bench.checkpoints import find_checkpoints, load_checkpoint, scoring_processor

Function = Callable[[torch.Tensor], torch.Tensor]
PAIRS = ("l2_to_l2", "l2_to_per_pixel", "per_pixel_to_per_pixel")
SMALL = 1e-3  # of the points' root mean square: the entries of a change that stays near the data

EXPLANATION = """
*Bound*: proven, by which a change can grow through the part, from the first norm of its input to the second of its
output. *Reached*: the share of it that was found, by power iteration at the data and by ascent from there. The product
of all shares would be the network's, if what is worst for one part were worst for the next.
"""


def size(values: torch.Tensor, norm: str) -> torch.Tensor:
    """The norm of one map `(1, channels, height, width)` or vector `(1, channels)`."""
    lengths = values.flatten(2).norm(dim=1) if values.dim() > 2 else values.norm(dim=1, keepdim=True)
    return lengths.norm() if norm == "l2" else lengths.amax()


def steepest(values: torch.Tensor, norm: str) -> torch.Tensor:
    """Of all maps with norm 1, the one along which `values` grow most."""
    lengths = values.norm() if norm == "l2" else values.norm(dim=1, keepdim=True)
    return values / lengths.clamp_min(torch.finfo(values.dtype).tiny)


def farthest(moved: torch.Tensor, norm: str) -> torch.Tensor:
    """What is to be increased: all of the output's change, or the pixel that moved farthest."""
    if norm == "l2" or moved.dim() < 3:
        return moved
    lengths = moved.norm(dim=1, keepdim=True)
    return torch.where(lengths == lengths.amax(), moved, 0)


def slope(function: Function, pair: str, points: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """How much a change of the points grew."""
    into, out_of = pair.split("_to_")
    return size(function(points + change) - function(points), out_of) / size(change, into)


def by_power_iteration(function: Function, pair: str, points: torch.Tensor, steps: int) -> tuple[float, torch.Tensor]:
    """The largest slope near the points, and the change that has it."""
    into, out_of = pair.split("_to_")
    radius = SMALL * points.square().mean().sqrt().item() or SMALL
    change = torch.randn(points.shape, generator=torch.Generator().manual_seed(0), dtype=points.dtype)
    largest, best = 0.0, change
    for _ in range(steps):
        change = steepest(change, into)
        change = change * radius * points[0, 0].numel() ** (0.5 if into == "l2" else 0.0)
        with torch.no_grad():
            moved = function(points + change) - function(points)
            found = (size(moved, out_of) / size(change, into)).item()
        if found >= largest:
            largest, best = found, change
        leaf = points.clone().requires_grad_()
        (change,) = torch.autograd.grad((function(leaf) * farthest(moved, out_of)).sum(), leaf)
    return largest, best


def by_ascent(function: Function, pair: str, points: torch.Tensor, change: torch.Tensor, steps: int) -> float:
    """The largest slope on the way of ascent, of the points and the change together."""
    points, change = points.clone().requires_grad_(), change.clone().requires_grad_()
    rates = [0.03 * values.detach().square().mean().sqrt().item() or SMALL for values in (points, change)]
    optimizer = torch.optim.Adam([{"params": [points], "lr": rates[0]}, {"params": [change], "lr": rates[1]}])
    largest = 0.0
    for _ in range(steps):
        found = slope(function, pair, points, change)
        largest = max(largest, found.item())
        if found.item() == 0:
            break
        optimizer.zero_grad()
        (-found.log()).backward()
        optimizer.step()
    return largest


def inputs_of(
    model: nn.Module, modules: Sequence[nn.Module], pixel_values: torch.Tensor
) -> dict[nn.Module, torch.Tensor]:
    """What reaches each module when a normalised image goes through the model."""
    caught: dict[nn.Module, torch.Tensor] = {}
    handles = [
        module.register_forward_pre_hook(lambda module, given: caught.update({module: given[0].detach()}))
        for module in modules
    ]
    with torch.no_grad():
        model(pixel_values=pixel_values)
    for handle in handles:
        handle.remove()
    return caught


def slack_row(
    name: str, function: Function, bound: Constants, inputs: Sequence[torch.Tensor], steps: int
) -> list[str]:
    """A row of the table: in each pair of norms the bound, and the largest share of it over all inputs."""
    row = [name]
    for pair in PAIRS:
        proven, reached = getattr(bound, pair).item(), 0.0
        for points in inputs:
            near, change = by_power_iteration(function, pair, points, steps)
            reached = max(reached, near, by_ascent(function, pair, points, change, steps))
        # Slopes of changes this small lose about 1e-12 of themselves to rounding in float64.
        if reached > proven * (1 + 1e-9):
            raise SystemExit(f"{name}: {reached} was reached {pair}, and at most {proven} is proven")
        row += [significant(proven), significant(reached / proven) if proven else "-"]
    return row


def slack_table(model: nn.Module, images: Sequence[torch.Tensor], normalise: Function, steps: int) -> str:
    """
    The table of all parts that the model names, and of the whole.

    Args:
        model: float64, in eval mode.
        images: each `(1, 3, height, width)`, float64 in [0, 1], all of one size.
        normalise: from [0, 1] to what the model takes.
        steps (`int`): of power iteration, and as many of ascent.
    """
    size = images[0].shape[2:]
    parts = list(model.network_modules(*size))
    modules = [module for _, module, _ in parts]
    reaching = [inputs_of(model, modules, normalise(image)) for image in images]
    rows = [
        slack_row(name, module, bound, [given[module] for given in reaching], steps) for name, module, bound in parts
    ]
    whole = model.network_constants(*size).then(pointwise(finite_norm(model.classifier_rows(), "l2")))
    rows.append(slack_row("image to logits", lambda image: model(normalise(image)).logits, whole, images, steps))
    header = ["part", *(f"{pair.replace('_', ' ')}, {what}" for pair in PAIRS for what in ("bound", "reached"))]
    return markdown_table(header, rows)


def main() -> None:
    """Measure the parts of one checkpoint at images of one size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a model of scope certified: a folder or a name on the Hub")
    parser.add_argument("images", nargs="+", type=Path, help="files, which the saved processor brings to one size")
    parser.add_argument("--steps", type=int, default=20, help="of power iteration, and as many of ascent")
    parser.add_argument("--output", type=Path, help="a Markdown file, whose section 'constants' is replaced")
    arguments = parser.parse_args()
    (checkpoint,) = find_checkpoints([arguments.checkpoint])
    processor = scoring_processor(checkpoint, None)
    model = load_checkpoint(checkpoint).double().requires_grad_(False)
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in normalisation(processor))
    plain = without_normalising(processor)
    pictures = [open_image(path) for path in arguments.images]
    images = [plain(picture, return_tensors="pt")["pixel_values"].double() for picture in pictures]
    table = slack_table(model, images, lambda image: (image - mean) / std, arguments.steps)
    text = "\n".join(["## Where the bound is loose", "", run_header(["lrsegformer", "torch"]), EXPLANATION, table])
    publish(text, arguments.output, "constants")


if __name__ == "__main__":
    main()
