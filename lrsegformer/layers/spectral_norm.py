"""spectral_norm: the matrix divided by its largest singular value."""

import math

import torch

from lrsegformer.errors import InputError
from lrsegformer.layers.base import LipschitzConstraint, LipschitzLinear
from lrsegformer.layers.conv import LipschitzConv1x1, LipschitzConv2d

# A matrix whose norm is below this is not scaled up to K: its gradient would be as large as K over its norm.
SMALLEST_NORM = 1e-12


class SpectralNormConstraint(LipschitzConstraint):
    """
    The raw weight times `K / sigma(W)`, `sigma` being its largest singular value in float64; K is fixed.

    No state: a weight that was just loaded or overwritten is bounded as well as any other. A zero matrix stays zero.

    Args:
        constant (`float` or `"initial"`, *optional*, defaults to 1.0):
            K, or `"initial"` to keep the norm of the weight the layer starts from.
        sigma (`str`, *optional*, defaults to `"eigenvalues"`):
            `"eigenvalues"`: the exact norm, by an eigendecomposition in float64; K is a bound. `"power_iteration"`: an
            estimate from below by 20 iterations from a fixed start, faster for wide layers; the effective weight may
            then exceed K, and [`lipschitz_bound`] computes its exact norm instead of stating K.

    Source: Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks" (arXiv 1802.05957),
    equation 8, with the exact norm in place of its power iteration.
    """

    strategy = "spectral_norm"

    def setup(
        self, device: torch.device | str | None = None, constant: float | str = 1.0, sigma: str = "eigenvalues"
    ) -> None:
        if constant != "initial" and not (isinstance(constant, int | float) and 0 < constant < math.inf):
            raise InputError(
                f"spectral_norm's option constant is a finite number above 0 or 'initial', not {constant!r}."
            )
        if sigma not in ("eigenvalues", "power_iteration"):
            raise InputError(f"spectral_norm's option sigma is 'eigenvalues' or 'power_iteration', not {sigma!r}.")
        self.requested_constant = constant
        self.sigma_is_exact = sigma == "eigenvalues"
        self._add_constant(device)

    def constant(self) -> torch.Tensor:
        return self.c

    def constrain(self, matrix: torch.Tensor) -> torch.Tensor:
        sigma = self.map_norm(matrix, "l2") if self.sigma_is_exact else self.estimated_l2_norm(matrix)
        scale = self.constant().to(sigma.dtype) / sigma.clamp_min(SMALLEST_NORM)
        return matrix * scale.to(matrix.dtype)

    def constant_bound(self, row_scale: torch.Tensor | None = None) -> torch.Tensor:
        if self.sigma_is_exact:
            return super().constant_bound(row_scale)
        return self.computed_bound(self.effective_weight(row_scale))

    def start_constant(self, matrix: torch.Tensor) -> torch.Tensor:
        if self.requested_constant == "initial":
            return self.map_norm(matrix, "l2").clamp_min(SMALLEST_NORM).float()
        return torch.tensor(float(self.requested_constant), device=matrix.device)


class SpectralNormalizedConv1x1(SpectralNormConstraint, LipschitzConv1x1):
    __doc__ = SpectralNormConstraint.__doc__


class SpectralNormalizedConv2d(SpectralNormConstraint, LipschitzConv2d):
    __doc__ = SpectralNormConstraint.__doc__


class SpectralNormalizedLinear(SpectralNormConstraint, LipschitzLinear):
    __doc__ = SpectralNormConstraint.__doc__
    conv1x1_class = SpectralNormalizedConv1x1
    conv2d_class = SpectralNormalizedConv2d
