"""Photometric distortion against its definition: HSV by the standard library, and rounding written out."""

import colorsys

import numpy as np
import pytest
from PIL import Image

from lrsegformer.data.colours import (
    colour_jitter,
    colour_planes,
    photometric_distortion,
    scale_saturation,
    turn_hue,
)

HALF_A_LEVEL = 0.5 + 1e-4  # and float32 rounding of a product of up to 255


def colours(seed=0, side=24):
    """Random colours, with grey, dark, fully saturated and equal channels among them."""
    planes = np.random.default_rng(seed).integers(0, 256, (3, side, side), dtype=np.uint8)
    planes[:, 0] = planes[0, 0]
    planes[:, 1] //= 32
    planes[2, 2] = 0
    planes[0, 3] = planes[1, 3]
    planes[:, 4] = np.where(planes[:, 4] > 127, 255, 0)
    return planes


def in_hsv(planes, saturation=1.0, turn=0.0):
    """Pixel by pixel in float64."""
    result = np.empty(planes.shape)
    for row, column in np.ndindex(planes.shape[1:]):
        hue, strength, value = colorsys.rgb_to_hsv(*(planes[:, row, column] / 255))
        result[:, row, column] = colorsys.hsv_to_rgb((hue + turn) % 1.0, min(1.0, strength * saturation), value)
    return 255 * result


def rounded(levels):
    return np.clip(np.round(levels), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.83, 1.0, 1.2, 1.5, 4.0])
def test_saturation_equals_hsv_to_half_a_level(factor):
    planes = colours()
    before = planes.copy()
    scaled = scale_saturation(planes, factor)
    assert scaled.dtype == np.uint8
    assert np.abs(scaled - in_hsv(planes, saturation=factor)).max() <= HALF_A_LEVEL
    assert np.array_equal(planes, before)


@pytest.mark.parametrize("turn", [-1 / 6, -0.1, -0.03, 0.0, 0.002, 0.07, 0.1, 1 / 6])
def test_hue_equals_hsv_to_half_a_level(turn):
    planes = colours()
    before = planes.copy()
    turned = turn_hue(planes, turn)
    assert turned.dtype == np.uint8
    assert np.abs(turned - in_hsv(planes, turn=turn)).max() <= HALF_A_LEVEL
    assert np.array_equal(planes, before)


def test_hue_turns_from_red_towards_green_and_white_stays():
    red = np.array([255, 0, 0], dtype=np.uint8).reshape(3, 1, 1)
    assert turn_hue(red, 1 / 6).ravel().tolist() == [255, 255, 0]
    assert turn_hue(red, -1 / 6).ravel().tolist() == [255, 0, 255]
    assert scale_saturation(red, 0.0).ravel().tolist() == [255, 255, 255]
    white = np.full((3, 2, 2), 255, dtype=np.uint8)
    assert np.array_equal(turn_hue(white, 0.1), white) and np.array_equal(scale_saturation(white, 1.5), white)


@pytest.mark.parametrize("turn", [0.17, -0.2, float("nan")])
def test_larger_turns_are_refused(turn):
    with pytest.raises(ValueError, match="1/6"):
        turn_hue(colours(), turn)


def draws(seed):
    """The numbers of one distortion, in the order in which they are drawn: the recipe's ranges and probabilities."""
    rng = np.random.default_rng(seed)
    brightness = rng.uniform(-32, 32) if rng.random() < 0.5 else None
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else None
    contrast_first = rng.random() < 0.5
    saturation = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else None
    hue = rng.uniform(-18, 18) / 180 if rng.random() < 0.5 else None
    return brightness, contrast, contrast_first, saturation, hue


@pytest.mark.parametrize("seed", range(60))
def test_distortion_makes_the_changes_that_are_drawn(seed):
    planes = expected = colours(seed)
    brightness, contrast, contrast_first, saturation, hue = draws(seed)
    if brightness is not None:
        expected = rounded(expected + brightness)
    if contrast is not None and contrast_first:
        expected = rounded(expected * contrast)
    if saturation is not None:
        expected = scale_saturation(expected, saturation)
    if hue is not None:
        expected = turn_hue(expected, hue)
    if contrast is not None and not contrast_first:
        expected = rounded(expected * contrast)
    assert np.array_equal(photometric_distortion(planes, np.random.default_rng(seed)), expected)


def test_every_change_is_drawn_half_of_the_time():
    planes = colours()
    changed = 0
    for seed in range(400):
        result = photometric_distortion(planes, np.random.default_rng(seed))
        assert (result.dtype, result.shape) == (planes.dtype, planes.shape)
        changed += not np.array_equal(result, planes)
    # Each of four changes is left out with probability 1/2: 1 image in 16 stays as it is.
    assert 0.88 * 400 < changed < 0.98 * 400


def test_jitter_changes_an_image():
    image = Image.fromarray(colours().transpose(1, 2, 0).copy())
    assert np.array_equal(colour_planes(image), colours())
    assert colour_jitter(image, np.random.default_rng(0)).tobytes() != image.tobytes()
