"""
Where upsampled logits are settled by the pixels that they are upsampled from.

Bilinear interpolation is linear: between four neighbouring pixels of one class `a`, a *cell*, every upsampled pixel
has class `a`, and how far it is from class b is interpolated between its corners' `(z_a - z_b) / |w_a - w_b|`. These
are found once for each of the few pixels of the logits, upsampled as logits are, and their minimum over b is the
certified distance. Only pixels of cells whose corners differ have to be looked at one by one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

OPEN = -1


class SettledCells(NamedTuple):
    """
    Attributes:
        classes (`torch.Tensor`): `(height + 1, width + 1)`, int16: the class of each cell, those at the edges
            included; `OPEN` where the corners do not settle it.
        distances (`torch.Tensor`): `(num_labels, height, width)`, float32, finite. Upsampled in float32, their minimum
            over the classes is a certified distance at every pixel of a cell that is not open.
    """

    classes: Tensor
    distances: Tensor


def settled_cells(logits: Tensor, inverse: Tensor, slack: Tensor) -> SettledCells:
    """
    Classes and distances from the corners of cells.

    Every margin is lowered by `slack`, twice what upsampling a logit in float32 can be off by, before it becomes a
    distance. That covers all of the upsampling: the distances are at most `2 max|z| / |w_a - w_b|`, so that
    upsampling them is off by at most `slack / |w_a - w_b|`, which they were lowered by; and a corner counts only if
    all of its lowered margins are positive, so that no other class wins where the logits themselves are upsampled.

    Args:
        logits (`torch.Tensor` of shape `(num_labels, height, width)`): float32, finite.
        inverse (`torch.Tensor` of shape `(num_labels, num_labels)`): of
            [`~lrsegformer.certification.margins.inverse_distances`].
        slack (`torch.Tensor`): a scalar.
    """
    largest, classes = logits.max(dim=0)
    distances = torch.sub(largest - slack, logits)
    # Ties may name any class: their margins are not positive.
    settles = distances.scatter_(0, classes[None], torch.inf).amin(dim=0) > 0
    distances *= inverse.index_select(1, classes.flatten()).view_as(distances)
    # Neither the class itself nor one whose logits differ by a bias alone is nearest: they are put at the farthest.
    farthest = distances.masked_fill(distances.isinf(), 0.0).amax(dim=0)
    settles &= farthest > 0
    distances = torch.minimum(distances, farthest).masked_fill_(~settles, 0.0)
    corners = with_edges(torch.where(settles, classes, OPEN)[None].float())[0].short()
    return SettledCells(_agreeing(*_agreeing(corners[:-1], corners[1:]).unfold(1, 2, 1).unbind(2)), distances)


def with_edges(maps: Tensor) -> Tensor:
    """Maps `(maps, height, width)`, float32, with their edges repeated once."""
    return torch.nn.functional.pad(maps, (1, 1, 1, 1), mode="replicate")


def _agreeing(one: Tensor, other: Tensor) -> Tensor:
    return torch.where(one == other, one, OPEN)
