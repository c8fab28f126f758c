"""Smallest linf perturbations that change nearly all of a segmentation, through adv-lib."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lrsegformer.attacks.base import (
    AttackResult,
    check_attack,
    check_labels,
    check_norm,
    only_within,
    share_right,
)
from lrsegformer.attacks.objectives.pixels import counted_pixels
from lrsegformer.attacks.threat import Threat
from lrsegformer.errors import InputError
from lrsegformer.extras import require

# The share of an image's counted pixels that has to be wrong, as in the paper.
WRONG_SHARE = 0.99


@torch.no_grad()
def alma_prox(model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, steps: int = 500) -> AttackResult:
    """
    ALMA prox (Rony, Pesquet and Ben Ayed 2023, arXiv 2206.07179): a proximal augmented Lagrangian, one constraint a
    pixel.

    Args:
        model (`torch.nn.Module`): from images in [0, 1] to maps of logits of any resolution; in eval mode.
        images (`torch.Tensor` of shape `(batch, 3, height, width)`): in [0, 1]. The precision of the proximal step
            hangs on the batch: another split gives another, equally valid, result.
        labels (`torch.Tensor` of shape `(batch, label_height, label_width)`): as for [`pgd`].
        threat ([`Threat`]): in linf. A perturbation outside the ball counts as none; [`Threat.unlimited`] lets all
            count.
        steps (`int`, *optional*, defaults to 500): forward and backward passes.

    Returns:
        [`AttackResult`]: for each image the perturbed image with the smallest linf norm at which 99 % of the pixels
        that count are wrong, and in `distances` that norm. Where no such image was found, the one with the most wrong
        pixels and its norm. Nothing is found for an image without a counted pixel.

    Raises:
        [`~lrsegformer.errors.InputError`]: images or labels of the wrong kind, or adv-lib cannot be imported.
    """
    package = require("adv_lib.attacks.segmentation")
    check_norm("alma_prox", threat, "linf")
    if labels.ndim != 3:
        raise InputError(
            f"labels of shape {tuple(labels.shape)}: ALMA prox attacks segmentation; for classes use fmn."
        )
    check_attack(images, labels, steps, 1, random_start=True, step_size=None)
    logits = model(images)
    check_labels(labels, logits)
    counted = counted_pixels(labels, logits.shape[1])
    found = images.clone()
    rows = counted.flatten(1).any(dim=1).nonzero().flatten()
    if len(rows):
        targets = torch.where(counted, labels.long(), 0)[rows]
        with torch.enable_grad():
            found[rows] = package.alma_prox(
                lambda points: functional.interpolate(model(points), targets.shape[1:], mode="bilinear"),
                images[rows],
                targets,
                masks=counted[rows],
                adv_threshold=WRONG_SHARE,
                num_steps=steps,
            ).clamp(0, 1)
    distances = threat.distance(found, images).masked_fill(~counted.flatten(1).any(dim=1), torch.inf)
    found, distances = only_within(threat, images, found, distances)
    return AttackResult(found, share_right(model, found, labels), distances=distances)
