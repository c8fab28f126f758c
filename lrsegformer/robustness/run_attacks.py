"""An attack by its name on the command line: candidates for each image of a batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lrsegformer.robustness.apgd import apgd
from lrsegformer.robustness.cells import Condition
from lrsegformer.robustness.classification import auto_attack, minimum_norm_l2, square
from lrsegformer.robustness.counting import SparseTable, sparse
from lrsegformer.robustness.losses import IGNORE_INDEX
from lrsegformer.robustness.pgd import fgsm, pgd
from lrsegformer.robustness.pixel_model import PixelModel
from lrsegformer.robustness.sea import sea
from lrsegformer.robustness.subset import Batch
from lrsegformer.robustness.threat import Threat, image_generator

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
        distances (`torch.Tensor`, *optional*): `(batch,)`, norm of the smallest perturbation found; infinite where
            none was. Of minimum-norm attacks.
        targets (`torch.Tensor`, *optional*): the labels that a targeted attack aimed at.
    """

    images: Tensor
    tables: list[list[SparseTable]] | None = None
    warnings: list[str] = field(default_factory=list)
    distances: Tensor | None = None
    targets: Tensor | None = None


def run_attack(model: PixelModel, batch: Batch, condition: Condition, seed: int) -> Attacked:
    """
    Attack a batch.

    Args:
        model ([`PixelModel`]): on the device of the batch.
        batch ([`~lrsegformer.robustness.subset.Batch`]): clean images and true labels.
        condition ([`~lrsegformer.robustness.cells.Condition`]): an attack with all its numbers.
        seed (`int`): of random starts and of target classes.
    """
    if condition.name == "fmn":
        return _minimum_norm(model, batch, condition.steps)
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
        # Losses that a small scale of the logits cannot hide: the ratio of logits needs three classes.
        objective = "jensen_shannon" if labels.ndim == 3 else "dlr" if model.num_labels > 2 else "cross_entropy"
        found = apgd(
            model,
            images,
            labels,
            threat,
            condition.steps,
            objective,
            restarts=condition.restarts,
            seed=seed,
            targeted=condition.targeted,
            image_ids=batch.ids,
        )
        return Attacked(found.images, targets=targets)
    if condition.name == "sea":
        ensemble = sea(model, images, labels, threat, condition.steps, seed=seed, image_ids=batch.ids)
        # The first candidate is the clean image, which the bench has counted.
        tables = [[sparse(table) for table in candidate] for candidate in ensemble.counts.unbind(dim=1)[1:]]
        return Attacked(ensemble.images, tables)
    return _of_packages(model, batch, condition, threat, seed)


def target_labels(labels: Tensor, ids: list[int], num_labels: int, seed: int) -> Tensor:
    """
    A class for each image to be attacked towards, drawn from the classes that are not its commonest one.

    In segmentation the whole map has that class; pixels that do not count stay as they are.
    """
    targets = labels.clone()
    for row, image_id in enumerate(ids):
        counted = labels[row][(labels[row] >= 0) & ((labels[row] != IGNORE_INDEX) | (labels.ndim == 1))]
        commonest = int(torch.bincount(counted.flatten()).argmax()) if counted.numel() else 0
        generator = image_generator(seed, ("target", image_id))
        drawn = int(torch.randint(num_labels - 1, (), generator=generator))
        target = drawn + (drawn >= commonest)
        if labels.ndim == 1:
            targets[row] = target
        else:
            targets[row][(labels[row] >= 0) & (labels[row] != IGNORE_INDEX)] = target
    return targets


def _of_packages(model: PixelModel, batch: Batch, condition: Condition, threat: Threat, seed: int) -> Attacked:
    """Attacks on classifiers whose engine draws random numbers for the batch as a whole."""
    if condition.name == "square":
        return Attacked(square(model, batch.images, batch.labels, threat, condition.steps, seed).images)
    found = auto_attack(model, batch.images, batch.labels, threat, seed=seed)
    return Attacked(found.images, warnings=list(found.warnings))


def _minimum_norm(model: PixelModel, batch: Batch, steps: int) -> Attacked:
    found = minimum_norm_l2(model, batch.images, batch.labels, steps)
    return Attacked(found.images, distances=found.distances)
