"""The certified network's Mix-FFN: steps down convex functions, each 1-Lipschitz in l2 without damping."""

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import conv2d

from lrsegformer.certification.calculus import Constants, sequence
from lrsegformer.certification.primitives import (
    convex_potential_step,
    depthwise_gain,
    local_step_gain,
    pointwise_step,
)
from lrsegformer.kernels.norm_relu_classifier import multiply_pixels
from lrsegformer.kernels.precision import at_least_float32, without_autocast
from lrsegformer.layers.merged_maps import MergedMapsMixin
from lrsegformer.models.configuration_lrsegformer import LRSegformerConfig
from lrsegformer.models.encoder.pointwise import PointwiseMap

# A step folds one of so many directions: folding all at once costs more than half of what varies over an image.
FOLDED_PART = 4
# Points of the grid of frequencies, along each axis, on which the gain of a kernel is looked for.
GRID = 32
# The gain of a kernel without weights: it stays one.
SMALLEST_GAIN = 1e-12


def frequency_gain(kernel: torch.Tensor) -> torch.Tensor:
    """
    A bound of the l2 norm of each channel's convolution, stride 1 and zero padding, from its frequency response.

    On the infinite grid the norm is the supremum of the response over all frequencies, and zero padding cuts a piece
    out of that. Along one axis the response of a kernel of k taps is, up to a phase, a trigonometric polynomial of
    degree (k - 1) / 2, and the largest value of its absolute value on a grid of n points falls short of the supremum
    by at most the factor `cos(pi (k - 1) / 2n)` (Ehlich and Zeller 1964).

    Args:
        kernel (`torch.Tensor` of shape `(channels, k, k)`), k odd: float32 or float64.

    Returns:
        `torch.Tensor` of shape `(channels,)`, differentiable.
    """
    response = torch.fft.rfft2(kernel, s=(GRID, GRID)).abs()
    # The other half of the frequencies has the same absolute values: the kernel is real.
    return response.amax(dim=(1, 2)) / math.cos(math.pi * (kernel.shape[-1] - 1) / 2 / GRID) ** 2


class KernelMaps(NamedTuple):
    """A kernel `(channels, 1, k, k)`."""

    kernel: torch.Tensor


class UnitGainDepthwiseConv(MergedMapsMixin, nn.Module):
    """
    The weights of a depthwise convolution, stride 1 and zero padding, whose channels are divided by their gains.

    Args:
        channels (`int`).
        kernel_size (`int`, *optional*, defaults to 3): odd.
    """

    def __init__(self, channels: int, kernel_size: int = 3):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, 1, kernel_size, kernel_size))

    def kernel(self) -> torch.Tensor:
        """`(channels, 1, k, k)`, float32, each channel's with a gain of at most 1 up to rounding."""
        kept = None if self.training else self.constant_maps()
        return (self.eval_maps() if kept is None else kept).kernel

    def eval_maps(self) -> KernelMaps:
        with without_autocast(self.weight.device.type):
            weight = at_least_float32(self.weight)
            gain = frequency_gain(weight[:, 0]).clamp_min(SMALLEST_GAIN)
            return KernelMaps(weight / gain[:, None, None, None])


class ConvexPotentialStep(nn.Module):
    """
    `x - (2 / beta) W^T relu(W x + b)`: a step down the convex function `sum(relu(W x + b)^2) / beta`.

    `W` is a matrix on channels, followed by a depthwise convolution where there is one, and `beta >= sigma(W)^2`. The
    Jacobian is symmetric with eigenvalues in [-1, 1], so that the step needs no damping to be 1-Lipschitz in l2. With
    orthonormal rows alone it mirrors the directions in which `W x + b` is positive, and keeps the others.

    The map folds space along each row, and what lies on both sides of a fold can no longer be told apart: a few folds
    a step, a quarter of the channels, let more of the signal through than many.

    Args:
        config ([`LRSegformerConfig`]): the strategy that makes the matrix.
        channels (`int`): of the pixels; `W` has a quarter as many rows.
        depthwise (`bool`): whether the step looks at neighbours.

    Source: Meunier et al. 2022 (arXiv 2110.12690), Araujo et al. 2023 (arXiv 2303.03169).
    """

    def __init__(self, config: LRSegformerConfig, channels: int, depthwise: bool):
        super().__init__()
        folds = max(1, channels // FOLDED_PART)
        self.matrix = PointwiseMap(config, channels, folds)
        self.dwconv = UnitGainDepthwiseConv(folds) if depthwise else None
        self.bias = nn.Parameter(torch.zeros(folds))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The step from `hidden_states` `(batch, channels, height, width)`."""
        matrix, bound = self.matrix.maps()
        hidden = multiply_pixels(matrix, hidden_states, None if self.dwconv is not None else self.bias)
        if self.dwconv is None:
            hidden = hidden.relu()
        else:
            kernel = self.dwconv.kernel().to(hidden.dtype)
            padding, groups = kernel.shape[-1] // 2, kernel.shape[0]
            hidden = conv2d(hidden, kernel, self.bias.to(hidden.dtype), padding=padding, groups=groups).relu()
            # The adjoint of a convolution with zero padding is the one with the kernel turned around.
            hidden = conv2d(hidden, kernel.flip(2, 3), padding=padding, groups=groups)
        return hidden_states + multiply_pixels(matrix.T * (-2 / bound.square()), hidden)

    def constants(self, pixels: int) -> Constants:
        """Of the step in eval mode and float32 weights, on maps of this many pixels."""
        matrix, bound = (each.double() for each in self.matrix.maps())
        squared_norm = self.matrix.norm().square()
        if self.dwconv is None:
            return pointwise_step(squared_norm, bound.square(), pixels)
        kernel = self.dwconv.kernel().double()[:, 0]
        gain = frequency_gain(kernel).amax()
        taps = kernel.flatten(1)
        gains = depthwise_gain(taps), depthwise_gain(taps.flip(1))
        per_pixel = local_step_gain(gains[0] * squared_norm.sqrt(), gains[1] * squared_norm.sqrt(), bound.square())
        return convex_potential_step(squared_norm * gain.square(), bound.square(), per_pixel, pixels)


class CertifiedMixFFN(nn.Module):
    """
    `mlp_ratio` convex-potential steps in place of a hidden layer that is `mlp_ratio` times as wide.

    One wide step would have a frame of vectors for the rows of `W`, and with half of them active it shrinks every
    pixel towards 0.

    Args:
        config ([`LRSegformerConfig`]), channels (`int`), ratio (`int`): steps.
    """

    def __init__(self, config: LRSegformerConfig, channels: int, ratio: int):
        super().__init__()
        self.steps = nn.ModuleList(ConvexPotentialStep(config, channels, depthwise=True) for _ in range(ratio))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The steps from `hidden_states` `(batch, channels, height, width)`."""
        for step in self.steps:
            hidden_states = step(hidden_states)
        return hidden_states

    def constants(self, pixels: int) -> Constants:
        """Of all steps in eval mode, on maps of this many pixels."""
        return sequence([step.constants(pixels) for step in self.steps])
