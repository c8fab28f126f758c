"""IoU of the small objects of a segmentation data set, by connected components."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

from lrsegformer.errors import InputError
from lrsegformer.evaluation.scores import check_label_space

# COCO's small objects have up to 32 x 32 pixels in an image of about 640 x 480.
SMALL_AREA_SHARE = 1 / 300
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


class SmallObjects:
    """
    IoU per class over small objects, from three sums a class over the data set.

    An object is a connected component (eight neighbours) of one class in the reference; it is small up to
    `area_share` of the image's pixels. For class c, a true positive is a pixel of a small object that is predicted c,
    a false negative one that is not. A false positive is a valid pixel of another class that is predicted c within a
    component of the prediction that touches no large object of c, and that touches a small one or is itself small:
    what spills from small objects, and small objects that are not there. What spills from large objects does not
    count. IoU is TP / (TP + FN + FP). Touching objects of one class are one, since masks do not tell them apart.

    Args:
        num_labels (`int`): number of classes.
        ignore_index (`int`, *optional*, defaults to 255): reference value that does not count; negative ones never do.
        area_share (`float`, *optional*, defaults to 1/300): of the image's pixels, above 0 and at most 1.

    Attributes:
        sums (`numpy.ndarray` of shape `(3, num_labels)`): int64 pixels: true positives, false negatives, false
            positives.
        num_objects (`int`): small objects in the references.
    """

    def __init__(self, num_labels: int, ignore_index: int | None = 255, area_share: float = SMALL_AREA_SHARE):
        check_label_space(num_labels, ignore_index)
        if not 0 < area_share <= 1:
            raise InputError(f"area share {area_share}: a small object's share of the image is above 0 and at most 1")
        self.num_labels, self.ignore_index, self.area_share = num_labels, ignore_index, area_share
        self.sums = np.zeros((3, num_labels), dtype=np.int64)
        self.num_objects = 0

    def add(self, prediction: np.ndarray | Tensor, reference: np.ndarray | Tensor) -> None:
        """
        Count one image.

        Args:
            prediction, reference (`numpy.ndarray` or `torch.Tensor`): classes, integers of shape `(height, width)`.

        Raises:
            [`~lrsegformer.errors.InputError`]: the shapes differ, or a class is outside `num_labels`.
        """
        predicted, true = (np.asarray(m.cpu() if isinstance(m, Tensor) else m) for m in (prediction, reference))
        if predicted.shape != true.shape or true.ndim != 2:
            raise InputError(
                f"a prediction of shape {predicted.shape} and a reference of shape {true.shape} do not fit: small "
                "objects need two maps of one size"
            )
        valid = true >= 0
        if self.ignore_index is not None:
            valid &= true != self.ignore_index
        classes = np.union1d(true[valid], predicted[valid])
        if len(classes) and not (0 <= classes[0] and classes[-1] < self.num_labels):
            raise InputError(
                f"class {classes[0] if classes[0] < 0 else classes[-1]} is outside 0..{self.num_labels - 1}: check "
                "num_labels"
            )
        limit = self.area_share * true.size
        for index in classes:
            counts, num_objects = _count_class((predicted == index) & valid, (true == index) & valid, limit)
            self.sums[:, index] += counts
            self.num_objects += num_objects

    def compute(self) -> dict[str, Any]:
        """
        The scores of all that was counted.

        Returns:
            `dict`: `small_object_iou` (mean over the classes with small objects in the references; nan without any),
            `per_category_small_object_iou` (list, nan for the other classes), `num_small_objects` and `area_share`.
        """
        true_positives, false_negatives, false_positives = self.sums
        has_objects = true_positives + false_negatives > 0
        iou = np.full(self.num_labels, math.nan)
        np.divide(true_positives, true_positives + false_negatives + false_positives, out=iou, where=has_objects)
        return {
            "small_object_iou": float(iou[has_objects].mean()) if has_objects.any() else math.nan,
            "per_category_small_object_iou": iou.tolist(),
            "num_small_objects": self.num_objects,
            "area_share": self.area_share,
        }


def _count_class(predicted: np.ndarray, true: np.ndarray, limit: float) -> tuple[tuple[int, int, int], int]:
    """True positives, false negatives and false positives of one class's boolean maps, and its small objects."""
    objects, areas = _components(true)
    is_small_object = areas <= limit
    is_small_object[0] = False
    small = is_small_object[objects]
    hits = int((small & predicted).sum())

    found, found_areas = _components(predicted)
    touches_large, touches_small = np.zeros_like(found_areas, bool), np.zeros_like(found_areas, bool)
    touches_large[found[true & ~small]] = True
    touches_small[found[small]] = True
    counts = ~touches_large & (touches_small | (found_areas <= limit))
    counts[0] = False
    spilled = int((counts[found] & ~true).sum())
    return (hits, int(small.sum()) - hits, spilled), int(is_small_object.sum())


def _components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers from 1 of the connected components, 0 elsewhere, and the area of each number."""
    from scipy import ndimage

    numbers, count = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
    return numbers, np.bincount(numbers.ravel(), minlength=count + 1)
