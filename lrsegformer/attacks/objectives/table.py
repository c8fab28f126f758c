"""
All attack objectives by name, those that the scale of the logits cannot hide among them.

A constraint may leave a model with logits, and gradients, of another size. The cross entropy of large logits is flat
where a pixel is surely right, and that of small ones moves all pixels alike; both make an attack look weak. What is
defined here does not change when the logits are multiplied by a number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lrsegformer.attacks.objectives.pixels import (
    PixelObjective,
    ValuesAlone,
    balanced_masked_cross_entropy,
    cospgd,
    counted_pixels,
    cross_entropy,
    jensen_shannon,
    masked_cross_entropy,
    segpgd,
)
from lrsegformer.errors import InputError

FEWEST_CLASSES, FEWEST_CLASSES_TARGETED = 3, 4
# The median pixel's two largest logits are brought this far apart: its softmax is then sure, and not flat.
TEMPERED_MARGIN = 3.0


@dataclass(frozen=True)
class TemperedObjective(ValuesAlone):
    """
    A pixel objective of logits brought to one scale, image by image.

    The logits are multiplied by a constant (to the gradient, too) that brings the distance of a pixel's two largest
    logits to 3 in the median over the pixels that count, at the resolution of the logits. What is predicted stays.
    """

    name: str
    objective: PixelObjective

    def values_and_right(
        self, logits: Tensor, labels: Tensor, step: int = 1, steps: int = 1, targeted: bool = False
    ) -> tuple[Tensor, Tensor]:
        """As [`~lrsegformer.attacks.objectives.pixels.PixelObjective.values_and_right`]."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        factors = TEMPERED_MARGIN / _median_margins(logits.detach(), labels)
        scaled = logits * factors.view(-1, *(1,) * (logits.ndim - 1))
        return self.objective.values_and_right(scaled, labels, step, steps, targeted)


def _median_margins(logits: Tensor, labels: Tensor) -> Tensor:
    """`(batch,)`; where no pixel counts, or none decides between two classes, what leaves the logits as they are."""
    largest = logits.topk(2, dim=1).values
    margins = largest[:, 0] - largest[:, 1]
    if logits.ndim == 2:
        return torch.where(margins > 0, margins, TEMPERED_MARGIN)
    counted = counted_pixels(labels, logits.shape[1])[:, None].to(logits.dtype)
    # Ignored pixels stay out, up to those that share a low-resolution pixel with a counted one.
    counted = functional.interpolate(counted, logits.shape[-2:], mode="nearest")[:, 0] > 0
    found = [image[valid & (image > 0)] for image, valid in zip(margins, counted, strict=True)]
    return torch.stack([image.median() if len(image) else image.new_tensor(TEMPERED_MARGIN) for image in found])


@dataclass(frozen=True)
class LogitRatio(ValuesAlone):
    """
    The difference of logits ratio (arXiv 2003.01690): margin of the label over a distance of the largest logits.

    Does not change when the logits are scaled or shifted. For logits `(batch, num_labels)`.
    """

    name: str = "dlr"

    def values_and_right(
        self, logits: Tensor, labels: Tensor, step: int = 1, steps: int = 1, targeted: bool = False
    ) -> tuple[Tensor, Tensor]:
        """
        The ratio of each image, and whether its label is predicted (0 or 1).

        `-(z_y - max of the others) / (z_1st - z_3rd)`; where targeted `(z_y - max of the others) / (z_1st - (z_3rd +
        z_4th) / 2)`, whose gradient does not vanish where the target ranks third.

        Raises:
            [`~lrsegformer.errors.InputError`]: for maps of logits, or fewer classes than the ratio needs: three, and
                four where targeted.
        """
        fewest = FEWEST_CLASSES_TARGETED if targeted else FEWEST_CLASSES
        if logits.ndim != 2 or logits.shape[1] < fewest:
            raise InputError(
                f"the objective dlr needs logits (batch, num_labels) of {fewest} classes or more, not "
                f"{tuple(logits.shape)}: attack segmentation models with tempered_jensen_shannon."
            )
        labels = labels.long()
        ranked = logits.sort(dim=1, descending=True).values
        of_label = logits.gather(1, labels[:, None])[:, 0]
        others = logits.scatter(1, labels[:, None], -math.inf).amax(dim=1)
        lower = ranked[:, 2:4].mean(dim=1) if targeted else ranked[:, 2]
        values = (others - of_label) / (ranked[:, 0] - lower).clamp_min(1e-12)
        return (-values if targeted else values), (logits.argmax(dim=1) == labels).long()


tempered_jensen_shannon = TemperedObjective("tempered_jensen_shannon", jensen_shannon)
dlr = LogitRatio()

Objective = PixelObjective | TemperedObjective | LogitRatio
OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        cross_entropy,
        segpgd,
        cospgd,
        jensen_shannon,
        masked_cross_entropy,
        balanced_masked_cross_entropy,
        tempered_jensen_shannon,
        dlr,
    )
}


def find_objective(name: str) -> Objective:
    """The objective of that name; [`~lrsegformer.errors.InputError`] where there is none."""
    if name not in OBJECTIVES:
        raise InputError(f"unknown attack objective {name!r}: the objectives are {', '.join(OBJECTIVES)}.")
    return OBJECTIVES[name]
