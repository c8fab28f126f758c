"""What a cell makes of an attack's result, whatever attack it is."""

from types import SimpleNamespace

import pytest
import torch

from lrsegformer.attacks.base import AttackResult
from lrsegformer.robustness.bench import measuring
from lrsegformer.robustness.bench.runs import Run, ScoredData
from lrsegformer.robustness.conditions import Condition
from lrsegformer.robustness.subset import Batch


class Brightness:
    """Class 1 where a pixel, or the image, is brighter than a half."""

    num_labels = 2

    def __init__(self, task):
        self.task = task

    def predict(self, images, size=None):
        if self.task == "segmentation":
            return (images.mean(dim=1) > 0.5).long()
        return (images.mean(dim=(1, 2, 3)) > 0.5).long()


@pytest.fixture
def measured(monkeypatch):
    """`measured(task, condition, result)`: a cell of two dark images of class 0 under an attack with this result."""

    def measure(task, condition, result):
        images = torch.zeros(2, 3, 2, 2)
        labels = torch.zeros(2, 2, 2).long() if task == "segmentation" else torch.zeros(2).long()
        batch = Batch([0, 1], [5, 9], images, labels)
        given = {}

        def run_attack(name, model, images, labels, threat, **options):
            given.update(options, name=name, threat=threat)
            return result

        monkeypatch.setattr(measuring, "run_attack", run_attack)
        subset = SimpleNamespace(batches=lambda *arguments: [batch])
        run = Run(Brightness(task), ScoredData(subset, ("dark", "bright"), None), seed=3, batch_size=2)
        return measuring.measure(run, condition)[0], given

    return measure


def test_the_flags_of_a_row_are_of_the_whole_data_set(measured):
    pytest.importorskip("pyautoattack")
    found = AttackResult(torch.zeros(2, 3, 2, 2), torch.ones(2), broken_by=("square", "nothing"), warnings=("odd",))
    results, given = measured("classification", Condition("attack", "autoattack", "l2", 0.5, restarts=1), found)
    assert results["warnings"][0] == "odd" and "Square Attack has decreased" in results["warnings"][1]
    assert (given["name"], given["threat"].norm, given["threat"].radius) == ("autoattack", "l2", 0.5)
    assert (given["seed"], given["image_ids"], given["steps"]) == (3, [5, 9], None)


def test_distances_are_in_the_units_of_radii_and_the_box_alone_limits(measured):
    found = AttackResult(
        torch.ones(2, 3, 2, 2), torch.zeros(2), distances=torch.tensor([2 / 255, torch.inf], dtype=torch.float64)
    )
    condition = Condition("attack", "alma_prox", "linf", None, steps=7, restarts=1)
    results, given = measured("segmentation", condition, found)
    assert results["distances"] == [pytest.approx(2), None] and given["threat"].radius == 1.0
    assert results["image_tables"][0] == [[[0], [4]], [[1], [4]]], "4 pixels right, then 4 wrong"


def test_candidates_are_counted_from_their_tables(measured):
    counts = torch.zeros(2, 3, 2, 2, dtype=torch.int64)
    counts[:, 0, 0, 0] = 4  # the clean image
    counts[0, 1, 0] = torch.tensor([1, 3])
    counts[0, 2, 0] = torch.tensor([2, 2])
    counts[1, 1:, 0, 0] = 4
    found = AttackResult(torch.zeros(2, 3, 2, 2), torch.tensor([0.25, 1.0]), counts=counts)
    results, _ = measured("segmentation", Condition("attack", "sea", "linf", 1.0, steps=7, restarts=1), found)
    assert results["counts"] == [[0, 0, 5], [0, 1, 3]] == results["iou_counts"]


def test_targets_that_were_reached_are_counted(measured):
    found = AttackResult(torch.ones(2, 3, 2, 2), torch.ones(2), targets=torch.tensor([1, 0]))
    condition = Condition("attack", "pgd", "linf", 4.0, steps=7, restarts=1, targeted=True)
    assert measured("classification", condition, found)[0]["measured"] == {"target_reached": 0.5}
