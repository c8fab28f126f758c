"""The segmentation ensemble attack: three objectives, the worst of them for each image and for the data set."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lrsegformer.errors import InputError
from lrsegformer.evaluation.confusion import confusion_counts
from lrsegformer.robustness.apgd import RadiusSchedule, apgd
from lrsegformer.robustness.losses import IGNORE_INDEX
from lrsegformer.robustness.pixel_model import PixelModel
from lrsegformer.robustness.threat import Threat

SEA_OBJECTIVES = ("jensen_shannon", "masked_cross_entropy", "balanced_masked_cross_entropy")
# Radii and shares of the steps: 3:3:4.
SEA_RADII: RadiusSchedule = ((2.0, 0.3), (1.5, 0.3), (1.0, 0.4))
# Candidates of each image, in the order of the tables.
SEA_CANDIDATES = ("clean", *SEA_OBJECTIVES)
MOST_ROUNDS = 10
RANDOM_STARTS = 8


class SeaResult(NamedTuple):
    """
    What the ensemble found for each image; the candidates are the clean image and one image an objective.

    Attributes:
        images (`torch.Tensor` of shape `(batch, 3, height, width)`): the candidate of the lowest accuracy.
        accuracy (`torch.Tensor` of shape `(batch,)`): its share of right pixels, float64; 0 where no pixel counts.
        candidate_accuracy (`torch.Tensor` of shape `(batch, 4)`): that of every candidate, as in `SEA_CANDIDATES`.
        counts (`torch.Tensor` of shape `(batch, 4, num_labels, num_labels)`, int64, on the CPU):
            Confusion table of every candidate, row = reference; what [`greedy_worst_miou`] takes.
    """

    images: Tensor
    accuracy: Tensor
    candidate_accuracy: Tensor
    counts: Tensor


class WorstMiou(NamedTuple):
    """
    The choice of one candidate for each image that gives the lowest mIoU found.

    Attributes:
        mean_iou (`float`): of the data set; nan where no pixel counts.
        choice (`torch.Tensor` of shape `(images,)`, int64): the candidates.
        counts (`torch.Tensor` of shape `(num_labels, num_labels)`, int64): the data set's table under that choice.
    """

    mean_iou: float
    choice: Tensor
    counts: Tensor


def sea(
    model: PixelModel,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    steps: int = 300,
    seed: int = 0,
    image_ids: Sequence[Hashable] | None = None,
) -> SeaResult:
    """
    The segmentation ensemble attack (Croce, Singh and Hein 2024, arXiv 2306.12941).

    Each of the three objectives by [`apgd`] with radius reduction: 30 % of the steps at twice the radius, 30 % at 1.5
    radii, the rest inside the threat. The attacks are the paper's; progress on the masked objectives is measured as
    [`apgd`] says. It has no black-box part, so it may overrate a model that masks its gradients.

    Args:
        model ([`PixelModel`]): of a segmentation model.
        images (`torch.Tensor` of shape `(batch, 3, height, width)`): clean images in [0, 1].
        labels (`torch.Tensor` of shape `(batch, label_height, label_width)`): 255 and negative values do not count.
        threat ([`Threat`]): the ball.
        steps (`int`, *optional*, defaults to 300): of each of the three attacks.
        seed (`int`), image_ids (sequence, *optional*): of the random starts; see [`pgd`].

    Returns:
        [`SeaResult`]: the accuracy is at most that of the clean image and of each attack, image by image.

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
    return SeaResult(chosen, accuracy[every, worst], accuracy, counts)


def greedy_worst_miou(counts: Tensor, seed: int = 0) -> WorstMiou:
    """
    Search for the choice of one attack an image that makes the data set's mIoU lowest (arXiv 2306.12941).

    The mIoU of a data set does not follow from those of its images, so the images are gone through one by one, each
    taking the candidate that is worst beside the others' current ones, for up to ten rounds or until nothing changes.
    That is done from several starts, of which the lowest result is taken: every candidate for all images, each image's
    worst accuracy, and eight seeded random choices. Rounds never raise the mIoU, so the result is at most the mIoU of
    every single candidate, and it is that of a real choice, so it is at least the true minimum.

    Args:
        counts (`torch.Tensor` of shape `(images, candidates, num_labels, num_labels)`): integers, row = reference.
        seed (`int`): of the random starts.

    Returns:
        [`WorstMiou`]: with the mean over the classes that occur in the references or the predictions, as
        [`~lrsegformer.evaluation.scores_from_counts`] has it.

    Raises:
        [`~lrsegformer.errors.InputError`]: tables of another shape, or no image.
    """
    if counts.ndim != 4 or counts.shape[2] != counts.shape[3] or 0 in counts.shape or counts.is_floating_point():
        raise InputError(
            f"counts of shape {tuple(counts.shape)} and type {counts.dtype}: the worst mIoU needs integers of shape "
            "(images, candidates, num_labels, num_labels), with at least one image."
        )
    counts = counts.to(device="cpu", dtype=torch.int64)
    num_images, num_candidates = counts.shape[:2]
    tallies = _Tallies(
        intersection=counts.diagonal(dim1=2, dim2=3),
        union=counts.sum(dim=3) + counts.sum(dim=2) - counts.diagonal(dim1=2, dim2=3),
    )
    generator = torch.Generator().manual_seed(seed)
    starts = [torch.full((num_images,), candidate) for candidate in range(num_candidates)]
    starts.append(tallies.intersection.sum(dim=2).argmin(dim=1))
    starts += [torch.randint(num_candidates, (num_images,), generator=generator) for _ in range(RANDOM_STARTS)]
    mean_iou, choice = min((tallies.descend(start) for start in starts), key=lambda found: found[0])
    return WorstMiou(mean_iou, choice, counts[torch.arange(num_images), choice].sum(dim=0))


class _Tallies(NamedTuple):
    """Intersections and unions `(images, candidates, num_labels)`, int64: all that the IoU of a choice takes."""

    intersection: Tensor
    union: Tensor

    def descend(self, choice: Tensor) -> tuple[float, Tensor]:
        """The mIoU at the end of the rounds from this choice, and the choice there."""
        choice = choice.clone()
        every = torch.arange(len(choice))
        intersection = self.intersection[every, choice].sum(dim=0)
        union = self.union[every, choice].sum(dim=0)
        for _ in range(MOST_ROUNDS):
            before = choice.clone()
            for image, current in enumerate(choice.tolist()):
                intersections = intersection - self.intersection[image, current] + self.intersection[image]
                unions = union - self.union[image, current] + self.union[image]
                scores = _mean_iou(intersections, unions)
                best = int(scores.argmin())
                if scores[best] < scores[current]:
                    choice[image], intersection, union = best, intersections[best], unions[best]
            if torch.equal(choice, before):
                break
        return float(_mean_iou(intersection[None], union[None])), choice


def _mean_iou(intersection: Tensor, union: Tensor) -> Tensor:
    """Means over the present classes of tallies `(choices, num_labels)`, float64."""
    return (intersection / union.clamp_min(1).double()).sum(dim=1) / (union > 0).sum(dim=1)


def _tables(model: PixelModel, images: Tensor, labels: Tensor) -> Tensor:
    predictions = model.predict(images, tuple(labels.shape[1:]))
    tables = [
        confusion_counts(prediction, label, model.num_labels, IGNORE_INDEX).cpu()
        for prediction, label in zip(predictions, labels.to(predictions.device), strict=True)
    ]
    return torch.stack(tables)
