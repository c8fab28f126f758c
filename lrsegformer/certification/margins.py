"""
From logits to certified radii: how far a pixel's features have to move before another class can win.

Logits are `W f + b` with `f` the features that the classifier multiplies, so the difference of two logits moves by at
most `|w_a - w_b|` times the l2 distance that the features move. A pixel whose class is `a` therefore keeps it as long
as its features move by less than

    min over b != a of (z_a - z_b) / |w_a - w_b|

its *certified distance*. Upsampled logits are `W (U f) + b`, because the weights of bilinear interpolation sum to 1;
they are also not negative, so no pixel of `U f` moves farther than the farthest pixel of `f`. A network whose features
move by at most `K` times the perturbation, in the largest over pixels of the l2 norm over channels, keeps the pixel's
class within the radius `distance / K`. Nothing is paid for the upsampling.

Source of the margin rule: Tsuzuku et al. 2018, "Lipschitz-Margin Training" (arXiv 1802.04034), here with the distance
of each pair of rows in the place of `sqrt(2)` times the largest.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lrsegformer.errors import InputError
from lrsegformer.evaluation.prediction import check_logits
from lrsegformer.kernels.bilinear import BandedUpsampling, full_precision_products

# The two upsampled logits of a margin are each off by at most 6 roundings of float32 (along each axis the weight, the
# product and the sum) of the largest logit: 12 * 2^-24 in all. This is 16 * 2^-24.
UPSAMPLING_SLACK = 2.0**-20
# More than the roundings of a difference, an inverse distance, a product and a quotient in float32 (5 * 2^-24).
ROUNDING_DOWN = 1 - 1e-6


class CertifiedPixels(NamedTuple):
    """
    What logits say, and how far it holds.

    Attributes:
        classes (`torch.Tensor`): `(batch, height, width)`, or `(batch,)` for classification; uint8 up to 256 classes,
            int16 above.
        distances (`torch.Tensor`): float32 of that shape: any move of a pixel's features that is shorter, in l2,
            leaves its class as it is; 0 where classes are tied, infinite where no other class can win.
    """

    classes: Tensor
    distances: Tensor


def inverse_distances(rows: Tensor) -> Tensor:
    """
    The table of `1 / |w_a - w_b|`, rounded down to float32.

    Args:
        rows (`torch.Tensor` of shape `(num_labels, width)`): the classifier's weight, in float64.

    Returns:
        `torch.Tensor` of shape `(num_labels, num_labels)`, float32: infinite where two rows coincide (their logits
        differ by their biases alone, whatever the features are), 1 on the diagonal.

    Raises:
        [`~lrsegformer.errors.InputError`]: rows of another shape or dtype, a single one, or values not finite.
    """
    if rows.ndim != 2 or len(rows) < 2 or rows.dtype != torch.float64 or not torch.isfinite(rows).all():
        raise InputError(
            f"classifier rows of shape {tuple(rows.shape)} and type {rows.dtype}: a certificate needs finite float64 "
            "rows (num_labels, width) of two classes or more."
        )
    # Row by row: the expanded square of a difference would cancel, and all differences at once would not fit.
    distances = torch.stack([torch.linalg.vector_norm(rows - row, dim=1) for row in rows])
    inverse = (ROUNDING_DOWN / distances).float()
    return inverse.fill_diagonal_(1.0)


@torch.no_grad()
def certified_pixels(logits: Tensor, inverse: Tensor, size: tuple[int, int] | None = None) -> CertifiedPixels:
    """
    The classes of logits and their certified distances, in one pass over bands of the upsampled logits.

    The classes are those of [`~lrsegformer.evaluation.predict_classes`]. A distance is rounded down: it covers the
    rounding of the upsampling, of the table and of its own arithmetic. It does not cover the rounding inside the
    network's forward pass, so it speaks of the network in exact arithmetic at the logits that were computed.

    Args:
        logits (`torch.Tensor` of shape `(batch, num_labels, height, width)` or `(batch, num_labels)`): floating point.
        inverse (`torch.Tensor`): of [`inverse_distances`], on the device of the logits.
        size (`tuple[int, int]`, *optional*): height and width to upsample to; by default those of the logits.

    Returns:
        [`CertifiedPixels`]. Memory beyond it: a few bands of the upsampled logits.

    Raises:
        [`~lrsegformer.errors.InputError`]: the logits have another shape than the table says.
        [`~lrsegformer.errors.NotFiniteError`]: they hold nan or infinity.
    """
    if logits.ndim not in (2, 4) or logits.shape[1] != len(inverse):
        raise InputError(
            f"logits of shape {tuple(logits.shape)}: a certificate of {len(inverse)} classes needs "
            "(batch, num_labels, height, width) or (batch, num_labels)."
        )
    check_logits(logits)
    batch, num_labels, *source_size = logits.shape
    target = (1, 1) if logits.ndim == 2 else tuple(source_size if size is None else size)
    maps = logits if logits.ndim == 4 else logits[:, :, None, None]
    classes = torch.empty(batch, *target, dtype=_class_dtype(num_labels), device=logits.device)
    distances = torch.empty(batch, *target, dtype=torch.float32, device=logits.device)
    # At their own size logits are taken as they are.
    slack_share = UPSAMPLING_SLACK if target != tuple(maps.shape[2:]) else 0.0
    slacks = torch.linalg.vector_norm(maps.flatten(1), ord=torch.inf, dim=1).float() * slack_share
    upsampling = BandedUpsampling(num_labels, maps.shape[2:], target, torch.float32, maps.device, with_gradient=False)
    scratch = None
    with full_precision_products():
        for image in range(batch):
            for rows, band in upsampling.bands_of(maps[image]):
                # The first band is as large as any: memory taken anew for each would be a large part of the time.
                scratch = torch.empty_like(band).flatten() if scratch is None else scratch
                found = _certify_band(band, inverse, slacks[image], scratch[: band.numel()])
                classes[image, rows], distances[image, rows] = found
    if logits.ndim == 2:
        return CertifiedPixels(classes[:, 0, 0], distances[:, 0, 0])
    return CertifiedPixels(classes, distances)


def _class_dtype(num_labels: int) -> torch.dtype:
    return torch.uint8 if num_labels <= 256 else torch.int16


def _certify_band(band: Tensor, inverse: Tensor, slack: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
    """
    Classes and distances `(rows, width)` of upsampled logits `(rows, num_labels, width)`, which are overwritten, as is
    `scratch`, of as many entries.
    """
    num_labels = len(inverse)
    largest = band.amax(dim=1, keepdim=True)
    # The largest product of "is the maximum" and this is at the lowest class: two passes that argmax needs longer for.
    places = torch.arange(num_labels, 0, -1, dtype=torch.float32, device=band.device)[:, None]
    is_largest = torch.ge(band, largest, out=scratch.view(band.shape))
    classes = num_labels - is_largest.mul_(places).amax(dim=1).long()
    margins = torch.sub(largest - slack, band, out=band)
    margins.scatter_(1, classes[:, None], torch.inf)
    # The row of the table of each pixel's class, laid out as the band is.
    factors = torch.index_select(inverse, 1, classes.flatten(), out=scratch.view(num_labels, -1))
    distances = margins.mul_(factors.view(num_labels, *classes.shape).transpose(0, 1)).amin(dim=1)
    # A margin of 0 between classes of one row (0 * inf) is a tie.
    return classes, distances.nan_to_num_(nan=0.0, posinf=torch.inf).clamp_min_(0.0)


def certified_radii(distances: Tensor, constant: float) -> Tensor:
    """
    Radii in the norm of the input: distances over a Lipschitz constant, rounded down.

    Args:
        distances (`torch.Tensor`): of [`certified_pixels`].
        constant (`float`): a proven bound of how far features move, in the largest over pixels of the l2 norm over
            channels, for a perturbation of length 1. Infinite where there is none: the radii are 0 then.

    Returns:
        `torch.Tensor`: float32. Any perturbation shorter than the radius leaves the class as it is.

    Raises:
        [`~lrsegformer.errors.InputError`]: a constant that is negative or nan.
    """
    if math.isnan(constant) or constant < 0:
        raise InputError(f"a Lipschitz constant of {constant}: a certificate needs a number that is not negative.")
    if constant == 0:
        return torch.where(distances > 0, torch.inf, 0.0)
    if math.isinf(constant):
        return torch.zeros_like(distances)
    return (distances.double() / constant * ROUNDING_DOWN).float()
