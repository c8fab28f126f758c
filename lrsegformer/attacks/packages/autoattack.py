"""AutoAttack, the ensemble that the field compares classifiers by, through the package of that name."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lrsegformer.attacks.base import AttackResult, BestIterates, check_classifier, check_norm
from lrsegformer.attacks.packages.square import NORM_NAMES, kept_random_state
from lrsegformer.attacks.threat import Threat
from lrsegformer.errors import InputError
from lrsegformer.extras import require

AUTO_ATTACK_VERSIONS = ("standard", "plus", "rand")
UNBROKEN = "nothing"
_POINTS = re.compile(r"there are \d+ points")
# The difference of logits ratio looks at the three largest logits, the targeted one at four.
_FEWEST_CLASSES = {"apgd-dlr": 3, "apgd-t": 4}


@torch.no_grad()
def auto_attack(
    model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, version: str = "standard", seed: int = 0
) -> AttackResult:
    """
    AutoAttack (Croce and Hein 2020, arXiv 2003.01690) through pyautoattack, each attack on what those before it left.

    Its flags (randomised defence, outputs that are probabilities, zero gradients) are in the result and have to be
    reported, as has [`square_flags`]. With fewer than 10 classes the targeted attacks take all the others for
    targets instead of 9, and with fewer than four the targeted APGD is not defined and left out; both are said there.

    Args:
        model (`torch.nn.Module`): from images in [0, 1] to logits, such as [`PixelModel`]; in eval mode.
        images (`torch.Tensor` of shape `(batch, channels, height, width)`): in [0, 1]. The batch is run as one and
            random numbers are drawn for all of it: another split gives another, equally valid, result.
        labels (`torch.Tensor` of shape `(batch,)`): true classes.
        threat ([`Threat`]): the ball.
        version (`str`, *optional*, defaults to `"standard"`): or `"plus"`, `"rand"`.
        seed (`int`): torch's own random state is left as it was.

    Returns:
        [`AttackResult`]: inside the ball and the box to 1e-6, which is checked. The image is the clean one where that
        broke nothing; `broken_by` and `robust_after` have the names of AutoAttack's parts. `warnings` are its flags,
        in its words but for counts of a batch, and what had to differ from its standard; the flag on Square is one of
        a whole data set: [`square_flags`].

    Raises:
        [`~lrsegformer.errors.InputError`]: an unknown version, labels or images of the wrong kind, or no pyautoattack.
    """
    if version not in AUTO_ATTACK_VERSIONS:
        raise InputError(f"AutoAttack's version {version!r}: choose one of {', '.join(AUTO_ATTACK_VERSIONS)}.")
    package = require("pyautoattack")
    check_norm("autoattack", threat, *NORM_NAMES)
    labels = labels.long()
    num_labels = check_classifier(model, images, labels).shape[1]
    attacker = package.AutoAttack(
        model, eps=threat.radius, norm=NORM_NAMES[threat.norm], version=version, seed=seed, device=images.device
    )
    notes = _fit_to_classes(attacker, num_labels)
    best = BestIterates(images, labels, num_labels)
    best.consider_found(model, images, labels)
    broken_by = ["clean" if right == 0 else UNBROKEN for right in best.remaining.tolist()]
    after = {"clean": float(best.result().accuracy.mean())}
    with kept_random_state(images.device), _flags(attacker.logger) as flags:
        for name in attacker.attacks_to_run[:]:
            rows = best.unfinished()
            if len(rows):
                attacker.attacks_to_run = [name]
                found, _ = attacker.run_standard_evaluation(images[rows], labels[rows], batch_size=len(rows))
                best.consider_found(model, threat.project(found, images[rows]), labels[rows], rows)
            after[name] = float(best.result().accuracy.mean())
            for row in rows.tolist():
                broken_by[row] = UNBROKEN if best.remaining[row] else name
    threat.verify(best.images, images)
    warnings = tuple(dict.fromkeys([*notes, *(_POINTS.sub("there are points", flag) for flag in flags)]))
    return replace(best.result(), broken_by=tuple(broken_by), robust_after=after, warnings=warnings)


def square_flags(broken_by: Sequence[str]) -> list[str]:
    """
    AutoAttack's flag where Square, last and blind, breaks more than 0.2 % of the images that all others left.

    Args:
        broken_by (`Sequence[str]`): of every image of the data set; see [`AttackResult`].
    """
    package = require("pyautoattack")
    by_square, left = (broken_by.count(name) / len(broken_by) for name in ("square", UNBROKEN))
    logger = logging.Logger("square")
    with _flags(logger) as flags:
        shares = {"clean": 1.0, "gradients": left + by_square, "square": left}
        package.autoattack.checks.check_square_sr(shares, logger=logger)
    return flags


def _fit_to_classes(attacker: Any, num_labels: int) -> list[str]:
    """Set what the standard has no place for in few classes; what was changed, in words."""
    notes = []
    targets = min(attacker.apgd_targeted.n_target_classes, num_labels - 1)
    if targets < attacker.apgd_targeted.n_target_classes:
        notes.append(f"{num_labels} classes: the targeted attacks have {targets} targets, not 9.")
    attacker.apgd_targeted.n_target_classes = attacker.fab.n_target_classes = targets
    undefined = {name for name, fewest in _FEWEST_CLASSES.items() if num_labels < fewest}
    for name in [name for name in attacker.attacks_to_run if name in undefined]:
        notes.append(f"{num_labels} classes: {name} is not defined and was left out.")
        attacker.attacks_to_run = [other for other in attacker.attacks_to_run if other != name]
    return notes


@contextmanager
def _flags(logger: logging.Logger) -> Iterator[list[str]]:
    """Collects what a logger warns of, instead of showing it. AutoAttack also removes the process's trace function."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    collector, trace, propagated = Collector(level=logging.WARNING), sys.gettrace(), logger.propagate
    logger.addHandler(collector)
    logger.propagate = False
    try:
        yield messages
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagated
        sys.settrace(trace)
