"""ALMA prox: what is handed to adv-lib, and what is made of its answer."""

import sys
import types

import pytest
import torch

from lrsegformer.attacks.packages.alma_prox import WRONG_SHARE, alma_prox
from lrsegformer.attacks.threat import Threat
from lrsegformer.errors import InputError


@pytest.fixture
def stand_in(monkeypatch):
    """A package in adv-lib's place that moves every pixel by 0.1 and keeps what it was given."""
    given = {}

    def moved(model, inputs, labels, **options):
        given.update(options, inputs=inputs, labels=labels, logits=model(inputs))
        return inputs + 0.1

    names = ("adv_lib", "adv_lib.attacks", "adv_lib.attacks.segmentation")
    for name in names:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules[names[-1]].alma_prox = moved
    return given


def test_ignored_pixels_are_masked_and_logits_have_the_size_of_the_labels(stand_in, segmenter, scenes):
    images, labels = scenes[0][:3] * 0.9, scenes[1][:3].clone()
    labels[1], labels[2, 0] = 255, -100
    found = alma_prox(segmenter, images, labels, Threat("linf", 1.0), steps=7)
    # The image in which nothing counts is not attacked.
    assert torch.equal(stand_in["inputs"], images[[0, 2]]) and stand_in["num_steps"] == 7
    assert torch.equal(stand_in["masks"], (labels[[0, 2]] != 255) & (labels[[0, 2]] >= 0))
    assert (stand_in["labels"][~stand_in["masks"]] == 0).all()
    assert stand_in["logits"].shape == (2, 4, 32, 32) and stand_in["adv_threshold"] == WRONG_SHARE
    assert torch.equal(found.images[1], images[1])
    assert found.images.max() <= 1
    assert found.distances.tolist() == pytest.approx([0.1, torch.inf, 0.1], abs=1e-6)
    predicted = segmenter.predict(found.images, (32, 32))
    counted = (labels != 255) & (labels >= 0)
    right = ((predicted == labels) & counted).flatten(1).sum(1).double()
    assert torch.equal(found.accuracy, right / counted.flatten(1).sum(1).clamp_min(1))


def test_what_lies_outside_the_ball_counts_as_not_found(stand_in, segmenter, scenes):
    images = scenes[0][:2] * 0.9
    found = alma_prox(segmenter, images, scenes[1][:2], Threat("linf", 0.05))
    assert torch.equal(found.images, images) and found.distances.tolist() == [torch.inf, torch.inf]
    with pytest.raises(InputError, match="alma_prox has the norm linf alone, not l2"):
        alma_prox(segmenter, *scenes, Threat("l2", 1.0))


def test_what_is_refused(stand_in, segmenter, scenes, monkeypatch):
    with pytest.raises(InputError, match="ALMA prox attacks segmentation"):
        alma_prox(segmenter, scenes[0], torch.zeros(12, dtype=torch.int64), Threat("linf", 1.0))
    monkeypatch.setitem(sys.modules, "adv_lib.attacks.segmentation", None)
    with pytest.raises(InputError, match=r"adv-lib .* pip install lrsegformer\[alma\]"):
        alma_prox(segmenter, *scenes, Threat("linf", 1.0))


def test_the_package_turns_pixels_within_the_distance_that_is_told(segmenter, scenes):
    """With the real package, where it can be imported. This segmenter never loses 99 % of its pixels."""
    pytest.importorskip("adv_lib.attacks.segmentation", reason="adv-lib is not installed", exc_type=ImportError)
    images, labels = scenes[0][:4], scenes[1][:4]
    found = alma_prox(segmenter, images, labels, Threat.unlimited("linf", images), steps=200)
    counted = labels != 255

    def share_wrong(pictures):
        wrong = segmenter.predict(pictures, labels.shape[1:]) != labels
        return (wrong & counted).flatten(1).sum(1) / counted.flatten(1).sum(1)

    assert (share_wrong(found.images) > share_wrong(images) + 0.2).all()
    assert torch.equal(found.distances, Threat("linf", 0.0).distance(found.images, images))
    assert (found.distances > 0).all() and (found.distances < 0.5).all()
