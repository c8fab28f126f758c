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
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lrsegformer.certification.settled_cells import OPEN, SettledCells, settled_cells, with_edges
from lrsegformer.errors import InputError
from lrsegformer.evaluation.prediction import check_logits
from lrsegformer.kernels.bilinear import BandedUpsampling, full_precision_products, upsampling_error
from lrsegformer.kernels.cells import CellsOfAxis, cells_of_axis, upsample_cells

# Looking at cells first pays where they hold several pixels, and most of them settle what these are.
FEWEST_PIXELS_OF_CELL = 4
LARGEST_OPEN_SHARE = 0.5
# Entries of upsampled cells held at a time.
CHUNK_ENTRIES_ON_CPU = 2**17
CHUNK_ENTRIES = 2**26
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
    The classes of logits and their certified distances.

    Upsampled logits are looked at only where the pixels that they come from differ in class, and band by band where
    those are many. The classes are those of [`~lrsegformer.evaluation.predict_classes`]. A distance is rounded down:
    it covers the rounding of the upsampling, of the table and of its own arithmetic. It does not cover that inside the
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
    # A margin is the difference of two logits. What the bound of their error has to spare covers the slack's rounding.
    slack_share = 2 * upsampling_error(maps.shape[2:], target)
    slacks = torch.linalg.vector_norm(maps.flatten(1), ord=torch.inf, dim=1).float() * slack_share
    upsampling = BandedUpsampling(num_labels, maps.shape[2:], target, torch.float32, maps.device, with_gradient=False)
    cells = _cells(maps.shape[2:], target, maps.device)
    with full_precision_products():
        for image in range(batch):
            found = CertifiedPixels(classes[image], distances[image])
            logits_of_image, slack = maps[image].float(), slacks[image]
            settled = None if cells is None else settled_cells(logits_of_image, inverse, slack)
            if settled is not None and (settled.classes == OPEN).float().mean() <= LARGEST_OPEN_SHARE:
                _certify_by_cells(upsampling, cells, logits_of_image, settled, inverse, slack, found)
            else:
                _certify_every_pixel(upsampling, logits_of_image, inverse, slack, found)
    if logits.ndim == 2:
        return CertifiedPixels(classes[:, 0, 0], distances[:, 0, 0])
    return CertifiedPixels(classes, distances)


def _class_dtype(num_labels: int) -> torch.dtype:
    return torch.uint8 if num_labels <= 256 else torch.int16


def _cells(size: Sequence[int], target: Sequence[int], device: torch.device) -> tuple[CellsOfAxis, CellsOfAxis] | None:
    """The cells along rows and columns, where it pays to look at them."""
    if target[0] * target[1] < FEWEST_PIXELS_OF_CELL * size[0] * size[1]:
        return None
    rows, columns = (cells_of_axis(old, new, device) for old, new in zip(size, target, strict=True))
    return None if rows is None or columns is None else (rows, columns)


def _certify_every_pixel(
    upsampling: BandedUpsampling, logits: Tensor, inverse: Tensor, slack: Tensor, found: CertifiedPixels
) -> None:
    """Fill in what is found of an image's logits `(num_labels, height, width)`, looking at all of its pixels."""
    scratch = None
    for rows, band in upsampling.bands_of(logits):
        # The first band is as large as any: memory taken anew for each would be a large part of the time.
        scratch = torch.empty_like(band).flatten() if scratch is None else scratch
        found.classes[rows], found.distances[rows] = _certify_band(band, inverse, slack, scratch[: band.numel()])


def _certify_by_cells(
    upsampling: BandedUpsampling,
    cells: tuple[CellsOfAxis, CellsOfAxis],
    logits: Tensor,
    settled: SettledCells,
    inverse: Tensor,
    slack: Tensor,
    found: CertifiedPixels,
) -> None:
    """The same, looking only at the pixels of cells that their corners leave open."""
    rows, columns = cells
    for band_rows, band in upsampling.bands_of(settled.distances):
        torch.amin(band, dim=1, out=found.distances[band_rows])
    found.classes.copy_(settled.classes.index_select(1, columns.of_place).index_select(0, rows.of_place))
    edged = with_edges(logits)
    entries = CHUNK_ENTRIES_ON_CPU if logits.device.type == "cpu" else CHUNK_ENTRIES
    at_once = max(1, entries // (len(logits) * rows.places.shape[1] * columns.places.shape[1]))
    unsure = []
    for part in (settled.classes == OPEN).nonzero().split(at_once):
        values, places = upsample_cells(edged, rows, columns, *part.unbind(1))
        classes, distances = _certify_band(values[None], inverse, slack, torch.empty_like(values).flatten())
        found.classes.view(-1)[places] = classes[0].to(found.classes.dtype)
        found.distances.view(-1)[places] = distances[0]
        unsure.append(places[distances[0] <= 0])
    _classify_as_bands_do(upsampling, logits, torch.cat(unsure) if unsure else None, found.classes)


def _classify_as_bands_do(
    upsampling: BandedUpsampling, logits: Tensor, places: Tensor | None, classes: Tensor
) -> None:
    """
    Fill in the classes at some places of the flattened map: where two logits are equal to rounding, the class is the
    one that [`~lrsegformer.evaluation.predict_classes`] finds.
    """
    if places is None or len(places) == 0:
        return
    width = classes.shape[1]
    wanted = set(places.div(width, rounding_mode="floor").tolist())
    for rows, band in upsampling.bands_of(logits, rows=wanted):
        inside = places[(places >= rows.start * width) & (places < rows.stop * width)]
        values = band[inside.div(width, rounding_mode="floor") - rows.start, :, inside % width]
        classes.view(-1)[inside] = values.argmax(dim=1).to(classes.dtype)


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
    factor = min(ROUNDING_DOWN / constant, torch.finfo(torch.float32).max)
    if factor < torch.finfo(torch.float32).tiny:
        # Infinite, or so large that float32 cannot divide by it; and 0 times an infinite distance is no number.
        return torch.zeros_like(distances)
    return distances * factor
