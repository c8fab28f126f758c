"""The smallest perturbations that break a classifier, through foolbox's FMN."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from lrsegformer.attacks.base import AttackResult, check_attack, check_classifier, check_norm, only_within
from lrsegformer.attacks.threat import Threat
from lrsegformer.extras import require

# FMN aims at the boundary of the linearised model. Where pixels meet the box it falls a little short each time, and
# never crosses; this much further it does, and the radius then shrinks by its own rule.
_OVERSHOOT = 1.05


@torch.no_grad()
def fmn(model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, steps: int = 200) -> AttackResult:
    """
    Smallest l2 perturbations by the Fast Minimum-Norm attack (Pintor et al. 2021, arXiv 2102.12827) through foolbox.

    One run gives the curve of accuracy against radius ([`AttackResult.accuracy_at`]). foolbox 3.3.4 leaves out the
    projection to the l2 ball, without which the attack is far from minimal; it is put in here, to a ball 5 % larger
    than the attack's estimate, so that it crosses the boundary where pixels are at 0 or 1 as well.

    Args:
        threat ([`Threat`]): in l2. A perturbation outside the ball counts as none; [`Threat.unlimited`] lets all
            count.
        steps (`int`, *optional*, defaults to 200): forward and backward passes an image.
        model, images, labels: as for [`~lrsegformer.attacks.packages.autoattack.auto_attack`], which also says what is
            refused.

    Returns:
        [`AttackResult`]: with `distances`. The image is the clean one where none was found or needed.
    """
    foolbox = require("foolbox")
    check_norm("fmn", threat, "l2")
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
    distances = torch.where(broken, threat.distance(found, images), torch.inf).masked_fill(~clean_right, 0.0)
    found = torch.where((broken & clean_right)[:, None, None, None], found, images)
    found, distances = only_within(threat, images, found, distances)
    return AttackResult(found, (clean_right & distances.isinf()).double(), distances=distances)


def _projecting(foolbox: ModuleType) -> type:
    """foolbox's attack with the projection of arXiv 2102.12827, algorithm 1."""

    class ProjectingL2FMNAttack(foolbox.attacks.L2FMNAttack):
        def project(self, x: Any, x0: Any, epsilon: Any) -> Any:
            lengths = (x - x0).flatten(start=1).norms.l2(axis=-1).maximum(1e-12)
            factors = (epsilon * _OVERSHOOT / lengths).minimum(1)
            return x0 + (x - x0) * factors.reshape((-1, *(1,) * (x.ndim - 1)))

    return ProjectingL2FMNAttack
