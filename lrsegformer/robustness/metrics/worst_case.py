"""Which candidate of each image is worst: for the accuracy, and for the mIoU of the data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lrsegformer.errors import InputError
from lrsegformer.robustness.metrics.counting import SparseTable, stacked, to_json, worst_per_image

MOST_ROUNDS = 10
RANDOM_STARTS = 8


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


def attack_counts(candidates: Sequence[Sequence[SparseTable]], num_labels: int) -> dict[str, Any]:
    """
    The two tables of an attack on segmentation, as JSON values of a cell.

    Args:
        candidates: for each image its tables, the clean image's first; as many for each.

    Returns:
        `dict`: `counts`, of each image's worst accuracy, and `iou_counts`, of [`greedy_worst_miou`]'s choice.
    """
    return {
        "counts": to_json(worst_per_image(candidates, num_labels)),
        "iou_counts": to_json(greedy_worst_miou(stacked(candidates, num_labels)).counts),
    }


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
