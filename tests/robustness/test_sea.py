"""The ensemble of three attacks, and the search for the worst mIoU of a data set."""

import itertools

import pytest
import torch

from lrsegformer.errors import InputError
from lrsegformer.evaluation import scores_from_counts
from lrsegformer.robustness.apgd import apgd
from lrsegformer.robustness.sea import SEA_CANDIDATES, SEA_OBJECTIVES, SEA_RADII, greedy_worst_miou, sea
from lrsegformer.robustness.threat import Threat

THREATS = (Threat("linf", 16 / 255), Threat("l2", 1.0))


@pytest.fixture(scope="module", params=THREATS, ids=lambda threat: threat.norm)
def attacked(request, segmenter, scenes):
    images, labels = scenes
    labels = labels.clone()
    labels[3] = 255
    return request.param, images, labels, sea(segmenter, images, labels, request.param, steps=20)


def random_tables(generator, images=4, attacks=3, labels=4):
    """Confusion tables of the same references under each attack, some classes absent from an image."""
    tables = torch.zeros(images, attacks, labels, labels, dtype=torch.int64)
    for image, attack in itertools.product(range(images), range(attacks)):
        shares = torch.rand(labels, labels, generator=generator) ** 3 + 1e-3
        size = 40 * (1 + image)
        for reference in range(labels - image % 2):
            drawn = torch.multinomial(shares[reference], size, replacement=True, generator=generator)
            tables[image, attack, reference] = torch.bincount(drawn, minlength=labels)
    return tables


def mean_iou(counts):
    return scores_from_counts(counts)["mean_iou"]


def test_inside_the_ball_and_the_box(attacked):
    threat, images, _, found = attacked
    assert threat.distance(found.images, images).max() <= threat.radius + 1e-6
    assert found.images.min() >= 0 and found.images.max() <= 1


def test_at_most_any_of_its_parts_image_by_image(attacked, segmenter):
    threat, images, labels, found = attacked
    for position, objective in enumerate(SEA_OBJECTIVES, start=1):
        part = apgd(segmenter, images, labels, threat, 20, objective, radius_schedule=SEA_RADII)
        assert torch.equal(found.candidate_accuracy[:, position], part.accuracy)
        assert (found.accuracy <= part.accuracy).all()
    assert (found.accuracy <= found.candidate_accuracy[:, 0]).all()
    assert torch.equal(found.accuracy, found.candidate_accuracy.amin(dim=1))
    assert (found.candidate_accuracy[:, 1:].mean(dim=0) < found.candidate_accuracy[:, 0].mean()).all()


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
    singles = [mean_iou(found.counts[:, candidate].sum(dim=0)) for candidate in range(len(SEA_CANDIDATES))]
    assert worst.mean_iou <= min(singles) and worst.mean_iou < singles[0]
    assert worst.mean_iou == pytest.approx(mean_iou(worst.counts), abs=1e-12)
    assert worst.counts.sum() == found.counts[:, 0].sum()


def test_worst_miou_is_the_minimum_over_all_choices():
    """Every one of 81 choices is tried; the search is never below the minimum, and finds it."""
    generator = torch.Generator().manual_seed(0)
    every = torch.arange(4)
    for _ in range(60):
        tables = random_tables(generator)
        choices = [torch.tensor(choice) for choice in itertools.product(range(3), repeat=4)]
        scores = [mean_iou(tables[every, choice].sum(dim=0)) for choice in choices]
        worst = greedy_worst_miou(tables)
        assert worst.mean_iou >= min(scores) - 1e-12
        assert worst.mean_iou == pytest.approx(min(scores), abs=1e-12)
        assert mean_iou(tables[every, worst.choice].sum(dim=0)) == pytest.approx(worst.mean_iou, abs=1e-12)


def test_worst_miou_is_at_most_any_single_attack_s():
    generator = torch.Generator().manual_seed(1)
    for images in (1, 2, 30):
        tables = random_tables(generator, images=images, attacks=4, labels=6)
        worst = greedy_worst_miou(tables)
        singles = [mean_iou(tables[:, attack].sum(dim=0)) for attack in range(4)]
        assert worst.mean_iou <= min(singles)
        assert images < 30 or worst.mean_iou < min(singles)
        again = greedy_worst_miou(tables)
        assert again.mean_iou == worst.mean_iou and torch.equal(again.choice, worst.choice)


def test_worst_miou_is_not_the_mean_of_the_worst_images():
    """Two images whose lowest own mIoU is not what the data set's is made of."""
    tables = torch.zeros(2, 2, 2, 2, dtype=torch.int64)
    tables[0, 0], tables[0, 1] = torch.tensor([[90, 0], [10, 0]]), torch.tensor([[60, 30], [0, 10]])
    tables[1, 0] = tables[1, 1] = torch.tensor([[0, 0], [0, 100]])
    scores = [mean_iou(tables[0, attack] + tables[1, 0]) for attack in (0, 1)]
    alone = [mean_iou(tables[0, attack]) for attack in (0, 1)]
    assert alone[0] > alone[1] or scores[0] > scores[1]
    assert greedy_worst_miou(tables).mean_iou == pytest.approx(min(scores), abs=1e-12)


def test_worst_miou_without_a_label_is_not_a_number():
    worst = greedy_worst_miou(torch.zeros(2, 3, 4, 4, dtype=torch.int64))
    assert worst.mean_iou != worst.mean_iou and worst.counts.sum() == 0


@pytest.mark.parametrize(
    "counts",
    [
        torch.zeros(2, 3, 4, 5, dtype=torch.int64),
        torch.zeros(2, 4, 4, dtype=torch.int64),
        torch.zeros(0, 3, 4, 4, dtype=torch.int64),
        torch.zeros(2, 3, 4, 4),
    ],
)
def test_other_tables_are_refused(counts):
    with pytest.raises(InputError, match="counts of shape") as caught:
        greedy_worst_miou(counts)
    assert "\n" not in str(caught.value)


def test_classification_is_refused(segmenter, scenes):
    with pytest.raises(InputError, match="SEA attacks segmentation"):
        sea(segmenter, scenes[0], torch.zeros(12, dtype=torch.int64), THREATS[0])
