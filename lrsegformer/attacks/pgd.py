"""Projected gradient descent: the plain attack, with any objective, and the bookkeeping that attacks share."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lrsegformer.attacks.objectives.pixels import counted_pixels
from lrsegformer.attacks.objectives.table import Objective, find_objective
from lrsegformer.attacks.threat import Threat, image_generator
from lrsegformer.errors import InputError

# The steps of a run together reach this many radii: far enough to cross the ball, as in arXiv 1706.06083.
REACH = 2.5


class AttackResult(NamedTuple):
    """
    What an attack found for each image.

    Attributes:
        images (`torch.Tensor` of shape `(batch, channels, height, width)`): the attacked images.
        values (`torch.Tensor` of shape `(batch,)`): the objective there.
        accuracy (`torch.Tensor` of shape `(batch,)`): share, in float64, of the counted pixels whose label (where
            targeted: the target) is predicted there. 0 where no pixel counts.
    """

    images: Tensor
    values: Tensor
    accuracy: Tensor


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

    def unfinished(self) -> Tensor:
        """The rows `(images,)` that have pixels left to win."""
        return self.remaining.nonzero().flatten()

    def result(self) -> AttackResult:
        """The best images, their values, and their accuracy."""
        right = self.counted - self.remaining if self.targeted else self.remaining
        return AttackResult(self.images, self.values, right.double() / self.counted.clamp_min(1))


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

    Raises `RuntimeError` where the gradient is not finite: an attack that goes nowhere must not pass for robustness.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        values, right = objective.values_and_right(model(images), labels, step, steps, targeted)
        (gradient,) = torch.autograd.grad(values.sum(), images)
    check_finite(gradient)
    return values.detach(), right, gradient


def check_finite(gradient: Tensor) -> None:
    """Raise `RuntimeError` for a gradient with NaN or infinity: the sign of NaN is 0, and the attack would stand."""
    if not torch.isfinite(gradient).all():
        raise RuntimeError(
            "the gradient of the attack's objective is not finite: the model cannot be attacked with it."
        )


@torch.no_grad()
def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    steps: int,
    objective: Objective | str = "cross_entropy",
    step_size: float | None = None,
    restarts: int = 1,
    seed: int = 0,
    random_start: bool = True,
    targeted: bool = False,
    image_ids: Sequence[Hashable] | None = None,
) -> AttackResult:
    """
    Projected gradient ascent of an objective (arXiv 1706.06083), image by image.

    The clean image is always a candidate and the best candidate is kept, so no image's accuracy rises. An image is
    left alone as soon as every counted pixel is won.

    Args:
        model (`torch.nn.Module`): from images in [0, 1] to logits, such as [`PixelModel`]; in eval mode.
        images (`torch.Tensor` of shape `(batch, channels, height, width)`): clean images in [0, 1].
        labels (`torch.Tensor`): `(batch,)` classes, or `(batch, label_height, label_width)` maps in which negative
            values and, up to 255 classes, 255 do not count. Where targeted, the classes to be predicted.
        threat ([`Threat`]): the ball.
        steps (`int`): gradient steps of a run; one step takes one forward and one backward pass.
        objective (a value of `OBJECTIVES` or its name, *optional*): what is maximised.
        step_size (`float`, *optional*): length of a step in the norm of the threat, in [0, 1] pixel units; by default
            2.5 radii over the number of steps, and at most one radius.
        restarts (`int`): runs, each from another random start.
        seed (`int`): of the random starts, which are drawn for each image by itself.
        random_start (`bool`): start at a random point of the ball, not at the clean image.
        targeted (`bool`): move predictions to `labels`.
        image_ids (sequence, *optional*): what names the images in their data set, so that random starts do not depend
            on how the data set is cut into batches; by default the positions in this batch.

    Returns:
        [`AttackResult`]: inside the ball and the box to 1e-6, which is checked.

    Raises:
        [`~lrsegformer.errors.InputError`]: for images outside [0, 1], labels that are no classes, or options without
            sense. `RuntimeError` where the model's gradient is not finite.
    """
    objective = find_objective(objective) if isinstance(objective, str) else objective
    check_attack(images, labels, steps, restarts, random_start, step_size)
    image_ids = range(len(images)) if image_ids is None else image_ids
    step_size = threat.radius * min(1.0, REACH / steps) if step_size is None else step_size
    logits = model(images)
    check_labels(labels, logits)
    best = BestIterates(images, labels, logits.shape[1], targeted)
    best.consider(
        torch.arange(len(images), device=images.device), images, *_scored(objective, logits, labels, targeted)
    )
    for restart in range(restarts):
        rows = best.unfinished()
        current = images[rows]
        if random_start:
            current = random_starts(threat, current, [image_ids[row] for row in rows.tolist()], seed, restart)
        for step in range(1, steps + 1):
            if len(rows) == 0:
                break
            values, right, gradient = value_and_gradient(
                model, current, labels[rows], objective, step, steps, targeted
            )
            best.consider(rows, current, values, right)
            unfinished = best.remaining[rows] > 0
            rows, current, gradient = rows[unfinished], current[unfinished], gradient[unfinished]
            current = threat.project(current + step_size * threat.step(gradient), images[rows])
        if len(rows):
            best.consider(rows, current, *_scored(objective, model(current), labels[rows], targeted, steps))
    threat.verify(best.images, images)
    return best.result()


def fgsm(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    objective: Objective | str = "cross_entropy",
    targeted: bool = False,
) -> AttackResult:
    """The fast gradient sign method (arXiv 1412.6572): [`pgd`] with one full step from the clean image."""
    return pgd(model, images, labels, threat, 1, objective, random_start=False, targeted=targeted)


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


def _scored(
    objective: Objective, logits: Tensor, labels: Tensor, targeted: bool, steps: int = 1
) -> tuple[Tensor, Tensor]:
    return objective.values_and_right(logits, labels, steps, steps, targeted)
