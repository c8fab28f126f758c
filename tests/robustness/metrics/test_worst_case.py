"""The choice of candidates that is worst for a data set."""

import itertools

import pytest
import torch

from lrsegformer.errors import InputError
from lrsegformer.evaluation import scores_from_counts
from lrsegformer.robustness.metrics.worst_case import greedy_worst_miou


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
    assert alone[0] < alone[1] and scores[0] > scores[1]
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
