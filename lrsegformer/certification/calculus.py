"""
The calculus of constants of a network: by how much a change of its input can grow, in two norms, part by part.

Two norms of a map with channels and pixels: `l2`, over all of it, and `per_pixel`, the largest over pixels of the l2
norm over channels. A part of a network is known by four numbers, one for each pair of a norm of its input and a norm
of its output ([`Constants`]), and whoever knows those of the parts knows those of the whole: parts that follow each
other, branches that are added or concatenated, residuals, scales that are upsampled and fused.

Constants are upper bounds in exact arithmetic of the given numbers, float64 and differentiable; whoever states a bound
widens it by what float64 rounds ([`Constants.widened`]). Nothing here knows a model, and the parts themselves are in
`primitives` and `attention`. Proofs in docs/lipschitz_constraints.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lrsegformer.certification.parts import finite_norm


@dataclass(frozen=True, eq=False)
class Constants:
    """
    Upper bounds of the factors by which a difference can grow through a map: `a_to_b` from norm `a` of the input map
    to norm `b` of the output map. Infinite where nothing is known. [`constants`] makes them.

    Attributes:
        l2_to_l2, l2_to_per_pixel, per_pixel_to_per_pixel, per_pixel_to_l2 (`torch.Tensor`): float64 scalars.
    """

    l2_to_l2: torch.Tensor
    l2_to_per_pixel: torch.Tensor
    per_pixel_to_per_pixel: torch.Tensor
    per_pixel_to_l2: torch.Tensor

    def then(self, following: "Constants") -> "Constants":
        """Of the map that is followed by another: `K[a -> c] = min over b of K1[a -> b] K2[b -> c]`."""
        first, second = _on_one_device([self._table(), following._table()])
        return _from_table(_product(first[:, :, None], second[None]).amin(dim=1))

    def scaled(self, factor: torch.Tensor | float) -> "Constants":
        """Of the map times a number, whose sign does not matter."""
        table, factor = _on_one_device([self._table(), _scalar(factor).abs()])
        return _from_table(_product(table, factor))

    def widened(self, margin: float) -> "Constants":
        """Each constant and `margin` of itself: what rounding in float64 may have taken away."""
        return self.scaled(1 + margin)

    def within_window(self, pixels: int) -> "Constants":
        """
        Of a map of which each output pixel sees at most `pixels` pixels of the input.

        Outside of them the input may as well not change, so `per_pixel -> per_pixel <= sqrt(pixels) l2 -> per_pixel`.
        State it of the longest stretch of local layers: windows grow with the depth by a sum, constants by a product.
        """
        alternative = self.l2_to_per_pixel * math.sqrt(pixels)
        return smallest(self, Constants(self.l2_to_l2, self.l2_to_per_pixel, alternative, self.per_pixel_to_l2))

    def _table(self) -> torch.Tensor:
        """`(2, 2)`: rows are norms of the input, columns of the output, `l2` first."""
        rows = [self.l2_to_l2, self.l2_to_per_pixel, self.per_pixel_to_l2, self.per_pixel_to_per_pixel]
        return torch.stack(_on_one_device(rows)).view(2, 2)


def constants(
    l2: torch.Tensor | float = math.inf,
    per_pixel: torch.Tensor | float = math.inf,
    pixels_in: int | None = None,
    pixels_out: int | None = None,
    l2_to_per_pixel: torch.Tensor | float = math.inf,
) -> Constants:
    """
    The four constants of a map, completed from what is known of it.

    `per_pixel <= l2 <= sqrt(pixels) per_pixel` for the norms of any map, so that each constant bounds the others: the
    one from l2 to per pixel is at most those from l2 to l2 and from per pixel to per pixel, and these two and the last
    are at most a smaller one times the square root of a number of pixels, where that is known.

    Args:
        l2 (`torch.Tensor` or `float`): from l2 to l2; infinite where it is not known, as the next.
        per_pixel (`torch.Tensor` or `float`): from per pixel to per pixel.
        pixels_in (`int`, *optional*), pixels_out (`int`, *optional*):
            Numbers of pixels of the maps; `None` where they are not known, which leaves `per_pixel_to_l2` infinite.
        l2_to_per_pixel (`torch.Tensor` or `float`): where more is known of it than follows from the first two.
    """
    l2, per_pixel, mixed = _on_one_device([_scalar(l2), _scalar(per_pixel), _scalar(l2_to_per_pixel)])
    mixed = torch.minimum(mixed, torch.minimum(l2, per_pixel))
    to_l2 = torch.full_like(mixed, torch.inf)
    if pixels_out is not None:
        l2 = torch.minimum(l2, mixed * math.sqrt(pixels_out))
        to_l2 = torch.minimum(to_l2, per_pixel * math.sqrt(pixels_out))
    if pixels_in is not None:
        per_pixel = torch.minimum(per_pixel, mixed * math.sqrt(pixels_in))
        to_l2 = torch.minimum(to_l2, l2 * math.sqrt(pixels_in))
    return Constants(l2, mixed, per_pixel, to_l2)


def identity(pixels: int | None = None) -> Constants:
    """Of the map that leaves its input as it is."""
    return constants(1.0, 1.0, pixels, pixels)


def sequence(parts: Sequence[Constants]) -> Constants:
    """Of maps that follow each other, the first first."""
    first, *others = parts
    for part in others:
        first = first.then(part)
    return first


def smallest(*alternatives: Constants) -> Constants:
    """Several bounds of one map: the smallest of each pair of norms."""
    return _from_table(torch.stack(_on_one_device([part._table() for part in alternatives])).amin(dim=0))


def weighted_sum(
    branches: Sequence[Constants], weights: Sequence[torch.Tensor | float] | torch.Tensor | None = None
) -> Constants:
    """Of `sum_i a_i f_i(x)`: `sum_i abs(a_i) K_i` in each pair of norms; weights of 1 where none are given."""
    return _from_table(_weighted_tables(branches, weights).sum(dim=0))


def residual(branch: Constants, pixels: int | None = None) -> Constants:
    """Of `x + f(x)`."""
    return weighted_sum([identity(pixels), branch])


def convex_residual(branch: Constants, share: torch.Tensor | float, pixels: int | None = None) -> Constants:
    """Of `(1 - share) x + share f(x)`: at most 1 in a norm in which `f` has at most 1 and `share` lies in [0, 1]."""
    share = _scalar(share)
    return weighted_sum([identity(pixels), branch], [1 - share, share])


def concatenation(
    branches: Sequence[Constants], weights: Sequence[torch.Tensor | float] | torch.Tensor | None = None
) -> Constants:
    """
    Of `(a_1 f_1(x), .., a_n f_n(x))`, channels beside channels: `sqrt(sum_i a_i^2 K_i^2)` in each pair of norms.

    At most 1 where each branch has at most 1 and the squares of the weights sum to 1.
    """
    return _from_table(torch.linalg.vector_norm(_weighted_tables(branches, weights), dim=0))


def fused_scales(
    scales: Sequence[Constants],
    matrices: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor | float] | torch.Tensor | None = None,
) -> Constants:
    """
    Of `sum_i a_i M_i U_i u_i(x)`, scales that are upsampled to one size and fused by matrices on the channels.

    The smaller of `sigma([M_1 | .. | M_n]) sqrt(sum_i a_i^2 K_i^2)`, the scales concatenated, and
    `sum_i a_i sigma(M_i) K_i`, one after the other. `U_i` and `M_i` commute, so that it does not matter which is
    applied first.

    Args:
        scales (`Sequence[Constants]`): `K_i`, of `U_i u_i`: from the shared input to the upsampled scale.
        matrices (`Sequence[torch.Tensor]` of shapes `(out, in_i)`): `M_i`.
        weights (*optional*): `a_i`.
    """
    norms = [_scalar(finite_norm(matrix, "l2")) for matrix in matrices]
    joined = _scalar(finite_norm(torch.cat(list(matrices), dim=1), "l2"))
    apart = [scale.scaled(norm) for scale, norm in zip(scales, norms, strict=True)]
    return smallest(concatenation(scales, weights).scaled(joined), weighted_sum(apart, weights))


def _weighted_tables(
    branches: Sequence[Constants], weights: Sequence[torch.Tensor | float] | torch.Tensor | None
) -> torch.Tensor:
    """`(branches, 2, 2)`: each branch's constants times the size of its weight."""
    if weights is not None:
        branches = [branch.scaled(weight) for branch, weight in zip(branches, weights, strict=True)]
    return torch.stack(_on_one_device([branch._table() for branch in branches]))


def _scalar(value: torch.Tensor | float) -> torch.Tensor:
    """In float64; of weights that are not numbers nothing is known."""
    value = torch.as_tensor(value, dtype=torch.float64)
    return value.masked_fill(value.isnan(), torch.inf)


def _on_one_device(values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Numbers that are written down are on the CPU; those of weights are where the weights are."""
    elsewhere = [value.device for value in values if value.device.type != "cpu"]
    return [value.to(elsewhere[0]) for value in values] if elsewhere else list(values)


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """
    Products of constants, infinite where a factor is not known, but 0 beside a 0: no difference is left to grow.

    No infinity takes part in a product, because its gradient is not a number even where it is masked later.
    """
    unknown = ~(torch.isfinite(left) & torch.isfinite(right))
    nothing = (left == 0) | (right == 0)
    shape = torch.broadcast_shapes(left.shape, right.shape)
    known = left.expand(shape).masked_fill(unknown, 0) * right.expand(shape).masked_fill(unknown, 0)
    return known.masked_fill(unknown & ~nothing, torch.inf)


def _from_table(table: torch.Tensor) -> Constants:
    (l2_to_l2, l2_to_per_pixel), (per_pixel_to_l2, per_pixel_to_per_pixel) = (row.unbind() for row in table.unbind())
    return Constants(l2_to_l2, l2_to_per_pixel, per_pixel_to_per_pixel, per_pixel_to_l2)
