"""Slopes that are found: of actual images, never above the Lipschitz constant, and at it where it is known."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmarks.local_slopes import decided_features, steepest_slope
from lrsegformer.attacks.threat import Threat

NORMS = ("l2", "per_pixel_l2")


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def jacobian_of_pixels(features, image):
    """`(pixels, rank, channels, image pixels)`, by autograd in full."""
    jacobian = torch.func.jacrev(features)(image)[0, :, :, :, 0]
    return jacobian.flatten(1, 2).transpose(0, 1).flatten(3)


def largest_gain(jacobian, norm):
    """Of one pixel's Jacobian `(2, channels, pixels)`: by singular values, or over all directions of two features."""
    if norm == "l2":
        return float(torch.linalg.matrix_norm(jacobian.flatten(1), ord=2))
    angles = torch.linspace(0, math.pi, 2001, dtype=jacobian.dtype)
    units = torch.stack([angles.cos(), angles.sin()], dim=1)
    pulled = torch.einsum("uk,kcp->ucp", units, jacobian)
    return float(pulled.norm(dim=1).sum(dim=1).max())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", [0, 2])
def test_the_constant_of_a_linear_network_is_found(norm, seed):
    generator = torch.Generator().manual_seed(seed)
    kernels = torch.randn(2, 3, 3, 3, generator=generator, dtype=torch.float64)

    def features(images):
        return functional.conv2d(images, kernels, padding=1, stride=2)

    image = 0.2 + 0.6 * draw(1, 3, 8, 8, seed=seed)
    exact = max(largest_gain(pixel, norm) for pixel in jacobian_of_pixels(features, image))
    slope = steepest_slope(features, image, norm, starts=4, iterations=15, moves=0, seed=seed)
    # In the norm of single pixels the power method may end at a local maximum.
    assert (0.999 if norm == "l2" else 0.98) * exact <= slope.value <= exact * (1 + 1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_a_network_is_as_steep_as_its_jacobian_at_the_image_and_no_steeper_than_its_constant(norm):
    generator = torch.Generator().manual_seed(5)
    first = torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64))[0]
    second = torch.linalg.qr(torch.randn(12, 2, generator=generator, dtype=torch.float64))[0].T

    def features(images):
        patches = functional.pixel_unshuffle(4 * images - 2, 2)
        hidden = functional.conv2d(patches, first[:, :, None, None]).relu()
        return functional.conv2d(hidden, second[:, :, None, None])

    image = draw(1, 3, 8, 8, seed=1)
    at_image = max(largest_gain(pixel, norm) for pixel in jacobian_of_pixels(features, image))
    slope = steepest_slope(features, image, norm, starts=4, moves=6)
    constant = 4 * {"l2": 1, "per_pixel_l2": 2}[norm]
    assert 0.99 * at_image <= slope.value <= constant * (1 + 1e-9)


def test_a_slope_is_one_of_two_images_in_the_box():
    image = draw(1, 3, 8, 8).round()
    seen = []

    def features(images):
        seen.append(images.detach())
        return functional.pixel_unshuffle(images, 2).sin()

    slope = steepest_slope(features, image, "per_pixel_l2", starts=1, iterations=3, moves=2)
    assert all(batch.min() >= 0 and batch.max() <= 1 for batch in seen)
    ends = (slope.centre + 1e-3 * torch.cat([slope.direction, -slope.direction])).clamp(0, 1)
    moved = (features(ends[:1]) - features(ends[1:])).norm(dim=1).max()
    assert slope.value == pytest.approx(float(moved / Threat("per_pixel_l2", 1.0).distance(ends[:1], ends[1:])))


@pytest.mark.parametrize("norm", NORMS)
def test_the_centre_moves_to_where_a_network_is_steep(norm):
    """Flat at the image and below, steep above a kink that lies far away."""

    def features(images):
        return 0.1 * images + 5 * (images - 0.75).relu()

    image = torch.full((1, 1, 1, 1), 0.4, dtype=torch.float64)
    assert steepest_slope(features, image, norm, starts=1, moves=0).value == pytest.approx(0.1)
    assert steepest_slope(features, image, norm, starts=1, moves=8).value == pytest.approx(5.1)


def test_features_are_seen_as_far_as_the_classifier_does():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    rows[3] = rows[0] + rows[1]
    maps = nn.Conv2d(3, 6, 1, bias=False).double().requires_grad_(False)

    def model(images):
        return torch.einsum("kc,bchw->bkhw", rows, maps(images)) + 7

    one, other = draw(1, 3, 4, 4, seed=1), draw(1, 3, 4, 4, seed=2)
    features = decided_features(model, rows)
    found = features(one) - features(other)
    assert found.shape == (1, 3, 4, 4), "of four rows, one a sum of others"
    onto_rows = torch.linalg.pinv(rows) @ rows
    expected = torch.einsum("kc,bchw->bkhw", onto_rows, maps(one) - maps(other))
    torch.testing.assert_close(found.norm(dim=1), expected.norm(dim=1))
    pooled = decided_features(lambda images: model(images).mean(dim=(2, 3)), rows)
    assert pooled(one).shape == (1, 3, 1, 1)
