"""An attack by its name on the command line: candidates for each image of a batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lrsegformer.attacks.alma_prox import alma_prox
from lrsegformer.attacks.apgd import apgd
from lrsegformer.attacks.autoattack import auto_attack, square
from lrsegformer.attacks.fmn import minimum_norm_l2
from lrsegformer.attacks.objectives.pixels import counted_pixels
from lrsegformer.attacks.objectives.table import FEWEST_CLASSES, FEWEST_CLASSES_TARGETED
from lrsegformer.attacks.pgd import fgsm, pgd
from lrsegformer.attacks.pixel_model import PixelModel
from lrsegformer.attacks.sea import sea
from lrsegformer.attacks.threat import Threat, image_generator
from lrsegformer.robustness.conditions import Condition
from lrsegformer.robustness.metrics.counting import SparseTable, sparse
from lrsegformer.robustness.subset import Batch

_OBJECTIVES = {"pgd": "cross_entropy", "segpgd": "segpgd", "cospgd": "cospgd"}


@dataclass
class Attacked:
    """
    What an attack made of a batch.

    Attributes:
        images (`torch.Tensor` of shape `(batch, 3, height, width)`): the attacked images, in [0, 1].
        tables (`list`, *optional*): where an attack has several candidates for an image, for each candidate a list of
            the images' tables. Default: made from `images`.
        warnings (`list[str]`): of the attack, for the report.
        distances (`torch.Tensor`, *optional*): `(batch,)`, norm of the smallest perturbation found, in the units of
            the command line's radii; infinite where none was. Of minimum-norm attacks.
        broken_by (`tuple[str, ...]`, *optional*): of AutoAttack, which of its attacks broke each image.
        targets (`torch.Tensor`, *optional*): the labels that a targeted attack aimed at.
    """

    images: Tensor
    tables: list[list[SparseTable]] | None = None
    warnings: list[str] = field(default_factory=list)
    distances: Tensor | None = None
    broken_by: tuple[str, ...] | None = None
    targets: Tensor | None = None


def run_attack(model: PixelModel, batch: Batch, condition: Condition, seed: int) -> Attacked:
    """
    Attack a batch.

    Args:
        model ([`PixelModel`]): on the device of the batch.
        batch ([`~lrsegformer.robustness.subset.Batch`]): clean images and true labels.
        condition ([`~lrsegformer.robustness.conditions.Condition`]): an attack with all its numbers.
        seed (`int`): of random starts and of target classes.
    """
    if condition.radius is None:
        return _minimum_norm(model, batch, condition)
    threat = Threat.parse(condition.norm, condition.radius)
    targets = target_labels(batch.labels, batch.ids, model.num_labels, seed) if condition.targeted else None
    images, labels = batch.images, batch.labels if targets is None else targets
    if condition.name == "fgsm":
        return Attacked(fgsm(model, images, labels, threat, targeted=condition.targeted).images, targets=targets)
    if condition.name in _OBJECTIVES:
        found = pgd(
            model,
            images,
            labels,
            threat,
            condition.steps,
            _OBJECTIVES[condition.name],
            restarts=condition.restarts,
            seed=seed,
            targeted=condition.targeted,
            image_ids=batch.ids,
        )
        return Attacked(found.images, targets=targets)
    if condition.name == "apgd":
        return Attacked(_adaptive(model, images, labels, threat, condition, seed, batch.ids), targets=targets)
    if condition.name == "sea":
        ensemble = sea(model, images, labels, threat, condition.steps, seed=seed, image_ids=batch.ids)
        # The first candidate is the clean image, which the bench has counted.
        tables = [[sparse(table) for table in candidate] for candidate in ensemble.counts.unbind(dim=1)[1:]]
        return Attacked(ensemble.images, tables)
    return _of_packages(model, batch, condition, threat, seed)


def _adaptive(
    model: PixelModel, images: Tensor, labels: Tensor, threat: Threat, condition: Condition, seed: int, ids: list[int]
) -> Tensor:
    """
    [`apgd`] on objectives that the scale of the logits cannot hide, in classification after one on the cross entropy,
    on what that left.
    """
    fewest = FEWEST_CLASSES_TARGETED if condition.targeted else FEWEST_CLASSES
    by_ratio = ("dlr",) if model.num_labels >= fewest else ()
    attacked, rows = images.clone(), torch.arange(len(images), device=images.device)
    for objective in ("tempered_jensen_shannon",) if labels.ndim == 3 else ("cross_entropy", *by_ratio):
        if len(rows) == 0:
            break
        found = apgd(
            model,
            images[rows],
            labels[rows],
            threat,
            condition.steps,
            objective,
            restarts=condition.restarts,
            seed=seed,
            targeted=condition.targeted,
            image_ids=[ids[row] for row in rows.tolist()],
        )
        attacked[rows] = found.images
        rows = rows[found.accuracy != float(condition.targeted)]
    return attacked


def target_labels(labels: Tensor, ids: list[int], num_labels: int, seed: int) -> Tensor:
    """
    A class for each image to be attacked towards, drawn from the classes that are not its commonest one.

    In segmentation the whole map has that class; pixels that do not count stay as they are.
    """
    targets = labels.clone()
    for row, image_id in enumerate(ids):
        counts = labels[row] >= 0 if labels.ndim == 1 else counted_pixels(labels[row], num_labels)
        counted = labels[row][counts]
        commonest = int(torch.bincount(counted.flatten()).argmax()) if counted.numel() else 0
        generator = image_generator(seed, ("target", image_id))
        drawn = int(torch.randint(num_labels - 1, (), generator=generator))
        target = drawn + (drawn >= commonest)
        if labels.ndim == 1:
            targets[row] = target
        else:
            targets[row][counts] = target
    return targets


def _of_packages(model: PixelModel, batch: Batch, condition: Condition, threat: Threat, seed: int) -> Attacked:
    """Attacks on classifiers whose engine draws random numbers for the batch as a whole."""
    if condition.name == "square":
        return Attacked(square(model, batch.images, batch.labels, threat, condition.steps, seed).images)
    found = auto_attack(model, batch.images, batch.labels, threat, seed=seed)
    return Attacked(found.images, warnings=list(found.warnings), broken_by=found.broken_by)


def _minimum_norm(model: PixelModel, batch: Batch, condition: Condition) -> Attacked:
    attack = {"fmn": minimum_norm_l2, "alma_prox": alma_prox}[condition.name]
    found = attack(model, batch.images, batch.labels, condition.steps)
    return Attacked(found.images, distances=found.distances / Threat.parse(condition.norm, 1.0).radius)
