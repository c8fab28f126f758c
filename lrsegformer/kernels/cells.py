"""Bilinear upsampling of single cells: of the new pixels between two neighbouring old ones along either axis."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from lrsegformer.kernels.bilinear import interpolation_matrix


class CellsOfAxis(NamedTuple):
    """
    The cells along an axis: number i lies between the old places i - 1 and i, the first and the last at the edges.

    Attributes:
        of_place (`torch.Tensor` of shape `(new_size,)`): the cell of each new place, int64.
        places (`torch.Tensor` of shape `(size + 1, k)`): int64, the new places of each cell, the last one repeated.
        lower (`torch.Tensor`), upper (`torch.Tensor`): float32 of that shape, the weights of the old places i - 1, i.
    """

    of_place: Tensor
    places: Tensor
    lower: Tensor
    upper: Tensor


@lru_cache(maxsize=64)
def cells_of_axis(size: int, new_size: int, device: torch.device | str = "cpu") -> CellsOfAxis | None:
    """
    The cells of upsampling by linear interpolation; `None` where one would be empty: downsampling, the same size, or a
    single old place.
    """
    # A tensor made in inference mode could not be used in training later.
    with torch.inference_mode(False):
        matrix = interpolation_matrix(size, new_size)
        used = (matrix != 0).byte()
        # At most two neighbouring entries of a row are not 0; only those before the middle of the first end there.
        is_at_start = used[:, 1:].sum(dim=1) == 0
        of_place = torch.where(is_at_start, 0, used.argmax(dim=1) + 1)
        counts = torch.bincount(of_place, minlength=size + 1)
        if not counts.all():
            return None
        firsts = counts.cumsum(0) - counts
        places = firsts[:, None] + torch.minimum(torch.arange(int(counts.max())), counts[:, None] - 1)
        cell = torch.arange(size + 1)[:, None]
        upper = matrix[places, cell.clamp_max(size - 1)]
        upper[0] = 0.0
        lower = matrix[places, (cell - 1).clamp_min(0)]
        # At the end the two old places are the same one, which counts once.
        upper[-1] = 0.0
        return CellsOfAxis(*(each.to(device) for each in (of_place, places, lower, upper)))


def upsample_cells(
    maps: Tensor, rows: CellsOfAxis, columns: CellsOfAxis, row: Tensor, column: Tensor
) -> tuple[Tensor, Tensor]:
    """
    Upsample some cells.

    Args:
        maps (`torch.Tensor` of shape `(maps, height + 2, width + 2)`): float32, with the edges repeated once.
        rows ([`CellsOfAxis`]), columns ([`CellsOfAxis`]): of both axes.
        row (`torch.Tensor` of shape `(n,)`), column (`torch.Tensor` of shape `(n,)`): the cells' numbers, int64.

    Returns:
        The values `(maps, rows * columns * n)`, and where they belong in a flattened map.
    """
    # The cells come last: sums of long rows are what a processor is fast at.
    corners = [maps[:, row + i, column + j][:, None] for i in range(2) for j in range(2)]
    left, right = columns.lower.T[:, column], columns.upper.T[:, column]
    top, bottom = ((corners[i] * left).addcmul_(corners[i + 1], right)[:, None] for i in (0, 2))
    values = (top * rows.lower.T[:, None, row]).addcmul_(bottom, rows.upper.T[:, None, row])
    places = columns.of_place.numel() * rows.places.T[:, None, row] + columns.places.T[:, column]
    return values.flatten(1), places.flatten()
