"""What attacks share: their result, the bookkeeping of the best image, and what no attack can work with."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lrsegformer.attacks.objectives.pixels import counted_pixels, cross_entropy
from lrsegformer.attacks.objectives.table import Objective
from lrsegformer.attacks.threat import TOLERANCE, Threat, image_generator
from lrsegformer.errors import InputError, NotFiniteError


@dataclass(frozen=True)
class AttackResult:
    """
    What an attack found for each image. All attacks give one; what an attack does not know is `None`.

    Attributes:
        images (`torch.Tensor` of shape `(batch, channels, height, width)`): the attacked images, inside the threat.
        accuracy (`torch.Tensor` of shape `(batch,)`): share, in float64, of the counted pixels whose label (where
            targeted: the target) is predicted there. 0 where no pixel counts.
        values (`torch.Tensor` of shape `(batch,)`, *optional*): the objective there.
        counts (`torch.Tensor` of shape `(batch, candidates, num_labels, num_labels)`, int64, *optional*): of an attack
            with several candidates for each image, the confusion table of each, on the CPU; the clean image's first.
            Row = reference.
        distances (`torch.Tensor` of shape `(batch,)`, float64, *optional*): of an attack that looks for the smallest
            perturbation, its norm in [0, 1] pixel units: 0 for an image that is wrong by itself, infinite where none
            was found. Upper bounds of the true minimum.
        broken_by (`tuple[str, ...]`, *optional*): of an attack made of several, for each image `"clean"` where it was
            wrong by itself, the attack that broke it, or `"nothing"`.
        robust_after (`dict[str, float]`, *optional*): of the same, the share of images that are right by themselves
            (`"clean"`) and then after each attack in its order.
        warnings (`tuple[str, ...]`): what has to be reported beside the numbers.
        targets (`torch.Tensor`, *optional*): the labels that were aimed at, where they were drawn; see
            [`~lrsegformer.attacks.run.run_attack`].
    """

    images: Tensor
    accuracy: Tensor
    values: Tensor | None = None
    counts: Tensor | None = None
    distances: Tensor | None = None
    broken_by: tuple[str, ...] | None = None
    robust_after: dict[str, float] | None = None
    warnings: tuple[str, ...] = ()
    targets: Tensor | None = None

    def accuracy_at(self, radii: Sequence[float]) -> list[float]:
        """The share of images with no perturbation found within each radius; it never rises with the radius."""
        return [float((self.distances > radius).double().mean()) for radius in radii]


class BestIterates:
    """
    The best image so far of each clean one: fewest pixels left to win, then the largest value of the objective.

    Args:
        clean (`torch.Tensor` of shape `(batch, channels, height, width)`): what stands until something is considered.
        labels (`torch.Tensor`): `(batch,)`, or `(batch, label_height, label_width)`.
        num_labels (`int`): number of classes of the model.
        targeted (`bool`): a pixel is won when its label is predicted, not when it is not.

    Attributes:
        remaining (`torch.Tensor` of shape `(batch,)`, int64): pixels left to win, of the best image.
    """

    def __init__(self, clean: Tensor, labels: Tensor, num_labels: int, targeted: bool = False):
        self.targeted = targeted
        self.images = clean.detach().clone()
        self.counted = count_pixels(labels, num_labels)
        self.remaining = self.counted.clone()
        self.values = torch.full((len(clean),), -torch.inf, dtype=torch.float64, device=clean.device)

    def consider(self, rows: Tensor, images: Tensor, values: Tensor, right: Tensor) -> None:
        """
        Keep each of `images` that is better than the best of its row of the batch.

        Args:
            rows (`torch.Tensor` of shape `(images,)`, int64): which clean image each belongs to.
            images (`torch.Tensor` of shape `(images, channels, height, width)`), values (`torch.Tensor` of shape
                `(images,)`), right (`torch.Tensor` of shape `(images,)`): as an objective's `values_and_right` gives.
        """
        remaining = self.counted[rows] - right if self.targeted else right
        values = values.detach().double()
        tied = remaining == self.remaining[rows]
        better = (remaining < self.remaining[rows]) | (tied & (values > self.values[rows]))
        chosen = rows[better]
        self.images[chosen] = images.detach()[better]
        self.values[chosen] = values[better]
        self.remaining[chosen] = remaining[better]

    def consider_found(self, model: nn.Module, images: Tensor, labels: Tensor, rows: Tensor | None = None) -> None:
        """Keep what is better of images that another package found, by the cross entropy; of all rows by default."""
        rows = torch.arange(len(images), device=images.device) if rows is None else rows
        self.consider(rows, images, *cross_entropy.values_and_right(model(images), labels))

    def unfinished(self) -> Tensor:
        """The rows `(images,)` that have pixels left to win."""
        return self.remaining.nonzero().flatten()

    def result(self) -> AttackResult:
        """The best images, their values, and their accuracy."""
        right = self.counted - self.remaining if self.targeted else self.remaining
        return AttackResult(self.images, right.double() / self.counted.clamp_min(1), self.values)


def count_pixels(labels: Tensor, num_labels: int) -> Tensor:
    """How many pixels of each image count, `(batch,)` int64: 1 in classification."""
    if labels.ndim == 1:
        return torch.ones_like(labels, dtype=torch.int64)
    return counted_pixels(labels, num_labels).flatten(1).sum(dim=1)


def value_and_gradient(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    objective: Objective,
    step: int = 1,
    steps: int = 1,
    targeted: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """
    The objective's values and right pixels `(batch,)`, and the gradient of the values in the images.

    Raises [`~lrsegformer.errors.NotFiniteError`] where the gradient is not finite: an attack that goes nowhere must
    not pass for robustness.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        values, right = objective.values_and_right(model(images), labels, step, steps, targeted)
        (gradient,) = torch.autograd.grad(values.sum(), images)
    check_finite(gradient)
    return values.detach(), right, gradient


def check_finite(gradient: Tensor) -> None:
    """
    Raise [`~lrsegformer.errors.NotFiniteError`] for a gradient with NaN or infinity: the sign of NaN is 0, and the
    attack would stand.
    """
    if not torch.isfinite(gradient).all():
        raise NotFiniteError(
            "the gradient of the attack's objective is not finite, and an attack along it would stand still: give an "
            "earlier checkpoint of the model."
        )


def random_starts(threat: Threat, clean: Tensor, image_ids: Sequence[Hashable], seed: int, restart: int = 0) -> Tensor:
    """A random point of each image's ball, drawn by the image's own generator."""
    starts = [
        threat.random_start(clean[row : row + 1], image_generator(seed, image_id, restart))
        for row, image_id in enumerate(image_ids)
    ]
    return torch.cat(starts) if starts else clean


def check_attack(
    images: Tensor, labels: Tensor, steps: int, restarts: int, random_start: bool, step_size: float | None
) -> None:
    """Raise [`~lrsegformer.errors.InputError`] for what no attack can work with."""
    if len(images) != len(labels):
        raise InputError(f"{len(images)} images and {len(labels)} labels: an attack needs a label for each image.")
    if images.numel() and not (images.min() >= 0 and images.max() <= 1):
        raise InputError(
            f"images from {float(images.min()):.4g} to {float(images.max()):.4g}: attacks take pixels in [0, 1], "
            "before the processor's normalisation."
        )
    if steps < 1 or restarts < 1 or (step_size is not None and not step_size > 0):
        raise InputError(f"steps {steps}, restarts {restarts}, step size {step_size}: each has to be positive.")
    if restarts > 1 and not random_start:
        raise InputError(f"{restarts} restarts without random starts are all the same run: use one of the two.")


def check_labels(labels: Tensor, logits: Tensor) -> None:
    """Raise [`~lrsegformer.errors.InputError`] for labels that are no classes of the model, or logits no numbers."""
    if not torch.isfinite(logits).all():
        raise InputError("the model's logits of clean images are not finite: check the checkpoint.")
    if logits.shape[1] < 2:
        raise InputError("the model has one class: attacks need two classes or more.")
    counted = labels if labels.ndim == 1 else labels[counted_pixels(labels, logits.shape[1])]
    if counted.numel() and not (counted.min() >= 0 and counted.max() < logits.shape[1]):
        raise InputError(
            f"labels from {int(counted.min())} to {int(counted.max())}, but the model has {logits.shape[1]} classes: "
            "attack it on the data set that it was trained for."
        )


def check_classifier(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The logits of images and labels that an attack on a classifier can work with."""
    if labels.ndim != 1:
        raise InputError(
            f"labels of shape {tuple(labels.shape)}: this attack is for classification; for maps use sea."
        )
    check_attack(images, labels, 1, 1, random_start=True, step_size=None)
    logits = model(images)
    check_labels(labels, logits)
    return logits


def check_norm(name: str, threat: Threat, *norms: str) -> None:
    """Raise [`~lrsegformer.errors.InputError`] where the threat's norm is none of those that an attack has."""
    if threat.norm not in norms:
        raise InputError(
            f"the attack {name} has {'the norm' if len(norms) == 1 else 'the norms'} {' and '.join(norms)} alone, not "
            f"{threat.norm}: give a threat in {' or '.join(norms)}."
        )


def share_right(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The share of each image's counted pixels whose label is predicted, `(batch,)` float64."""
    logits = model(images)
    right = cross_entropy.values_and_right(logits, labels)[1]
    return right.double() / count_pixels(labels, logits.shape[1]).clamp_min(1)


def only_within(threat: Threat, clean: Tensor, found: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
    """
    Images that were moved no farther than allowed, and their distances: an image whose smallest perturbation lies
    outside the ball counts as one for which none was found, and stays clean.
    """
    outside = distances > threat.radius + TOLERANCE
    images = torch.where(outside.view(-1, *(1,) * (clean.ndim - 1)), clean, found)
    threat.verify(images, clean)
    return images, distances.masked_fill(outside, torch.inf)
