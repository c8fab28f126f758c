"""The segmentation ensemble attack: three objectives, the worst of them for each image and for the data set."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from lrsegformer.attacks.apgd import RadiusSchedule, apgd
from lrsegformer.attacks.base import AttackResult
from lrsegformer.attacks.pixel_model import PixelModel
from lrsegformer.attacks.threat import Threat
from lrsegformer.data.labels import ignore_index_of
from lrsegformer.errors import InputError
from lrsegformer.evaluation.confusion import confusion_counts

SEA_OBJECTIVES = ("jensen_shannon", "masked_cross_entropy", "balanced_masked_cross_entropy")
# Radii and shares of the steps: 3:3:4.
SEA_RADII: RadiusSchedule = ((2.0, 0.3), (1.5, 0.3), (1.0, 0.4))
# Candidates of each image, in the order of the tables.
SEA_CANDIDATES = ("clean", *SEA_OBJECTIVES)


def sea(
    model: PixelModel,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    steps: int = 300,
    seed: int = 0,
    image_ids: Sequence[Hashable] | None = None,
) -> AttackResult:
    """
    The segmentation ensemble attack (Croce, Singh and Hein 2024, arXiv 2306.12941).

    Each of the three objectives by [`apgd`] with radius reduction: 30 % of the steps at twice the radius, 30 % at 1.5
    radii, the rest inside the threat. The attacks are the paper's; progress on the masked objectives is measured as
    [`apgd`] says. It has no black-box part, so it may overrate a model that masks its gradients.

    Args:
        model ([`PixelModel`]): of a segmentation model.
        images (`torch.Tensor` of shape `(batch, 3, height, width)`): clean images in [0, 1].
        labels (`torch.Tensor` of shape `(batch, label_height, label_width)`): as for [`pgd`].
        threat ([`Threat`]): the ball.
        steps (`int`, *optional*, defaults to 300): of each of the three attacks.
        seed (`int`), image_ids (sequence, *optional*): of the random starts; see [`pgd`].

    Returns:
        [`AttackResult`]: the candidate of the lowest accuracy, which is at most that of the clean image and of each
        attack, image by image. `counts` has the tables of all candidates, as in `SEA_CANDIDATES`.

    Raises:
        [`~lrsegformer.errors.InputError`]: as [`pgd`], and for a classification model.
    """
    if labels.ndim != 3:
        raise InputError(
            f"labels of shape {tuple(labels.shape)}: SEA attacks segmentation; for classes there is apgd."
        )
    candidates = [images]
    for objective in SEA_OBJECTIVES:
        attack = apgd(
            model, images, labels, threat, steps, objective, seed=seed, radius_schedule=SEA_RADII, image_ids=image_ids
        )
        candidates.append(attack.images)
    counts = torch.stack([_tables(model, candidate, labels) for candidate in candidates], dim=1)
    right = counts.diagonal(dim1=2, dim2=3).sum(dim=2).double()
    accuracy = right / counts.sum(dim=(2, 3)).clamp_min(1)
    worst = accuracy.argmin(dim=1)
    every = torch.arange(len(images))
    chosen = torch.stack(candidates, dim=1)[every, worst.to(images.device)]
    return AttackResult(chosen, accuracy[every, worst], counts=counts)


def _tables(model: PixelModel, images: Tensor, labels: Tensor) -> Tensor:
    predictions = model.predict(images, tuple(labels.shape[1:]))
    tables = [
        confusion_counts(prediction, label, model.num_labels, ignore_index_of(model.num_labels)).cpu()
        for prediction, label in zip(predictions, labels.to(predictions.device), strict=True)
    ]
    return torch.stack(tables)
