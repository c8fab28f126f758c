"""Objectives that the scale of the logits cannot hide: the ratio of logits, and the tempered divergence."""

import pytest
import torch
from torch import nn

from lrsegformer.attacks.apgd import apgd
from lrsegformer.attacks.objectives.pixels import jensen_shannon
from lrsegformer.attacks.objectives.table import TEMPERED_MARGIN, dlr, find_objective, tempered_jensen_shannon
from lrsegformer.attacks.threat import Threat
from lrsegformer.errors import InputError


class Times(nn.Module):
    """A model whose logits are multiplied."""

    def __init__(self, model, factor):
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, images):
        return self.model(images) * self.factor


def gradient_of(objective, logits, labels, **options):
    logits = logits.detach().requires_grad_()
    return torch.autograd.grad(objective(logits, labels, **options).sum(), logits)[0]


def test_dlr_is_the_authors_formula_and_knows_no_scale():
    logits = torch.tensor([[3.0, 1.0, 0.0, -2.0], [3.0, 1.0, 0.0, -2.0]], dtype=torch.float64)
    labels = torch.tensor([0, 2])
    values, right = dlr.values_and_right(logits, labels)
    torch.testing.assert_close(values, torch.tensor([-2 / 3, 3 / 3], dtype=torch.float64))
    assert right.tolist() == [1, 0]
    torch.testing.assert_close(dlr(1e-6 * logits + 5, labels), values, atol=1e-8, rtol=0)
    # Of the targeted form: the margin over the distance of the largest logit to the mean of the third and the fourth.
    targeted = dlr(logits, labels, targeted=True)
    torch.testing.assert_close(targeted, torch.tensor([2 / 4, -3 / 4], dtype=torch.float64))
    torch.testing.assert_close(dlr(1e-6 * logits + 5, labels, targeted=True), targeted, atol=1e-8, rtol=0)
    autopgd = pytest.importorskip("pyautoattack.autopgd_base", reason="pyautoattack is not installed")
    random = torch.randn(50, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.randint(0, 10, (50,), generator=torch.Generator().manual_seed(1))
    theirs = autopgd.APGDAttack(lambda images: images, eps=0.1, device="cpu").dlr_loss(random, labels)
    torch.testing.assert_close(dlr(random, labels), theirs, atol=1e-9, rtol=1e-9)


def test_a_target_in_the_third_place_has_a_gradient():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    gradient = gradient_of(dlr, logits, torch.tensor([2]), targeted=True)
    assert gradient[0, 2] > 0 and gradient[0, 0] < 0


def test_targets_are_reached_as_by_the_cross_entropy(digits_classifier):
    model, images, labels = digits_classifier
    targets = (labels + 3) % 10
    reached = {
        objective: apgd(model, images, targets, Threat("linf", 0.2), 20, objective, targeted=True).accuracy.mean()
        for objective in ("dlr", "cross_entropy")
    }
    assert reached["dlr"] > 0.5 and reached["dlr"] > reached["cross_entropy"] - 0.05


def test_tempered_is_the_objective_of_logits_at_one_scale():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 9, 9, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 9, 9), generator=generator)
    labels[:, :2] = 255
    largest = logits.topk(2, dim=1).values
    for image in range(2):
        margins = (largest[image, 0] - largest[image, 1])[labels[image] != 255]
        one = slice(image, image + 1)
        expected = jensen_shannon(logits[one] * TEMPERED_MARGIN / margins.median(), labels[one])
        torch.testing.assert_close(tempered_jensen_shannon(logits, labels)[one], expected)
    # What does not count does not enter, and neither does a factor.
    changed = logits.clone()
    changed[:, :, :2] = 1e3
    for factor in (1e-4, 1.0, 1e4):
        values, right = tempered_jensen_shannon.values_and_right(changed * factor, labels)
        plain, plain_right = tempered_jensen_shannon.values_and_right(logits, labels)
        torch.testing.assert_close(values, plain)
        assert torch.equal(right, plain_right)


@pytest.mark.parametrize("value", [0.0, 255])
def test_tempered_where_nothing_is_decided_or_counts(value):
    logits = torch.zeros(1, 3, 4, 4)
    labels = torch.full((1, 4, 4), int(value))
    torch.testing.assert_close(tempered_jensen_shannon(logits, labels), jensen_shannon(logits, labels))
    assert torch.isfinite(gradient_of(tempered_jensen_shannon, logits, labels)).all()


def test_a_segmenter_cannot_hide_behind_its_scale(segmenter, scenes):
    def accuracy(factor, objective="tempered_jensen_shannon"):
        return apgd(Times(segmenter, factor), *scenes, Threat("linf", 16 / 255), 10, objective).accuracy.mean()

    plain = accuracy(1.0)
    for factor in (1e-4, 1e4):
        assert abs(accuracy(factor) - plain) < 0.005
        assert accuracy(factor, "jensen_shannon") > plain + 0.05


def test_unknown_or_unfit_objectives_get_one_line():
    with pytest.raises(InputError, match="unknown attack objective 'dice': the objectives are cross_entropy, segpgd"):
        find_objective("dice")
    with pytest.raises(InputError, match="dlr needs logits"):
        dlr(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long))
    for num_labels, targeted in [(2, False), (3, True)]:
        with pytest.raises(InputError, match=f"{num_labels + 1} classes or more"):
            dlr(torch.zeros(1, num_labels), torch.zeros(1, dtype=torch.long), targeted=targeted)
