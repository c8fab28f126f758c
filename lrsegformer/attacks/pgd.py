"""Projected gradient descent: the plain attack, with any objective."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, nn

from lrsegformer.attacks.base import (
    AttackResult,
    BestIterates,
    check_attack,
    check_labels,
    random_starts,
    value_and_gradient,
)
from lrsegformer.attacks.objectives.table import Objective, find_objective
from lrsegformer.attacks.threat import Threat

# The steps of a run together reach this many radii: far enough to cross the ball, as in arXiv 1706.06083.
REACH = 2.5


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
            sense, and where the model's gradient is not finite.
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


def _scored(
    objective: Objective, logits: Tensor, labels: Tensor, targeted: bool, steps: int = 1
) -> tuple[Tensor, Tensor]:
    return objective.values_and_right(logits, labels, steps, steps, targeted)
