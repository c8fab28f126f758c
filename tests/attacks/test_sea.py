"""The ensemble of three attacks, and the search for the worst mIoU of a data set."""

import pytest
import torch

from lrsegformer.attacks.apgd import apgd
from lrsegformer.attacks.sea import SEA_CANDIDATES, SEA_OBJECTIVES, SEA_RADII, sea
from lrsegformer.attacks.threat import Threat
from lrsegformer.errors import InputError
from lrsegformer.evaluation import scores_from_counts
from lrsegformer.robustness.metrics.worst_case import greedy_worst_miou

THREATS = (Threat("linf", 16 / 255), Threat("l2", 1.0), Threat("per_pixel_l2", 20 / 255))


@pytest.fixture(scope="module", params=THREATS, ids=lambda threat: threat.norm)
def attacked(request, segmenter, scenes):
    images, labels = scenes
    labels = labels.clone()
    labels[3] = 255
    return request.param, images, labels, sea(segmenter, images, labels, request.param, steps=10)


def share_right(counts):
    """The accuracy of each image and candidate, by its table."""
    return counts.diagonal(dim1=2, dim2=3).sum(dim=2).double() / counts.sum(dim=(2, 3)).clamp_min(1)


def test_inside_the_ball_and_the_box(attacked):
    threat, images, _, found = attacked
    assert threat.distance(found.images, images).max() <= threat.radius + 1e-6
    assert found.images.min() >= 0 and found.images.max() <= 1


def test_at_most_any_of_its_parts_image_by_image(attacked, segmenter):
    threat, images, labels, found = attacked
    accuracy = share_right(found.counts)
    assert SEA_OBJECTIVES == ("jensen_shannon", "masked_cross_entropy", "balanced_masked_cross_entropy")
    for position, objective in enumerate(SEA_OBJECTIVES, start=1):
        part = apgd(segmenter, images, labels, threat, 10, objective, radius_schedule=SEA_RADII)
        assert torch.equal(accuracy[:, position], part.accuracy)
        assert (found.accuracy <= part.accuracy).all()
    assert (found.accuracy <= accuracy[:, 0]).all()
    assert torch.equal(found.accuracy, accuracy.amin(dim=1))
    assert (accuracy[:, 1:].mean(dim=0) < accuracy[:, 0].mean()).all()


def test_images_and_tables_are_those_of_the_candidates(attacked, segmenter):
    _, images, labels, found = attacked
    predicted = segmenter.predict(found.images, labels.shape[1:])
    right = ((predicted == labels) & (labels != 255)).flatten(1).sum(1)
    counted = (labels != 255).flatten(1).sum(1)
    assert torch.equal(found.accuracy, right.double() / counted.clamp_min(1))
    assert found.counts.shape == (len(images), len(SEA_CANDIDATES), 4, 4) and found.counts.dtype == torch.int64
    assert (found.counts.sum(dim=(2, 3)) == counted[:, None]).all()
    assert (found.counts.sum(dim=3) == found.counts.sum(dim=3)[:, :1]).all(), "the references of every candidate"


def test_an_image_without_a_label_stays_clean(attacked):
    _, images, _, found = attacked
    assert torch.equal(found.images[3], images[3]) and found.accuracy[3] == 0


def test_worst_miou_of_the_attacks(attacked):
    found = attacked[-1]
    worst = greedy_worst_miou(found.counts)
    singles = [
        scores_from_counts(found.counts[:, candidate].sum(dim=0))["mean_iou"]
        for candidate in range(len(SEA_CANDIDATES))
    ]
    assert worst.mean_iou <= min(singles) and worst.mean_iou < singles[0]
    assert worst.mean_iou == pytest.approx(scores_from_counts(worst.counts)["mean_iou"], abs=1e-12)
    assert worst.counts.sum() == found.counts[:, 0].sum()


def test_classification_is_refused(segmenter, scenes):
    with pytest.raises(InputError, match="SEA attacks segmentation"):
        sea(segmenter, scenes[0], torch.zeros(12, dtype=torch.int64), THREATS[0])
