"""stable_softplus: rows (or columns) rescaled to at most a learned constant, in the linf (or l1) norm."""

import torch

from lrsegformer.errors import InputError
from lrsegformer.kernels.precision import at_least_float32
from lrsegformer.layers.base import LipschitzConstraint, LipschitzLinear, stepped_up
from lrsegformer.layers.conv import LipschitzConv1x1, LipschitzConv2d

SMALLEST_CONSTANT = 1e-6
# Keeps K inside the range of float32.
LARGEST_CONSTANT = 1e38


def inverse_softplus(value: torch.Tensor) -> torch.Tensor:
    """The `c` with `softplus(c) == value` for `value` > 0, without overflow: `value + log(1 - exp(-value))`."""
    return value + torch.log(-torch.expm1(-value))


class StableSoftplusConstraint(LipschitzConstraint):
    """
    Row i of the raw weight times `min(1, K / sum_j |W_ij|)` with a learned `K = softplus(c)`.

    The largest absolute row sum is the operator norm in linf, so that norm is at most K. With `norm="l1"` the columns
    take the place of the rows, and K bounds the operator norm in l1. Rows below K are left as they are; at the start K
    is the norm of the given weight, so that nothing changes.

    Source: Liu et al. 2022, "Learning Smooth Neural Functions via Lipschitz Regularization" (arXiv 2202.08345),
    section 4.1; the start of `c` at the inverse softplus, and the floor of 1e-6 under K, are ours.
    """

    strategy = "stable_softplus"
    learns_constant = True

    def setup(self, device: torch.device | str | None = None, norm: str = "linf") -> None:
        if norm not in ("linf", "l1"):
            raise InputError(f"stable_softplus's option norm is 'linf' (rows) or 'l1' (columns), not {norm!r}.")
        self.norm = norm
        self._add_constant(device)

    def constant(self) -> torch.Tensor:
        return torch.nn.functional.softplus(at_least_float32(self.c)).clamp(SMALLEST_CONSTANT, LARGEST_CONSTANT)

    def constrain(self, matrix: torch.Tensor) -> torch.Tensor:
        # In float64 neither the sum nor the quotient rounds enough to matter, whatever the length of a row.
        sums = self._sums(matrix)
        constant = self.constant().double()
        # K / max(sum, K) is min(1, K / sum) without a division by the sum of a zero row.
        return matrix * (constant / torch.maximum(sums, constant)).to(matrix.dtype)

    def start_constant(self, matrix: torch.Tensor) -> torch.Tensor:
        norm = self._sums(matrix).max().clamp_min(SMALLEST_CONSTANT)
        start = inverse_softplus(norm).float()
        # Rounding may leave softplus(c) a hair below the norm, and the weight would shrink: step up until it is not.
        while torch.nn.functional.softplus(start) < norm:
            start = stepped_up(start)
        return start

    def _sums(self, matrix: torch.Tensor) -> torch.Tensor:
        return self.row_sums(matrix) if self.norm == "linf" else self.column_sums(matrix)


class StableSoftplusLipschitzConv1x1(StableSoftplusConstraint, LipschitzConv1x1):
    __doc__ = StableSoftplusConstraint.__doc__


class StableSoftplusLipschitzConv2d(StableSoftplusConstraint, LipschitzConv2d):
    __doc__ = StableSoftplusConstraint.__doc__


class StableSoftplusLipschitzLinear(StableSoftplusConstraint, LipschitzLinear):
    __doc__ = StableSoftplusConstraint.__doc__
    conv1x1_class = StableSoftplusLipschitzConv1x1
    conv2d_class = StableSoftplusLipschitzConv2d
