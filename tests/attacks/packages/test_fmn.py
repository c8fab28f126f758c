"""FMN: the smallest perturbations, and what is put right of foolbox's."""

import pytest
import torch

from lrsegformer.attacks.apgd import apgd
from lrsegformer.attacks.packages.fmn import fmn
from lrsegformer.attacks.threat import Threat
from lrsegformer.errors import InputError


def is_right(model, images, labels):
    return model(images).argmax(dim=1) == labels


def test_minimum_norm_curve(digits_classifier):
    pytest.importorskip("foolbox")
    model, images, labels = digits_classifier
    found = fmn(model, images, labels, Threat.unlimited("l2", images))
    right = is_right(model, images, labels)
    radii = [0.0, 0.1, 0.3, 0.6, 1.0, 2.0, 8.0]
    curve = found.accuracy_at(radii)
    assert curve[0] == right.double().mean() and curve == sorted(curve, reverse=True)
    assert curve[0] > curve[2] > curve[4] and curve[-1] == 0
    assert (found.distances[~right] == 0).all() and torch.equal(found.images[~right], images[~right])
    assert (found.distances[right] > 0).all() and found.distances.isfinite().all()
    assert not is_right(model, found.images, labels).any()
    assert torch.equal(Threat("l2", 0.0).distance(found.images, images)[right], found.distances[right])
    assert found.images.min() >= 0 and found.images.max() <= 1 and not found.accuracy.any()
    # Within a ball: what needs more counts as not found, and the rest is the same.
    limited = fmn(model, images, labels, Threat("l2", 0.6))
    inside = found.distances <= 0.6
    assert torch.equal(limited.images[inside], found.images[inside])
    assert torch.equal(limited.images[~inside], images[~inside]) and limited.distances[~inside].isinf().all()
    assert torch.equal(limited.accuracy, is_right(model, limited.images, labels).double())
    # Nearly as small as a strong attack at fixed radii allows; without the projection the curve is 0.2 higher.
    for radius, share in zip(radii[2:4], curve[2:4], strict=True):
        assert -0.01 <= share - apgd(model, images, labels, Threat("l2", radius), 100).accuracy.mean() <= 0.04


def test_minimum_norm_of_a_linear_model_is_known(linear):
    pytest.importorskip("foolbox")
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 48, generator=generator)
    model = linear(weight, torch.zeros(2))
    images = 0.4 + 0.2 * torch.rand(20, 3, 4, 4, generator=generator)
    labels = model(images).argmax(1)
    margins = model(images).sort(dim=1).values.diff(dim=1)[:, 0]
    expected = (margins / (weight[0] - weight[1]).norm()).double()
    found = fmn(model, images, labels, Threat.unlimited("l2", images), steps=500)
    assert (found.distances >= expected * (1 - 1e-5)).all()
    assert torch.allclose(found.distances, expected, rtol=1e-2)


def test_foolbox_still_leaves_out_the_projection(digits_classifier):
    """When this fails, foolbox projects, and so need we no longer."""
    foolbox = pytest.importorskip("foolbox")
    model, images, labels = digits_classifier
    plain = foolbox.attacks.L2FMNAttack(steps=100).run(
        foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), images, foolbox.criteria.Misclassification(labels)
    )
    distances = Threat("l2", 0.0).distance(plain, images)
    ours = fmn(model, images, labels, Threat.unlimited("l2", images), steps=100)
    assert distances.median() > 1.2 * ours.distances.median()


def test_an_image_that_nothing_breaks_is_infinitely_far(linear):
    pytest.importorskip("foolbox")
    model = linear(torch.zeros(2, 48), torch.tensor([1.0, 0.0]))
    images = torch.rand(3, 3, 4, 4)
    found = fmn(model, images, torch.tensor([0, 0, 1]), Threat.unlimited("l2", images), steps=5)
    assert found.distances.tolist() == [torch.inf, torch.inf, 0] and found.accuracy_at([100.0]) == [2 / 3]


def test_another_norm_is_refused(digits_classifier):
    pytest.importorskip("foolbox")
    with pytest.raises(InputError, match="fmn has the norm l2 alone, not linf: give a threat in l2"):
        fmn(*digits_classifier, Threat("linf", 0.1))
