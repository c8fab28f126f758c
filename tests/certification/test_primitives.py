"""Each part's constants against its own dense matrix or Jacobian, in all four pairs of norms."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from lrsegformer.certification.primitives import (
    convex_potential_step,
    convolution,
    convolution_gain,
    depthwise_convolution,
    depthwise_gain,
    local_step_gain,
    mean_over_positions,
    non_expansive,
    pointwise,
    pointwise_step,
    separable,
    space_to_depth,
    upsampling,
)
from tests.certification.judges import assert_never_below, factors_of, jacobian_at

HEIGHT, WIDTH, CHANNELS = 4, 6, 3
PIXELS = HEIGHT * WIDTH


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(channels: int = CHANNELS, batch: int = 6) -> torch.Tensor:
    return random(batch, channels, HEIGHT, WIDTH, seed=7)


def shares(function, bound, channels: int = CHANNELS) -> dict[str, float]:
    """What a linear map reaches of each bound; none is exceeded."""
    jacobian = jacobian_at(function, torch.zeros(1, channels, HEIGHT, WIDTH, dtype=torch.float64))
    found = {pair: value / getattr(bound, pair).item() for pair, value in factors_of(jacobian).items()}
    assert all(share <= 1 + 1e-12 for share in found.values()), found
    return found


def exact_norm(function, channels: int) -> float:
    jacobian = jacobian_at(function, torch.zeros(1, channels, HEIGHT, WIDTH, dtype=torch.float64))
    return torch.linalg.matrix_norm(jacobian.flatten(0, 1).flatten(1), ord=2).item()


def test_linear_parts_are_exact_in_every_pair():
    matrix = random(5, CHANNELS)
    norm = torch.linalg.matrix_norm(matrix, ord=2)
    exact = [
        (lambda x: torch.einsum("oi,bihw->bohw", matrix, x), pointwise(norm, PIXELS)),
        (lambda x: functional.pixel_unshuffle(x, 2), space_to_depth(2, PIXELS)),
        (lambda x: x.mean(dim=(2, 3)), mean_over_positions(PIXELS)),
        (lambda x: functional.pad(x, (1, 0, 2, 1)), non_expansive(PIXELS, 7 * 7)),
        (lambda x: x[:, :, 1:, 2:], non_expansive(PIXELS, 3 * 4)),
        (lambda x: x - x.mean(dim=1, keepdim=True) + 3.0, non_expansive(PIXELS)),
    ]
    for function, bound in exact:
        assert min(shares(function, bound).values()) > 1 - 1e-6


@pytest.mark.parametrize("size", [(8, 12), (16, 24), (7, 9), (4, 6), (3, 4), (1, 2)])
def test_bilinear_resampling(size):
    bound = upsampling((HEIGHT, WIDTH), size)
    function = nn.Upsample(size=size, mode="bilinear", align_corners=False)
    found = shares(function, bound, channels=1)
    assert min(found["l2_to_l2"], found["l2_to_per_pixel"], found["per_pixel_to_per_pixel"]) > 1 - 1e-9
    assert bound.per_pixel_to_per_pixel.item() == pytest.approx(1)
    if size[0] % HEIGHT == 0 and size[1] % WIDTH == 0:
        assert bound.l2_to_l2.item() == pytest.approx(size[0] // HEIGHT)
        assert bound.per_pixel_to_l2.item() == pytest.approx(math.sqrt(size[0] * size[1]))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_an_antialiased_resize_is_two_matrices(mode):
    def resize(x: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(x, size=(3, 4), mode=mode, antialias=True)

    units = [torch.eye(side, dtype=torch.float64)[None, None] for side in (HEIGHT, WIDTH)]
    rows = functional.interpolate(units[0], size=(3, HEIGHT), mode=mode, antialias=True)[0, 0]
    columns = functional.interpolate(units[1], size=(4, WIDTH), mode=mode, antialias=True)[0, 0]
    found = shares(resize, separable(rows, columns))
    assert min(found["l2_to_l2"], found["l2_to_per_pixel"], found["per_pixel_to_per_pixel"]) > 1 - 1e-6


@pytest.mark.parametrize(("side", "stride"), [(3, 1), (3, 2), (2, 2)])
def test_a_convolution_by_its_taps(side, stride):
    kernel = random(4, CHANNELS, side, side)

    def convolve(x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, kernel, stride=stride, padding=side // 2)

    taps = kernel.flatten(2).permute(2, 0, 1)
    pixels_out = convolve(images()).shape[2:].numel()
    found = shares(convolve, convolution(exact_norm(convolve, CHANNELS), taps, PIXELS, pixels_out))
    assert found["l2_to_per_pixel"] == pytest.approx(1)
    assert found["per_pixel_to_per_pixel"] > 0.75
    apart = torch.linalg.matrix_norm(taps, ord=2).sum().item()
    assert convolution_gain(taps).item() <= apart


@pytest.mark.parametrize("channels", [1, 2, 7])
def test_a_depthwise_convolution_by_its_kernels(channels):
    kernel = random(channels, 3, 3, seed=channels)

    def convolve(x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, kernel[:, None], padding=1, groups=channels)

    flat = kernel.flatten(1)
    bound = depthwise_convolution(exact_norm(convolve, channels), flat, PIXELS, PIXELS)
    found = shares(convolve, bound, channels)
    assert found["l2_to_per_pixel"] == pytest.approx(1)
    assert found["per_pixel_to_per_pixel"] > 0.98
    dense = torch.diag_embed(flat.T)
    assert depthwise_gain(flat) <= convolution_gain(dense) * (1 + 1e-12)


def test_a_depthwise_gain_is_more_than_any_channel_alone():
    """One channel looks left, the other right: both have an l1 norm of 1, and together they reach sqrt(2)."""
    shifts = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    neighbours = torch.zeros(1, 2, 1, 3, dtype=torch.float64)
    neighbours[0, 0, 0, 0] = neighbours[0, 1, 0, 2] = 1
    moved = functional.conv2d(neighbours, shifts[:, None, None], padding=(0, 1), groups=2)
    assert moved[0, :, 0, 1].norm().item() == pytest.approx(2**0.5)
    assert depthwise_gain(shifts).item() == pytest.approx(2**0.5)
    same = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    assert depthwise_gain(same).item() == pytest.approx(3.5)


def test_gains_are_differentiable_and_a_zero_kernel_has_a_zero_gradient():
    kernel = random(4, 9).requires_grad_()
    depthwise_gain(kernel).backward()
    assert torch.isfinite(kernel.grad).all() and kernel.grad.norm() > 0
    # At the optimal weights the gain is homogeneous of degree one in the kernel.
    assert (kernel.grad * kernel).sum().item() == pytest.approx(depthwise_gain(kernel).item(), rel=0.05)
    zero = torch.zeros(4, 9, dtype=torch.float64, requires_grad=True)
    depthwise_gain(zero).backward()
    assert depthwise_gain(zero).item() < 1e-100 and zero.grad.norm() == 0


@pytest.mark.parametrize("function", [torch.relu, lambda x: x / x.norm(dim=1, keepdim=True).clamp_min(1.0)])
def test_pointwise_nonlinear_maps_expand_nothing(function):
    found = assert_never_below(function, non_expansive(PIXELS), images())
    assert min(found.values()) > 0.6


@pytest.mark.parametrize("share", [1.0, 1.7, 0.6])
def test_a_pointwise_convex_potential_step(share):
    """`beta` of the squared norm and above it: 1. Below it: what the smallest eigenvalue leaves."""
    matrix, bias = random(5, CHANNELS), random(5)[:, None, None]
    squared = torch.linalg.matrix_norm(matrix, ord=2).square()
    beta = share * squared

    def step(x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(torch.einsum("oi,bihw->bohw", matrix, x) + bias)
        return x - 2 / beta * torch.einsum("oi,bohw->bihw", matrix, hidden)

    bound = pointwise_step(squared, beta, PIXELS)
    assert bound.l2_to_l2.item() == pytest.approx(max(1.0, 2 / share - 1))
    found = assert_never_below(step, bound, images())
    assert found["l2_to_l2"] > 0.9 and found["per_pixel_to_per_pixel"] > 0.8


def test_a_depthwise_convex_potential_step():
    """`W` a depthwise convolution behind a matrix, as in a Mix-FFN."""
    matrix, kernel = random(4, CHANNELS), random(4, 3, 3, seed=1)

    def inner(x: torch.Tensor) -> torch.Tensor:
        hidden = torch.einsum("oi,bihw->bohw", matrix, x)
        return functional.conv2d(hidden, kernel[:, None], padding=1, groups=4)

    def step(x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(inner(x) + 0.1)
        hidden = functional.conv_transpose2d(hidden, kernel[:, None], padding=1, groups=4)
        return x - 2 / beta * torch.einsum("oi,bohw->bihw", matrix, hidden)

    beta = exact_norm(inner, CHANNELS) ** 2
    taps = kernel.flatten(1).T[:, :, None] * matrix
    per_pixel = local_step_gain(convolution_gain(taps), convolution_gain(taps.transpose(1, 2)), beta)
    bound = convex_potential_step(beta, beta, per_pixel, PIXELS).within_window(25)
    found = assert_never_below(step, bound, images(), steps=40)
    assert found["l2_to_l2"] > 0.9
    assert bound.l2_to_l2.item() == 1 and bound.per_pixel_to_per_pixel.item() <= math.sqrt(PIXELS)
