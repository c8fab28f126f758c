"""Whole images, windows, and several sizes with mirrored copies: against their definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from lrsegformer.errors import InputError
from lrsegformer.evaluation import predict_classes, predict_pixels
from lrsegformer.evaluation.protocols import SCALES, multi_scale_flip, slide, whole, window_spans

ROWS = torch.randn(7, 3, 1, 1, generator=torch.Generator().manual_seed(3))


def pixelwise(pixels):
    """Logits of a pixel from that pixel alone."""
    return functional.conv2d(pixels, ROWS)


def coarse(pixels):
    """Logits at a quarter of the resolution, each from its surroundings."""
    return functional.conv2d(functional.avg_pool2d(pixels, 8, 4, padding=3, count_include_pad=False), ROWS)


def images(height=37, width=53, batch=2):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(5))


@given(st.integers(1, 300), st.integers(1, 120), st.data())
def test_windows_hold_every_pixel_and_end_with_the_edge(length, window, data):
    stride = data.draw(st.integers(1, window))
    spans = window_spans(length, window, stride)
    assert spans[0][0] == 0 and spans[-1][1] == length
    assert all(stop - start == min(window, length) for start, stop in spans)
    assert all(0 < later[0] - sooner[0] <= stride for sooner, later in zip(spans, spans[1:], strict=False))
    covered = np.zeros(length, dtype=bool)
    for start, stop in spans:
        covered[start:stop] = True
    assert covered.all()


@pytest.mark.parametrize("window", [53, 54, 512])
def test_a_window_as_large_as_the_image_is_the_whole_image(window):
    (expected,) = whole(coarse, images())
    (found,) = slide(coarse, images(), window, window // 2)
    assert torch.equal(found, expected)


@given(st.integers(1, 60), st.data())
def test_of_a_pixelwise_model_every_window_gives_the_same(window, data):
    stride = data.draw(st.integers(max(1, window // 3), window))
    (found,) = slide(pixelwise, images(23, 31, 1), window, stride)
    assert torch.allclose(found, pixelwise(images(23, 31, 1)), rtol=0, atol=2e-6)


def test_slide_is_the_average_of_the_windows_that_hold_a_pixel():
    pixels, (window, stride) = images(), (24, 16)
    total, count = torch.zeros(2, 7, 37, 53), torch.zeros(37, 53)
    for top in (0, 13):  # 16 would end at 40, past the edge
        for left in (0, 16, 29):
            logits = coarse(pixels[..., top : top + window, left : left + window])
            logits = functional.interpolate(logits, size=(window, window), mode="bilinear", align_corners=False)
            total[..., top : top + window, left : left + window] += logits
            count[top : top + window, left : left + window] += 1
    assert set(count.unique().tolist()) == {1, 2, 4}
    (found,) = slide(coarse, pixels, window, stride)
    assert torch.allclose(found, total / count, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("window", "stride"), [(0, 0), (8, 9), (8, 0)])
def test_windows_that_leave_pixels_out_are_refused(window, stride):
    with pytest.raises(InputError, match="give a stride from 1"):
        slide(pixelwise, images(), window, stride)


def test_multi_scale_flip_averages_the_probabilities_at_the_size_of_the_result():
    pixels, size = images(48, 64), (50, 70)
    inputs = [functional.interpolate(pixels, scale_factor=scale, mode="bilinear") for scale in SCALES]
    total = torch.zeros(2, 7, *size)
    for scaled in inputs:
        for mirrored in (False, True):
            logits = coarse(scaled.flip(3) if mirrored else scaled)
            logits = functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
            total += (logits.flip(3) if mirrored else logits).softmax(dim=1)
    expected = (total / (2 * len(SCALES))).max(dim=1)
    found = predict_pixels(multi_scale_flip(coarse, inputs), size)
    assert found.classes.dtype == torch.uint8
    assert torch.allclose(found.confidence, expected.values, rtol=0, atol=1e-6)
    assert (found.classes == expected.indices).float().mean() > 0.999


@pytest.mark.parametrize("size", [(37, 53), (10, 14), (80, 121)])
def test_the_classes_of_one_map_are_those_of_predict_classes(size):
    logits = 30 * coarse(images())
    found = predict_pixels([logits], size)
    assert torch.equal(found.classes, predict_classes(logits, size))
    upsampled = functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    assert torch.allclose(found.confidence, upsampled.softmax(dim=1).amax(dim=1), rtol=0, atol=1e-5)


def test_logits_that_are_not_finite_are_refused():
    logits = coarse(images())
    logits[1, 2, 3, 4] = torch.nan
    with pytest.raises(InputError, match="image 1 of the batch are not finite"):
        predict_pixels([coarse(images()), logits], (8, 8))
