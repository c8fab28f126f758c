"""
Named parts of a head, each with its Lipschitz constant in one norm at a time, and how these constants compose.

What a head is made of is named here for its report; constants from the pixels on are those of `calculus`. A part
knows matrices and numbers, no model. What lies between parts is one feature map a scale, and a [`Norm`] says how the
sizes of their entries become one number. Constants are float64 scalars, differentiable, in exact arithmetic of the
given matrices; whoever states a bound widens it by what rounding can add. Proofs in docs/lipschitz_constraints.md.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lrsegformer.layers.base import LipschitzConstraint
from lrsegformer.layers.norms import operator_norm


@dataclass(frozen=True)
class Norm:
    """
    A norm of feature maps, of one or of several scales.

    Attributes:
        name (`str`): in reports.
        channels (`str`): `"l2"`, `"linf"` or `"l1"`: of a pixel's channels, and of the scales' norms; so of matrices.
        sums_pixels (`bool`):
            Whether all pixels of a map count (in l2), or the largest alone. Of vectors, maps of one pixel, either.
    """

    name: str
    channels: str
    sums_pixels: bool = False


# The first with a layer's norm is the one in which the layers' bounds compose to the head's.
MAP_NORMS = (
    Norm("per_pixel_l2", "l2"),
    Norm("linf", "linf"),
    Norm("per_pixel_l1", "l1"),
    Norm("l2", "l2", sums_pixels=True),
)
VECTOR_NORMS = (Norm("l2", "l2"), Norm("linf", "linf"), Norm("l1", "l1"))


class Part(ABC):
    """A map with a name and a Lipschitz constant in each norm."""

    name: str

    @abstractmethod
    def constant(self, norm: Norm) -> torch.Tensor:
        """An upper bound, float64 scalar, of the factor by which `norm` of a difference can grow; may be infinite."""


@dataclass(frozen=True, eq=False)
class Linear(Part):
    """`matrix` `(out, in)`, float64, applied to the channels of every pixel; a bias changes no constant."""

    name: str
    matrix: torch.Tensor

    def constant(self, norm: Norm) -> torch.Tensor:
        """The operator norm of the matrix: exact."""
        return finite_norm(self.matrix, norm.channels)


@dataclass(frozen=True, eq=False)
class Constrained(Part):
    """A layer of a strategy, by the bound that its constraint guarantees, in the layer's own norm and no other."""

    name: str
    layer: LipschitzConstraint
    row_scale: torch.Tensor | None = None

    def constant(self, norm: Norm) -> torch.Tensor:
        """The guaranteed bound of the float32 (or float64) weight, which covers that weight's rounding."""
        if norm.channels != self.layer.norm:
            raise ValueError(f"{self.name} is bounded in {self.layer.norm}, and {norm.channels} was asked for.")
        dtype = torch.promote_types(self.layer.weight.dtype, torch.float32)
        return self.layer.lipschitz_bound(self.row_scale, dtype=dtype).double()


@dataclass(frozen=True)
class NonExpansive(Part):
    """A map that no norm grows under, by its name: ReLU, dropout in eval mode, an average over positions."""

    name: str

    def constant(self, norm: Norm) -> torch.Tensor:
        """1."""
        return torch.ones((), dtype=torch.float64)


RELU = NonExpansive("relu")


@dataclass(frozen=True)
class Upsampling(Part):
    """
    Bilinear upsampling by an integer factor (`align_corners=False`).

    Each new pixel is an average of old ones, so no norm of the largest pixel grows, at any size. Over all pixels the
    l2 norm grows by at most the factor: one-dimensional upsampling has rows that sum to 1 and columns that sum to
    `factor`, so its norm is at most `sqrt(factor)` (Schur's test), and in two dimensions it is a Kronecker product.
    """

    factor: int
    name: str = "upsampling"

    def constant(self, norm: Norm) -> torch.Tensor:
        """The factor where all pixels count, else 1."""
        return torch.tensor(self.factor if norm.sums_pixels else 1, dtype=torch.float64)


@dataclass(frozen=True)
class Chain(Part):
    """Parts that follow each other, the first first."""

    name: str
    parts: Sequence[Part]

    def constant(self, norm: Norm) -> torch.Tensor:
        """The product of the constants, in the order in which operators are written: the last one first."""
        last, *others = [part.constant(norm) for part in reversed(self.parts)]
        for constant in others:
            last = last * constant
        return last


@dataclass(frozen=True)
class SideBySide(Part):
    """Branches with inputs and outputs of their own, one a scale."""

    name: str
    branches: Sequence[Part]

    def constant(self, norm: Norm) -> torch.Tensor:
        """The largest of the branches' constants: the norm over scales is one in which that holds."""
        return torch.stack([branch.constant(norm) for branch in self.branches]).max()


@dataclass(frozen=True)
class UpsampledSum(Part):
    """The sum of branches with inputs of their own, each a linear map and its upsampling."""

    name: str
    branches: Sequence[tuple[Linear, Upsampling]]

    def constant(self, norm: Norm) -> torch.Tensor:
        """
        The norm of `[s_1 M_1 | .. | s_n M_n]`, `s_i` the constant of upsampling: exact, attained by inputs that are
        the same at every pixel of a scale (claims 1 and 3 of docs/lipschitz_constraints.md).
        """
        scaled = [upsampling.constant(norm).to(linear.matrix) * linear.matrix for linear, upsampling in self.branches]
        return finite_norm(torch.cat(scaled, dim=1), norm.channels)


def finite_norm(matrix: torch.Tensor, norm: str) -> torch.Tensor:
    """The operator norm of `matrix` (out, in), computed in float64; infinite where an entry is not finite."""
    if not torch.isfinite(matrix).all():
        # The eigendecomposition would raise, and a diverged run should end with a report all the same.
        return torch.tensor(torch.inf, dtype=torch.float64, device=matrix.device)
    return operator_norm(matrix, norm)
