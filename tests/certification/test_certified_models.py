"""Certificates of certified models under attack: no certified pixel flips, and no slope is above the constant."""

import pytest
import torch
from transformers import SegformerImageProcessorPil

from benchmarks.certificate_judge import Watch, constant_of, judge
from benchmarks.local_slopes import decided_features, steepest_slope
from lrsegformer.attacks.pixel_model import PixelModel
from lrsegformer.attacks.threat import Threat
from lrsegformer.choices import CERTIFICATE_NORMS, CERTIFIED_ATTENTIONS

# Sides that the strides do not divide: the encoder pads, and logits are cropped.
SIZE = (36, 44)
ATTACKS_OF = {"l2": ("apgd", "one_pixel"), "per_pixel_l2": ("cospgd", "nearest")}


@pytest.fixture(scope="module")
def certified(make_model):
    """`certified(task, attention)`: a model of pixels, its constants for an image of `SIZE`, and its rows."""

    def make(task, attention):
        model = make_model("orthogonal", scope="certified", task=task, certified_attention=attention)
        with torch.no_grad():
            constants, rows = model.network_constants(*SIZE), model.classifier_rows()
        return PixelModel(model, SegformerImageProcessorPil()), constants, rows

    return make


def image_of(seed):
    return torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


def radii_of(model, image, norm, constant, rows):
    return Watch(model, image, SIZE, Threat(norm, 0.0), constant, rows).radii


@pytest.mark.one_in(3)
@pytest.mark.parametrize("norm", CERTIFICATE_NORMS)
@pytest.mark.parametrize("attention", CERTIFIED_ATTENTIONS)
@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_no_attack_flips_a_certified_pixel(certified, task, attention, norm):
    model, constants, rows = certified(task, attention)
    image, constant = image_of(1), constant_of(constants, norm)
    radii = radii_of(model, image, norm, constant, rows)
    threat = Threat(norm, 0.99 * float(radii.quantile(0.3)))
    for attack in ATTACKS_OF[norm]:
        verdict = judge(model, image, SIZE, threat, constant, rows, attack, steps=4, restarts=1)
        assert verdict.judged_pixels >= 0.6 * radii.numel() and verdict.flipped_pixels == 0
        assert 0 < verdict.largest_bound_used <= 1 and verdict.least_margin_left < 1


@pytest.mark.parametrize("norm", CERTIFICATE_NORMS)
@pytest.mark.parametrize("attention", CERTIFIED_ATTENTIONS)
def test_no_slope_is_above_the_constant_and_a_constant_far_below_it_is_found_out(certified, attention, norm):
    model, constants, rows = certified("segmentation", attention)
    image, constant = image_of(2).double(), constant_of(constants, norm)
    slope = steepest_slope(decided_features(model.double(), rows), image, norm, starts=1, iterations=4, moves=1)
    assert 0.01 * constant < slope.value <= constant
    # The steepest slope lies neither in the direction of a margin nor at the pixel that is attacked.
    wrong = slope.value / 20
    threat = Threat(norm, 0.99 * float(radii_of(model, image, norm, wrong, rows).min()))
    verdict = judge(model, image, SIZE, threat, wrong, rows, "one_pixel", steps=4, restarts=1)
    assert verdict.largest_bound_used > 1
