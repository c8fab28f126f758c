"""
Operator norms of strided, zero-padded, grouped convolutions: exact, or proven upper bounds, at any size of images.

Padding with zeros and a border cut rows and columns out of the matrix of the same convolution on the infinite grid,
and no norm grows by that: all figures are those of the infinite grid, which large images come arbitrarily near.
Proofs in docs/lipschitz_constraints.md, section "Convolutions".

A convolution with stride s reads its input in blocks of s x s pixels. Taken as s^2 channels, they make it one with
stride 1 and ceil(k / s) *taps* an axis, each a matrix `A_ab` `(out, in * s^2)` a group: its polyphase form. At the
frequency w it multiplies by the *symbol* `H(w) = sum_ab A_ab exp(-i (a w_1 + b w_2))`, and the l2 norm of the
convolution is the largest singular value of all symbols.
"""

import math
from collections.abc import Sequence

import torch

from lrsegformer.layers.norms import l2_norm

# Symbols are sampled at so many frequencies for each tap beyond the first, on each of both axes: the bound is then at
# most 1 / cos(pi / 2 / points)^2 times the norm, 1.0097 (of single numbers) or 1.039 (of matrices).
POINTS_OF_NUMBERS = 16
POINTS_OF_MATRICES = 8
# Beyond this width of symbols (the smaller side) the eigendecompositions of all frequencies cost more than they give.
WIDEST_SYMBOL = 48


def overlap(kernel_size: Sequence[int], stride: Sequence[int]) -> int:
    """The largest number of kernel positions that cover one input pixel: the taps of the polyphase form."""
    down, across = _taps(kernel_size, stride)
    return down * across


def column_sums(kernel: torch.Tensor, stride: Sequence[int], groups: int) -> torch.Tensor:
    """
    The absolute column sums of a convolution's matrix, in float64, each at all entries of the kernel that are in it.

    An input pixel meets the kernel entries of one phase alone, those whose offsets leave its remainder on division by
    the stride. The largest is the l1 norm of the convolution: exact.

    Args:
        kernel (`torch.Tensor` of shape `(out, in / groups, height, width)`).

    Returns:
        `torch.Tensor` of the kernel's shape.
    """
    split = kernel.abs().double().unflatten(0, (groups, -1)).sum(dim=1)
    for dim, step in ((-2, stride[0]), (-1, stride[1])):
        size = split.shape[dim]
        phases = _split_axis(split, dim, step)
        sums = phases.sum(dim=dim - 1, keepdim=True).expand_as(phases).flatten(dim - 1, dim)
        split = sums.narrow(dim, 0, size)
    return split[:, None].expand(-1, kernel.shape[0] // groups, -1, -1, -1).reshape(kernel.shape)


def convolution_l2_norm(kernel: torch.Tensor, stride: Sequence[int], groups: int) -> torch.Tensor:
    """
    A proven upper bound, float64 scalar, of a convolution's largest singular value on images of any size and padding;
    differentiable as [`~lrsegformer.layers.norms.l2_norm`] is.

    - Where no two kernel positions overlap (kernel at most as large as the stride): the largest singular value of the
      reshaped kernel, exact.
    - Where the symbols are at most 48 wide, depthwise convolutions among them: the largest of their norms on a grid of
      frequencies, times what the norm can rise between grid points (at most 1.0097, of matrices 1.039).
    - Beyond: the largest singular value of the reshaped kernel times the square root of [`overlap`].

    Args:
        kernel (`torch.Tensor` of shape `(out, in / groups, height, width)`): any floating dtype.
    """
    taps = polyphase(kernel.double(), stride, groups)
    if taps.shape[-3] == 1:
        return l2_norm(_largest_group(taps.squeeze(-3)))
    width = min(taps.shape[-2:])
    if width == 1:
        return group_gains(kernel, stride, groups).max()
    if width > WIDEST_SYMBOL:
        reshaped = taps.movedim(-3, -2).flatten(-2)
        return l2_norm(_largest_group(reshaped)) * math.sqrt(taps.shape[-3])
    grid = _grid(kernel.shape[-2:], stride, POINTS_OF_MATRICES)
    symbols = _symbols(taps.detach(), kernel.shape[-2:], stride, grid)
    gram = symbols @ symbols.mH if symbols.shape[-2] <= symbols.shape[-1] else symbols.mH @ symbols
    largest = torch.linalg.eigvalsh(gram)[..., -1]
    group = largest.amax(dim=1).argmax()[None]
    frequency = largest.index_select(0, group)[0].argmax()[None]
    real, imaginary = _at(taps.index_select(0, group), kernel.shape[-2:], stride, grid, frequency)
    # The real form of a complex matrix has its singular values, each twice.
    real, imaginary = real[0], imaginary[0]
    embedded = torch.cat([torch.cat([real, -imaginary], dim=1), torch.cat([imaginary, real], dim=1)])
    return l2_norm(embedded) * _rise_between(kernel.shape[-2:], stride, grid)


def group_gains(kernel: torch.Tensor, stride: Sequence[int], groups: int) -> torch.Tensor:
    """
    As [`convolution_l2_norm`], of each group by itself `(groups,)`, where symbols have one row or one column: of a
    depthwise convolution, each channel's.
    """
    taps = polyphase(kernel.double(), stride, groups)
    grid = _grid(kernel.shape[-2:], stride, POINTS_OF_NUMBERS)
    squared = _symbols(taps.detach(), kernel.shape[-2:], stride, grid).abs().square().flatten(2).sum(dim=2)
    real, imaginary = _at(taps, kernel.shape[-2:], stride, grid, squared.argmax(dim=1))
    gains = (real.square() + imaginary.square()).flatten(1).sum(dim=1)
    # The square root has no derivative at 0: the smallest normal number keeps it finite there.
    gains = gains.clamp_min(torch.finfo(torch.float64).tiny).sqrt()
    return gains * _rise_between(kernel.shape[-2:], stride, grid)


def polyphase(kernel: torch.Tensor, stride: Sequence[int], groups: int) -> torch.Tensor:
    """The taps `(groups, taps, out / groups, in / groups * stride^2)` of a kernel, its ragged edge filled by zeros."""
    split = _split_axis(_split_axis(kernel.unflatten(0, (groups, -1)), -1, stride[1]), -3, stride[0])
    # groups, out, in, taps down, phase, taps across, phase
    return split.permute(0, 3, 5, 1, 2, 4, 6).flatten(4).flatten(1, 2)


def _split_axis(tensor: torch.Tensor, dim: int, step: int) -> torch.Tensor:
    """An axis as (taps, phase)."""
    missing = -tensor.shape[dim] % step
    padding = [0, 0] * (-dim - 1) + [0, missing]
    return torch.nn.functional.pad(tensor, padding).unflatten(dim, (-1, step))


def _largest_group(matrices: torch.Tensor) -> torch.Tensor:
    """Of matrices `(groups, rows, columns)` the one of largest norm: the groups' maps are side by side."""
    if len(matrices) == 1:
        return matrices[0]
    tall = matrices.detach() if matrices.shape[1] >= matrices.shape[2] else matrices.detach().mT
    largest = torch.linalg.eigvalsh(tall.mT @ tall)[..., -1].argmax()[None]
    return matrices.index_select(0, largest)[0]


def _taps(kernel_size: Sequence[int], stride: Sequence[int]) -> tuple[int, int]:
    return -(-kernel_size[0] // stride[0]), -(-kernel_size[1] // stride[1])


def _grid(kernel_size: Sequence[int], stride: Sequence[int], points: int) -> tuple[int, int]:
    """How many frequencies are sampled on each axis; a single tap is the same at all of them."""
    down, across = _taps(kernel_size, stride)
    return max(points * (down - 1), 1), max(points * (across - 1), 1)


def _rise_between(kernel_size: Sequence[int], stride: Sequence[int], grid: tuple[int, int]) -> float:
    """
    The largest factor by which a symbol's norm can exceed its norms on the grid.

    With t taps and n >= t grid points on an axis, a trigonometric polynomial of degree (t - 1) / 2 falls from its
    largest value M to no less than M cos((t - 1) / 2 * d) at the distance d (M. Riesz), and a grid point is within
    pi / n.
    """
    down, across = _taps(kernel_size, stride)
    return 1 / (math.cos(math.pi * (down - 1) / 2 / grid[0]) * math.cos(math.pi * (across - 1) / 2 / grid[1]))


def _symbols(
    taps: torch.Tensor, kernel_size: Sequence[int], stride: Sequence[int], grid: tuple[int, int]
) -> torch.Tensor:
    """Symbols `(groups, frequencies, out, in)`; of each frequency and its negative, which are conjugate, one."""
    spread = taps.unflatten(1, _taps(kernel_size, stride))
    return torch.fft.rfft2(spread, s=grid, dim=(1, 2)).flatten(1, 2)


def _at(
    taps: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    grid: tuple[int, int],
    frequency: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Real and imaginary part of each group's symbol at its `frequency` `(groups,)`, a position in [`_symbols`]."""
    half = grid[1] // 2 + 1
    places = torch.stack([frequency // half / grid[0], frequency % half / grid[1]], dim=-1)
    down, across = _taps(kernel_size, stride)
    position = torch.arange(down * across, device=taps.device)
    offsets = torch.stack([position // across, position % across], dim=-1).to(taps.dtype)
    angles = 2 * math.pi * places.to(taps.dtype) @ offsets.T
    waves = angles[..., None, None]
    return (taps * waves.cos()).sum(dim=1), -(taps * waves.sin()).sum(dim=1)
