"""IoU of small objects on masks made by hand, and on real ones."""

import math

import numpy as np
import pytest
import torch

from lrsegformer.data.folders import MaskFolderSource
from lrsegformer.errors import InputError
from lrsegformer.robustness.metrics.small_objects import SmallObjects


def masks(*rectangles, side=20, background=0):
    mask = np.full((side, side), background)
    for rows, columns, value in rectangles:
        mask[slice(*rows), slice(*columns)] = value
    return mask


def small_scores(prediction, reference, **options):
    scores = SmallObjects(3, area_share=0.05, **options)  # up to 20 of 400 pixels
    scores.add(prediction, reference)
    return scores


def test_small_objects_by_hand():
    small, large = ((2, 6), (2, 6), 1), ((10, 18), (10, 18), 1)
    reference = masks(small, large)
    result = small_scores(reference, reference).compute()
    assert result["small_object_iou"] == 1.0 and result["num_small_objects"] == 1
    assert result["per_category_small_object_iou"][1] == 1.0
    assert all(math.isnan(result["per_category_small_object_iou"][index]) for index in (0, 2))
    # Half of the small object, and nothing of the large one, which does not count.
    assert small_scores(masks(((2, 6), (2, 4), 1)), reference).compute()["small_object_iou"] == 0.5
    assert small_scores(masks(large), reference).compute()["small_object_iou"] == 0.0


@pytest.mark.parametrize(
    ("predicted", "counted"),
    [
        ([((2, 6), (2, 8), 1)], (16, 0, 8)),  # spills from the small object
        ([((0, 20), (0, 9), 1)], (16, 0, 164)),  # however far
        ([((2, 6), (2, 6), 1), ((8, 20), (8, 20), 1)], (16, 0, 0)),  # spills from the large object
        ([((2, 6), (2, 6), 1), ((0, 2), (16, 19), 1)], (16, 0, 6)),  # a small object that is not there
        ([((2, 6), (2, 6), 1), ((0, 8), (12, 20), 1)], (16, 0, 0)),  # a large one that is not there
        ([((2, 6), (2, 6), 2)], (0, 16, 0)),  # another class
        ([((0, 20), (0, 20), 1)], (16, 0, 0)),  # one component with the large object: its spill is not small
    ],
)
def test_what_counts_for_small_objects(predicted, counted):
    reference = masks(((2, 6), (2, 6), 1), ((10, 18), (10, 18), 1))
    sums = small_scores(masks(*predicted), reference).sums
    assert tuple(sums[:, 1]) == counted


def test_ignored_pixels_and_touching_corners():
    reference = masks(((2, 6), (2, 6), 1))
    reference[:2], reference[6:8] = 255, -1
    scores = small_scores(torch.from_numpy(masks(((0, 8), (2, 6), 1))), torch.from_numpy(reference))
    assert tuple(scores.sums[:, 1]) == (16, 0, 0)
    # Two squares of 16 pixels that touch at a corner are one object of 32, which is not small.
    corners = masks(((2, 6), (2, 6), 1), ((6, 10), (6, 10), 1))
    assert small_scores(corners, corners).compute()["num_small_objects"] == 0
    assert math.isnan(small_scores(corners, corners).compute()["small_object_iou"])


def test_small_objects_add_up_over_images():
    reference = masks(((2, 6), (2, 6), 1))
    both = SmallObjects(3, area_share=0.05)
    both.add(reference, reference)
    both.add(masks(), reference)
    assert both.compute()["small_object_iou"] == 0.5 and both.num_objects == 2


def test_small_objects_of_real_masks(real_data):
    camvid = real_data / "camvid"
    scores, area = SmallObjects(11, ignore_index=11), 0
    source = MaskFolderSource(camvid / "val", camvid / "valannot")
    for mask in (source.mask(index) for index in range(4)):
        scores.add(mask.clip(0, 10), mask)
        area += mask.size
    result = scores.compute()
    assert result["small_object_iou"] == 1.0 and result["num_small_objects"] > 20
    assert 0 < scores.sums[0].sum() < 0.2 * area and not scores.sums[1:].any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SmallObjects(3, area_share=0), "area share 0"),
        (lambda: SmallObjects(3, ignore_index=2), "ignore_index 2 is one of the 3 classes"),
        (lambda: small_scores(np.zeros((4, 4), int), np.zeros((4, 5), int)), "do not fit"),
        (lambda: small_scores(np.full((4, 4), 3), np.zeros((4, 4), int)), r"class 3 is outside 0\.\.2"),
    ],
)
def test_bad_input_gets_one_line(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
