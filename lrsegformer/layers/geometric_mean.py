"""
geometric_mean: the whole matrix rescaled so that sqrt(l1 norm * linf norm), which bounds the l2 norm, is at most K.
"""

import math

import torch

from lrsegformer.kernels.precision import at_least_float32
from lrsegformer.layers.base import LipschitzConstraint, LipschitzLinear, stepped_up
from lrsegformer.layers.conv import LipschitzConv1x1, LipschitzConv2d

# Keeps K inside the range of float32.
LARGEST_LOG_CONSTANT = 80.0
SMALLEST_LOG_CONSTANT = math.log(1e-6)


class GeometricMeanConstraint(LipschitzConstraint):
    """
    The raw weight times `min(1, K / sqrt(norm_1(W) * norm_inf(W)))` with a learned `K = exp(c)`.

    The l2 operator norm is at most the geometric mean of the l1 and linf operator norms (Schur's test; Golub and Van
    Loan, *Matrix Computations*, section 2.3.3), so K bounds it. At the start K equals that mean, so that nothing
    changes. The bound is loose for matrices that are far from having equal absolute entries.
    """

    strategy = "geometric_mean"
    learns_constant = True

    def setup(self, device: torch.device | str | None = None) -> None:
        self._add_constant(device)

    def constant(self) -> torch.Tensor:
        return at_least_float32(self.c).clamp(SMALLEST_LOG_CONSTANT, LARGEST_LOG_CONSTANT).exp()

    def constrain(self, matrix: torch.Tensor) -> torch.Tensor:
        # In float64 neither the sums nor the quotient round enough to matter, whatever the size of the matrix.
        squared_mean = self._squared_mean(matrix)
        constant = self.constant().double()
        # The maximum under the root keeps the derivative finite at a zero matrix.
        return matrix * (constant / torch.maximum(squared_mean, constant.square()).sqrt()).to(matrix.dtype)

    def start_constant(self, matrix: torch.Tensor) -> torch.Tensor:
        squared_mean = self._squared_mean(matrix)
        start = (0.5 * squared_mean.log()).clamp_min(SMALLEST_LOG_CONSTANT).float()
        # Step up until the rounded K covers the mean, so that the factor is exactly 1.
        while start < LARGEST_LOG_CONSTANT and start.exp().double().square() < squared_mean:
            start = stepped_up(start)
        return start

    def _squared_mean(self, matrix: torch.Tensor) -> torch.Tensor:
        """The largest absolute column sum times the largest absolute row sum, in float64."""
        return self.column_sums(matrix).max() * self.row_sums(matrix).max()


class GeometricMeanLipschitzConv1x1(GeometricMeanConstraint, LipschitzConv1x1):
    __doc__ = GeometricMeanConstraint.__doc__


class GeometricMeanLipschitzConv2d(GeometricMeanConstraint, LipschitzConv2d):
    __doc__ = GeometricMeanConstraint.__doc__


class GeometricMeanLipschitzLinear(GeometricMeanConstraint, LipschitzLinear):
    __doc__ = GeometricMeanConstraint.__doc__
    conv1x1_class = GeometricMeanLipschitzConv1x1
    conv2d_class = GeometricMeanLipschitzConv2d
