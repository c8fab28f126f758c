"""Confusion tables image by image, kept sparse, and the two tables of a cell that all its scores come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lrsegformer.evaluation.scores import confusion_counts, scores_from_counts


class SparseTable(NamedTuple):
    """
    One image's confusion table.

    Attributes:
        places (`numpy.ndarray`): int64, `reference * num_labels + prediction` of the entries that are not 0.
        counts (`numpy.ndarray`): int64, the entries.
    """

    places: np.ndarray
    counts: np.ndarray

    def to_json(self) -> list[list[int]]:
        """Places and counts."""
        return [self.places.tolist(), self.counts.tolist()]

    @classmethod
    def from_json(cls, entries: Sequence[Sequence[int]]) -> SparseTable:
        """What [`to_json`] was given."""
        return cls(*(np.array(numbers, dtype=np.int64) for numbers in entries))

    def num_right(self, num_labels: int) -> int:
        """How many pixels are right."""
        return int(self.counts[self.places // num_labels == self.places % num_labels].sum())

    def accuracy(self, num_labels: int) -> float:
        """The share of counted pixels that are right; 1 where none counts, so that nothing is worse than nothing."""
        total = int(self.counts.sum())
        return self.num_right(num_labels) / total if total else 1.0


def image_tables(predictions: Tensor, labels: Tensor, num_labels: int, ignore_index: int | None) -> list[SparseTable]:
    """
    A table for each image.

    Args:
        predictions, labels (`torch.Tensor`): integers `(batch, height, width)`, or `(batch,)`.
        num_labels (`int`): number of classes.
        ignore_index (`int`, *optional*): label that never counts; negative ones never do.
    """
    if labels.ndim == 1:  # ImageNet's table of a million zeros is not made for a single count.
        places = (labels.long() * num_labels + predictions.long()).cpu().numpy()
        return [SparseTable(places[row : row + 1], np.ones(1, dtype=np.int64)) for row in range(len(places))]
    return [
        sparse(confusion_counts(prediction.long(), label.long(), num_labels, ignore_index))
        for prediction, label in zip(predictions, labels, strict=True)
    ]


def sparse(table: Tensor) -> SparseTable:
    """The entries of an int64 table `(num_labels, num_labels)` that are not 0."""
    flat = table.flatten().cpu().numpy()
    places = np.flatnonzero(flat)
    return SparseTable(places, flat[places])


def summed(tables: Sequence[SparseTable], num_labels: int) -> Tensor:
    """The int64 table `(num_labels, num_labels)` of several images."""
    flat = np.zeros(num_labels * num_labels, dtype=np.int64)
    for table in tables:
        flat[table.places] += table.counts
    return torch.from_numpy(flat).view(num_labels, num_labels)


def worst_per_image(candidates: Sequence[Sequence[SparseTable]], num_labels: int) -> Tensor:
    """
    The table of an attack: of each image the candidate with the lowest accuracy, the first of equal ones.

    Args:
        candidates: for each image its tables, the clean image's first.
    """
    worst = [min(tables, key=lambda table: table.accuracy(num_labels)) for tables in candidates]
    return summed(worst, num_labels)


def stacked(candidates: Sequence[Sequence[SparseTable]], num_labels: int) -> Tensor:
    """int64 `(images, candidates, num_labels, num_labels)`, as the greedy search for the worst mIoU takes them."""
    return torch.stack([torch.stack([summed([table], num_labels) for table in tables]) for tables in candidates])


def to_json(table: Tensor) -> list[list[int]]:
    """`[reference, prediction, count]` of the entries that are not 0."""
    rows, columns = torch.nonzero(table, as_tuple=True)
    return torch.stack([rows, columns, table[rows, columns]], dim=1).tolist()


def from_json(entries: Sequence[Sequence[int]], num_labels: int) -> Tensor:
    """What [`to_json`] was given."""
    table = torch.zeros(num_labels, num_labels, dtype=torch.int64)
    if entries:
        rows, columns, counts = torch.tensor(entries, dtype=torch.int64).T
        table[rows, columns] = counts
    return table


def cell_scores(cell: dict, task: str) -> dict[str, float | list[float]]:
    """
    The scores of a finished cell.

    In segmentation the mIoU and the classes' IoU of an attack come from the greedy search's table, accuracies from the
    worst candidate of each image; without an attack both tables are the same.
    """
    num_labels = cell["num_labels"]
    scores = scores_from_counts(from_json(cell["counts"], num_labels), task)
    if task == "segmentation" and cell.get("iou_counts") is not None:
        worst = scores_from_counts(from_json(cell["iou_counts"], num_labels), task)
        scores |= {name: worst[name] for name in ("mean_iou", "per_category_iou")}
    return scores
