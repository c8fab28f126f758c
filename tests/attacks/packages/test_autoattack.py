"""The attacks of other packages: what of them is kept, and what is put right."""

import logging
import sys

import pytest
import torch
from torch import nn

from lrsegformer.attacks.apgd import apgd
from lrsegformer.attacks.packages.autoattack import auto_attack, square_flags
from lrsegformer.attacks.packages.fmn import fmn
from lrsegformer.attacks.packages.square import square
from lrsegformer.attacks.threat import Threat
from lrsegformer.errors import InputError

THREATS = (Threat("linf", 0.1), Threat("l2", 0.6))


@pytest.fixture(scope="module")
def few(digits_classifier):
    model, images, labels = digits_classifier
    return model, images[:12], labels[:12]


def is_right(model, images, labels):
    return model(images).argmax(dim=1) == labels


@pytest.mark.one_in(2)
@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
def test_auto_attack(few, shortened, threat):
    model, images, labels = few
    before = torch.get_rng_state()
    found = auto_attack(model, images, labels, threat)
    assert torch.equal(torch.get_rng_state(), before)
    assert threat.distance(found.images, images).max() <= threat.radius + 1e-6
    assert found.images.min() >= 0 and found.images.max() <= 1
    assert torch.equal(found.accuracy, is_right(model, found.images, labels).double())
    assert [by == "nothing" for by in found.broken_by] == found.accuracy.bool().tolist()
    assert [by == "clean" for by in found.broken_by] == (~is_right(model, images, labels)).tolist()
    assert not (found.accuracy.bool() & ~is_right(model, images, labels)).any()
    assert list(found.robust_after) == ["clean", "apgd-ce", "apgd-t", "fab-t", "square"]
    shares = list(found.robust_after.values())
    assert shares == sorted(shares, reverse=True) and shares[-1] == found.accuracy.mean() < shares[0]
    ours = apgd(model, images, labels, threat, 100).accuracy
    assert found.accuracy.sum() <= ours.sum() + 1


def test_a_model_without_weakness_has_no_flag(few, shortened):
    model, images, labels = few
    assert auto_attack(model, images, labels, THREATS[0]).warnings == ()


class Noisy(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images) + torch.randn(len(images), 10)


class Stepped(nn.Module):
    """Logits of pixels rounded to levels: no gradient at all, but a weak model."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model((images * 16).round() / 16 + 0 * images)


def test_flags_are_kept_as_text(few, shortened, caplog):
    model, images, labels = few
    logger = logging.getLogger("auto-attack")
    handlers, propagates = list(logger.handlers), logger.propagate
    with caplog.at_level(logging.WARNING):
        noisy = auto_attack(Noisy(model), images, labels, THREATS[0], seed=1)
        probabilities = auto_attack(nn.Sequential(model, nn.Softmax(dim=1)), images, labels, THREATS[0])
        stepped = auto_attack(Stepped(model), images, labels, THREATS[0])
    assert any("randomized defense" in warning for warning in noisy.warnings)
    assert any("probability distribution" in warning for warning in probabilities.warnings)
    assert any("there are points with zero gradient" in warning for warning in stepped.warnings)
    for found in (noisy, probabilities, stepped):
        assert len(set(found.warnings)) == len(found.warnings)
    assert not [record for record in caplog.records if record.name == "auto-attack"], "said once, in the result"
    assert logger.handlers == handlers and logger.propagate == propagates


def test_square_beating_the_gradients_is_flagged(few, shortened):
    """A masked model: the black box finds what the gradient attacks cannot."""
    pytest.importorskip("pyautoattack")
    model, images, labels = few
    found = auto_attack(Stepped(model), images, labels, Threat("linf", 0.25))
    assert found.robust_after["square"] < found.robust_after["fab-t"] - 0.05
    (flag,) = square_flags(found.broken_by)
    drop = found.robust_after["fab-t"] - found.robust_after["square"]
    assert f"Square Attack has decreased the robust accuracy of {drop:.2%}" in flag


def test_the_flag_on_square_is_one_of_the_whole_data_set():
    pytest.importorskip("pyautoattack")
    assert square_flags(["clean"] * 100 + ["apgd-ce"] * 300 + ["nothing"] * 599 + ["square"]) == []
    (flag,) = square_flags(["nothing"] * 90 + ["square"] * 10)
    assert "of 10.00%" in flag


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_few_classes(shortened, linear, classes):
    generator = torch.Generator().manual_seed(0)
    model = linear(torch.randn(classes, 48, generator=generator), torch.zeros(classes))
    images = torch.rand(10, 3, 4, 4, generator=generator)
    found = auto_attack(model, images, model(images).argmax(1), Threat("linf", 0.02))
    assert ("apgd-t" in found.robust_after) == (classes >= 4)
    assert any(f"{classes - 1} targets" in warning for warning in found.warnings)
    assert any("apgd-t is not defined" in warning for warning in found.warnings) == (classes < 4)


def test_one_image_and_none_that_is_right(few, shortened):
    model, images, labels = few
    index = int(is_right(model, images, labels).nonzero()[0])
    one, again = (auto_attack(model, images[index : index + 1], labels[index : index + 1], THREATS[1]) for _ in "12")
    assert one.accuracy.shape == (1,) and torch.equal(one.images, again.images)
    wrong = (model(images).argmax(1) + 1) % 10
    none = auto_attack(model, images, wrong, THREATS[0])
    assert torch.equal(none.images, images) and set(none.robust_after.values()) == {0.0}


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
def test_square(few, threat):
    pytest.importorskip("pyautoattack")
    model, images, labels = few
    before = torch.get_rng_state()
    found = square(model, images, labels, threat, steps=200, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert threat.distance(found.images, images).max() <= threat.radius + 1e-6
    assert found.images.min() >= 0 and found.images.max() <= 1
    assert torch.equal(found.accuracy, is_right(model, found.images, labels).double())
    assert found.accuracy.mean() < is_right(model, images, labels).double().mean()
    assert (found.accuracy <= is_right(model, images, labels).double()).all()
    assert torch.equal(square(model, images, labels, threat, steps=200, seed=2).images, found.images)


def test_square_needs_no_gradient(few):
    pytest.importorskip("pyautoattack")
    model, images, labels = few
    found = square(Stepped(model), images, labels, Threat("linf", 0.25), steps=300)
    assert found.accuracy.mean() < is_right(Stepped(model), images, labels).double().mean() - 0.1


@pytest.mark.parametrize("attack", [auto_attack, square, fmn])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.full((12, 1, 8, 8), -1.0)}, "pixels in \\[0, 1\\]"),
        ({"labels": torch.full((12,), 10)}, "but the model has 10 classes"),
        ({"labels": torch.zeros(12, 8, 8)}, "for classification"),
    ],
)
def test_bad_input_gets_one_line(few, attack, change, message):
    pytest.importorskip("pyautoattack")
    pytest.importorskip("foolbox")
    model, images, labels = few
    options = {"images": images, "labels": labels, **change}
    with pytest.raises(InputError, match=message) as caught:
        attack(model, options["images"], options["labels"], THREATS[1])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("attack", "norms"), [(auto_attack, "linf or l2"), (square, "linf or l2"), (fmn, "l2")])
def test_the_packages_have_no_norm_of_single_pixels(few, attack, norms):
    pytest.importorskip("pyautoattack")
    pytest.importorskip("foolbox")
    with pytest.raises(InputError, match=f"alone, not per_pixel_l2: give a threat in {norms}") as caught:
        attack(*few, Threat("per_pixel_l2", 0.1))
    assert "\n" not in str(caught.value)


def test_unknown_version(few):
    with pytest.raises(InputError, match="'best'"):
        auto_attack(*few, THREATS[0], version="best")


@pytest.mark.parametrize(
    ("attack", "package"), [(auto_attack, "pyautoattack"), (square, "pyautoattack"), (fmn, "foolbox")]
)
def test_without_the_package_the_extra_is_named(few, monkeypatch, attack, package):
    def missing(name):
        raise InputError(f"needs {name}: pip install lrsegformer[robustness]")

    monkeypatch.setattr(sys.modules[attack.__module__], "require", missing)
    with pytest.raises(InputError, match=f"{package}: pip install"):
        attack(*few, THREATS[1])
