"""The fast gradient sign method: one full step."""

from __future__ import annotations

from torch import Tensor, nn

from lrsegformer.attacks.base import AttackResult
from lrsegformer.attacks.objectives.table import Objective
from lrsegformer.attacks.pgd import pgd
from lrsegformer.attacks.threat import Threat


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
