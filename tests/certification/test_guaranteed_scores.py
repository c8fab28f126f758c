"""Guaranteed scores against brute force: every flip that an adversary could make on tiny maps."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lrsegformer.certification.guaranteed_scores import (
    certified_counts,
    collectively_flipped,
    guaranteed_accuracy,
    guaranteed_mean_iou,
)
from lrsegformer.errors import InputError
from lrsegformer.evaluation.scores import confusion_counts, scores_from_counts


def table_of(classes, labels, num_labels):
    return confusion_counts(torch.as_tensor(classes), torch.as_tensor(labels), num_labels, None)


@st.composite
def tiny_maps(draw):
    """Predictions, labels and which pixels are certified: at most 5 pixels of 3 classes."""
    num_labels, count = draw(st.integers(2, 3)), draw(st.integers(1, 5))
    pixels = st.lists(st.integers(0, num_labels - 1), min_size=count, max_size=count)
    certified = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    return num_labels, draw(pixels), draw(pixels), certified


def worst_by_brute_force(num_labels, classes, labels, certified):
    """The lowest mIoU and accuracy over all predictions that the certified pixels leave possible."""
    free = [number for number, fixed in enumerate(certified) if not fixed]
    worst_iou, worst_accuracy = math.inf, math.inf
    for choice in itertools.product(range(num_labels), repeat=len(free)):
        changed = list(classes)
        for number, label in zip(free, choice, strict=True):
            changed[number] = label
        scores = scores_from_counts(table_of(changed, labels, num_labels))
        worst_iou = min(worst_iou, scores["mean_iou"])
        worst_accuracy = min(worst_accuracy, scores["accuracy"])
    return worst_iou, worst_accuracy


@given(tiny_maps())
def test_no_flip_of_uncertified_pixels_goes_below(maps):
    num_labels, classes, labels, certified = maps
    radii = torch.tensor(certified, dtype=torch.float32)
    tables = certified_counts(torch.tensor(classes), radii, torch.tensor(labels), num_labels, [0.5], None).numpy()
    iou, accuracy = worst_by_brute_force(num_labels, classes, labels, certified)
    assert guaranteed_accuracy(tables[1], tables[0]) == pytest.approx(accuracy, abs=1e-12)
    assert guaranteed_mean_iou(tables[1], tables[0]) <= iou + 1e-12


def test_the_bound_of_the_mean_iou_is_nearly_reached():
    """Three classes in the truth; the adversary can spread its 30 pixels as the bound assumes."""
    certified = np.array([[40, 2, 0], [0, 30, 1], [3, 0, 20]])
    everything = certified + np.diag([10, 10, 10])
    best = math.inf
    # Of 10 uncertified pixels of each class, how many go to the next class; the others go to the one after.
    for moves in itertools.product(range(11), repeat=3):
        changed = certified.copy()
        for label, moved in enumerate(moves):
            changed[label, (label + 1) % 3] += moved
            changed[label, (label + 2) % 3] += 10 - moved
        best = min(best, scores_from_counts(changed)["mean_iou"])
    bound = guaranteed_mean_iou(certified, everything)
    assert best - 1e-3 < bound <= best


def test_everything_certified_gives_the_clean_score():
    # The third class is predicted alone, the last two occur nowhere.
    table = np.pad(np.array([[7, 1, 4], [2, 5, 3], [0, 0, 0]]), (0, 2))
    clean = scores_from_counts(table)
    assert guaranteed_mean_iou(table, table) == pytest.approx(clean["mean_iou"], abs=1e-8)
    assert guaranteed_accuracy(table, table) == clean["accuracy"]


def test_nothing_certified_gives_nothing():
    table = np.array([[7, 1], [2, 5]])
    assert guaranteed_mean_iou(np.zeros_like(table), table) == guaranteed_accuracy(np.zeros_like(table), table) == 0
    empty = np.zeros((2, 2), dtype=int)
    assert math.isnan(guaranteed_mean_iou(empty, empty)) and math.isnan(guaranteed_accuracy(empty, empty))


@given(st.integers(0, 2**31), st.integers(2, 5), st.integers(1, 40))
def test_counts_are_those_of_a_loop(seed, num_labels, count):
    rng = np.random.default_rng(seed)
    classes, labels = rng.integers(num_labels, size=count), rng.integers(num_labels, size=count)
    labels = np.where(rng.random(count) < 0.2, 255, np.where(rng.random(count) < 0.1, -100, labels))
    radii = rng.choice([0.0, 0.1, 0.2, 0.3, np.inf], size=count).astype(np.float32)
    eps = [0.05, 0.2, 0.25]
    tables = certified_counts(
        torch.tensor(classes), torch.tensor(radii), torch.tensor(labels), num_labels, eps, 255
    ).numpy()
    for number, radius in enumerate([-1.0, *eps]):
        expected = np.zeros((num_labels, num_labels), dtype=int)
        for pixel in range(count):
            if 0 <= labels[pixel] < num_labels and float(radii[pixel]) > radius:
                expected[labels[pixel], classes[pixel]] += 1
        assert (tables[number] == expected).all()


def test_counts_refuse_what_does_not_fit():
    classes, radii = torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, 2)
    with pytest.raises(InputError, match="one size"):
        certified_counts(classes, radii, classes[:1], 2, [0.1], 255)
    with pytest.raises(InputError, match="rising"):
        certified_counts(classes, radii, classes, 2, [0.2, 0.1], 255)
    with pytest.raises(InputError, match="hold 7"):
        certified_counts(classes, radii, classes + 7, 2, [0.1], 255)


@given(st.lists(st.floats(0, 4), max_size=7), st.floats(0, 6))
def test_no_larger_set_of_pixels_flips_together(distances, budget):
    found = collectively_flipped(torch.tensor(distances, dtype=torch.float64), [budget])
    possible = [
        len(chosen)
        for size in range(len(distances) + 1)
        for chosen in itertools.combinations(distances, size)
        if sum(distance**2 for distance in chosen) <= budget**2
    ]
    slack = [
        len(chosen)
        for size in range(len(distances) + 1)
        for chosen in itertools.combinations(distances, size)
        if sum(distance**2 for distance in chosen) <= budget**2 * (1 + 1e-8)
    ]
    assert max(possible) <= found[0] <= max(slack)


def test_pixels_that_cannot_flip_and_budgets_without_end():
    distances = torch.tensor([math.inf, 1.0, 0.0])
    assert collectively_flipped(distances, [0.5, 1.0, 100.0, math.inf]) == [1, 2, 2, 3]
    assert collectively_flipped(torch.empty(0), [1.0]) == [0]
