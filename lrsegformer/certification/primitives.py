"""
The constants of the parts that networks are made of, each a function of the norms and sizes that determine them.

Proofs in docs/lipschitz_constraints.md. Biases, positions that are added and dropout in eval mode change no constant.
A kernel is given by its taps, `(taps, out, in)`: the matrix that each offset of the window is multiplied by.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch

from lrsegformer.certification.calculus import Constants, constants
from lrsegformer.certification.parts import finite_norm
from lrsegformer.kernels.bilinear import interpolation_matrix

# Steps of the multiplicative update of a depthwise kernel's gain; any number of them leaves a proven bound.
GAIN_STEPS = 20


def pointwise(norm: torch.Tensor | float, pixels: int | None = None) -> Constants:
    """Of a matrix on the channels of every pixel, by its largest singular value or a bound of it."""
    return constants(norm, norm, pixels, pixels)


def non_expansive(pixels_in: int | None = None, pixels_out: int | None = None) -> Constants:
    """
    Of a map that neither norm grows under: ReLU, clipping onto a ball, subtracting the mean over channels or adding a
    constant, pixel by pixel; padding by zeros and cropping, which change the number of pixels.
    """
    return constants(1.0, 1.0, pixels_in, pixels_in if pixels_out is None else pixels_out)


def space_to_depth(block: int, pixels: int | None = None) -> Constants:
    """
    Of blocks of `block` x `block` pixels made one pixel each, of `block^2` times as many channels; `pixels` before.
    """
    return constants(1.0, block, pixels, None if pixels is None else pixels // block**2)


def convolution(
    l2: torch.Tensor | float,
    taps: torch.Tensor,
    pixels_in: int | None = None,
    pixels_out: int | None = None,
) -> Constants:
    """
    Of a convolution with zero padding and any stride.

    Args:
        l2 (`torch.Tensor` or `float`): a bound of its norm from l2 to l2.
        taps (`torch.Tensor` of shape `(taps, out, in)`): its kernel.
        pixels_in (`int`, *optional*), pixels_out (`int`, *optional*).
    """
    window = finite_norm(torch.cat(list(taps.double()), dim=1), "l2")
    return constants(l2, convolution_gain(taps), pixels_in, pixels_out, l2_to_per_pixel=window)


def depthwise_convolution(
    l2: torch.Tensor | float, kernel: torch.Tensor, pixels_in: int | None = None, pixels_out: int | None = None
) -> Constants:
    """[`convolution`] where each channel has a kernel of its own: `kernel` `(channels, taps)`."""
    window = torch.linalg.vector_norm(kernel.double(), dim=1).amax()
    return constants(l2, depthwise_gain(kernel), pixels_in, pixels_out, l2_to_per_pixel=window)


def convolution_gain(taps: torch.Tensor) -> torch.Tensor:
    """
    A bound of a convolution's factor from per pixel to per pixel, differentiable.

    For all `q_t > 0`, `abs(sum_t K_t z_t) <= sqrt(sum_t q_t) sigma([K_t / sqrt(q_t)]_t)` where every `abs(z_t) <= 1`
    (Cauchy-Schwarz). Here `q_t` is the norm of the tap, which gives no more than the sum of the taps' norms; the
    gradient is that of the bound at these `q_t`.

    Args:
        taps (`torch.Tensor` of shape `(taps, out, in)`): the kernel.
    """
    taps = taps.double()
    shares = torch.stack([finite_norm(tap, "l2") for tap in taps.detach()]).clamp_min(torch.finfo(torch.float64).tiny)
    scaled = torch.cat(list(taps / shares.sqrt()[:, None, None]), dim=1)
    return shares.sum().sqrt() * finite_norm(scaled, "l2")


def depthwise_gain(kernel: torch.Tensor) -> torch.Tensor:
    """
    A bound of a depthwise convolution's factor from per pixel to per pixel, differentiable: nearly exact.

    It is *not* the largest l1 norm of a channel's kernel: where one channel looks left and another right, a pixel
    receives from two neighbours what each of them has in one channel. For all `q_t > 0` it is at most
    `sqrt(sum_t q_t max_c sum_t k_ct^2 / q_t)`, and the smallest of these is the factor. The gradient is that of the
    bound at the `q_t` that were found.

    Args:
        kernel (`torch.Tensor` of shape `(channels, taps)`): of each channel.
    """
    squares, tiny = kernel.double().square(), torch.finfo(torch.float64).tiny
    with torch.no_grad():
        weights = torch.full_like(squares[:, 0], 1 / len(squares))
        for _ in range(GAIN_STEPS):
            shares = (weights @ squares).sqrt().clamp_min(tiny)
            weights = weights * (squares / shares).sum(dim=1) / shares.sum()
        shares = (weights @ squares).sqrt().clamp_min(tiny)
    largest = (squares / shares).sum(dim=1).amax()
    # The square root has no derivative at 0, as in the norms of matrices.
    return (shares.sum() * largest).clamp_min(tiny).sqrt()


def separable(along_height: torch.Tensor, along_width: torch.Tensor) -> Constants:
    """
    Of a resize: `along_height @ x @ along_width.T` for each channel, exact in each pair of norms that pays.

    Args:
        along_height (`torch.Tensor` of shape `(new_height, height)`): a matrix, as of an antialiased resize.
        along_width (`torch.Tensor` of shape `(new_width, width)`).
    """
    matrices = [along_height.double(), along_width.double()]
    l2, per_pixel, window = (
        math.prod(norms)
        for norms in zip(
            *((finite_norm(m, "l2"), finite_norm(m, "linf"), m.norm(dim=1).amax()) for m in matrices), strict=True
        )
    )
    pixels_out, pixels_in = (math.prod(sides) for sides in zip(*(m.shape for m in matrices), strict=True))
    return constants(l2, per_pixel, pixels_in, pixels_out, l2_to_per_pixel=window)


@lru_cache(maxsize=256)
def upsampling(size: Sequence[int], new_size: Sequence[int]) -> Constants:
    """
    Of bilinear resampling (`align_corners=False`, no antialiasing) from `size` to `new_size`, tuples of height and
    width: 1 per pixel; in l2 the factor where it is an integer, and always that of the two matrices.
    """
    with torch.inference_mode(False), torch.no_grad():
        pairs = zip(size, new_size, strict=True)
        return separable(*(interpolation_matrix(old, new, torch.float64) for old, new in pairs))


def mean_over_positions(pixels: int) -> Constants:
    """Of the mean over all pixels, one vector: `1 / sqrt(pixels)` from l2, 1 from the largest pixel."""
    return constants(1 / math.sqrt(pixels), 1.0, pixels, 1)


def convex_potential_step(
    squared_norm: torch.Tensor | float,
    beta: torch.Tensor | float,
    per_pixel: torch.Tensor | float = math.inf,
    pixels: int | None = None,
) -> Constants:
    """
    Of `x - (2 / beta) W^T relu(W x + b)` (Meunier et al. 2022, arXiv 2110.12690), a step down a convex function.

    Its Jacobian is symmetric with eigenvalues between `1 - 2 sigma(W)^2 / beta` and 1: a norm of exactly 1 wherever
    `beta >= sigma(W)^2`, and otherwise what is left of the first.

    Args:
        squared_norm (`torch.Tensor` or `float`): `sigma(W)^2`, or a bound of it, of the `W` that is multiplied by.
        beta (`torch.Tensor` or `float`): what it is divided by.
        per_pixel (`torch.Tensor` or `float`):
            A bound of the step's factor from per pixel to per pixel: [`local_step_gain`] of a convolution, and the l2
            constant where `W` acts on channels alone ([`pointwise_step`]).
        pixels (`int`, *optional*).
    """
    return constants(_step_norm(squared_norm, beta), per_pixel, pixels, pixels)


def pointwise_step(
    squared_norm: torch.Tensor | float, beta: torch.Tensor | float, pixels: int | None = None
) -> Constants:
    """[`convex_potential_step`] where `W` acts on the channels of each pixel: then so does the step."""
    norm = _step_norm(squared_norm, beta)
    return constants(norm, norm, pixels, pixels)


def local_step_gain(
    gain: torch.Tensor | float, adjoint_gain: torch.Tensor | float, beta: torch.Tensor | float
) -> torch.Tensor:
    """
    From per pixel to per pixel of a convex-potential step, by the same gains of `W` and of its adjoint:
    `1 + 2 gain adjoint_gain / beta`.
    """
    return 1 + 2 * torch.as_tensor(gain, dtype=torch.float64) * adjoint_gain / beta


def _step_norm(squared_norm: torch.Tensor | float, beta: torch.Tensor | float) -> torch.Tensor:
    return (2 * torch.as_tensor(squared_norm, dtype=torch.float64) / beta - 1).clamp_min(1.0)
