"""The Square attack, AutoAttack's black box, through the package of AutoAttack."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lrsegformer.attacks.base import AttackResult, BestIterates, check_attack, check_classifier, check_norm
from lrsegformer.attacks.threat import Threat
from lrsegformer.extras import require

# What the package calls the norms.
NORM_NAMES = {"linf": "Linf", "l2": "L2"}


@torch.no_grad()
def square(
    model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, steps: int = 5000, seed: int = 0
) -> AttackResult:
    """
    The Square attack (Andriushchenko et al. 2020, arXiv 1912.00049) through pyautoattack, with AutoAttack's options.

    A black box: random search that sees no gradient. Where it finds more than gradient attacks, those are masked.

    Args:
        steps (`int`, *optional*, defaults to 5000): queries, which are forward passes, an image.
        model, images, labels, threat, seed: as for [`~lrsegformer.attacks.packages.autoattack.auto_attack`].

    Returns:
        [`AttackResult`]: the values are cross entropies.

    Raises:
        [`~lrsegformer.errors.InputError`]: as [`~lrsegformer.attacks.packages.autoattack.auto_attack`].
    """
    require("pyautoattack")
    module = require("pyautoattack.square")
    check_norm("square", threat, *NORM_NAMES)
    labels = labels.long()
    check_attack(images, labels, steps, 1, random_start=True, step_size=None)
    num_labels = check_classifier(model, images, labels).shape[1]
    ball = {"norm": NORM_NAMES[threat.norm], "eps": threat.radius, "device": images.device}
    attack = module.SquareAttack(model, n_queries=steps, p_init=0.8, seed=seed, resc_schedule=False, **ball)
    best = BestIterates(images, labels, num_labels)
    best.consider_found(model, images, labels)
    with kept_random_state(images.device):
        found = attack.perturb(images, labels)
    best.consider_found(model, threat.project(found, images), labels)
    threat.verify(best.images, images)
    return best.result()


def kept_random_state(device: torch.device) -> Any:
    """A context after which torch's own random state is as it was."""
    if device.type == "cpu":
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng(devices=[device], device_type=device.type)
