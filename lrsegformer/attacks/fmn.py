"""The smallest perturbations that break a classifier, through foolbox's FMN."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lrsegformer.attacks.autoattack import check_classifier
from lrsegformer.attacks.pgd import check_attack
from lrsegformer.attacks.threat import Threat
from lrsegformer.extras import require

# FMN aims at the boundary of the linearised model. Where pixels meet the box it falls a little short each time, and
# never crosses; this much further it does, and the radius then shrinks by its own rule.
_OVERSHOOT = 1.05


class MinimumNormResult(NamedTuple):
    """
    The smallest perturbations found.

    Attributes:
        images (`torch.Tensor` of shape `(batch, channels, height, width)`): clean where none was found.
        distances (`torch.Tensor` of shape `(batch,)`, float64): their norms in [0, 1] pixel units: 0 for an image that
            is wrong by itself, infinite where no perturbation was found. Upper bounds of the true minimum.
    """

    images: Tensor
    distances: Tensor

    def accuracy_at(self, radii: Sequence[float]) -> list[float]:
        """The share of images with no perturbation found within each radius; it never rises with the radius."""
        return [float((self.distances > radius).double().mean()) for radius in radii]


@torch.no_grad()
def minimum_norm_l2(model: nn.Module, images: Tensor, labels: Tensor, steps: int = 200) -> MinimumNormResult:
    """
    Smallest l2 perturbations by the Fast Minimum-Norm attack (Pintor et al. 2021, arXiv 2102.12827) through foolbox.

    One run gives the curve of accuracy against radius ([`MinimumNormResult.accuracy_at`]). foolbox 3.3.4 leaves out
    the projection to the l2 ball, without which the attack is far from minimal; it is put in here, to a ball 5 %
    larger than the attack's estimate, so that it crosses the boundary where pixels are at 0 or 1 as well.

    Args:
        steps (`int`, *optional*, defaults to 200): forward and backward passes an image.
        model, images, labels: as for [`~lrsegformer.attacks.autoattack.auto_attack`], which also says what is
            refused.
    """
    foolbox = require("foolbox")
    labels = labels.long()
    check_attack(images, labels, steps, 1, random_start=True, step_size=None)
    clean_right = check_classifier(model, images, labels).argmax(dim=1) == labels
    attack = _projecting(foolbox)(steps=steps)
    with torch.enable_grad():
        target = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)
        found = attack.run(target, images, foolbox.criteria.Misclassification(labels)).detach()
    finite = found.isfinite().flatten(1).all(dim=1)
    found = torch.where(finite[:, None, None, None], found, images).clamp(0, 1)
    broken = model(found).argmax(dim=1) != labels
    distances = Threat("l2", 0.0).distance(found, images)
    distances = torch.where(broken, distances, torch.inf).masked_fill(~clean_right, 0.0)
    kept = (broken & clean_right)[:, None, None, None]
    return MinimumNormResult(torch.where(kept, found, images), distances)


def _projecting(foolbox: ModuleType) -> type:
    """foolbox's attack with the projection of arXiv 2102.12827, algorithm 1."""

    class ProjectingL2FMNAttack(foolbox.attacks.L2FMNAttack):
        def project(self, x: Any, x0: Any, epsilon: Any) -> Any:
            lengths = (x - x0).flatten(start=1).norms.l2(axis=-1).maximum(1e-12)
            factors = (epsilon * _OVERSHOOT / lengths).minimum(1)
            return x0 + (x - x0) * factors.reshape((-1, *(1,) * (x.ndim - 1)))

    return ProjectingL2FMNAttack
