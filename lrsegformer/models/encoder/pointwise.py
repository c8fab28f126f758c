"""A constrained matrix on the channels of every pixel: what the certified network is made of."""

from typing import NamedTuple

import torch
from torch import nn

from lrsegformer.certification.parts import finite_norm
from lrsegformer.errors import InputError
from lrsegformer.kernels.norm_relu_classifier import multiply_pixels
from lrsegformer.layers.merged_maps import MergedMapsMixin
from lrsegformer.layers.norms import ROUNDING_MARGIN
from lrsegformer.layers.registry import STRATEGIES
from lrsegformer.models.configuration_lrsegformer import LRSegformerConfig


class PointwiseMaps(NamedTuple):
    """The matrix that the pixels are multiplied by, `(out_channels, in_channels)`, and a bound of its norm."""

    matrix: torch.Tensor
    bound: torch.Tensor


class PointwiseMap(MergedMapsMixin, nn.Module):
    """
    A layer of the configured strategy as a matrix on channels, which a convex-potential step applies twice.

    Args:
        config ([`LRSegformerConfig`]): says which strategy, and its options.
        in_channels (`int`), out_channels (`int`).

    Raises:
        [`~lrsegformer.errors.InputError`]: for a strategy whose layers are not bounded in l2.
    """

    def __init__(self, config: LRSegformerConfig, in_channels: int, out_channels: int):
        super().__init__()
        layer_class = STRATEGIES[config.lipschitz_strategy]
        self.linear = layer_class(in_channels, out_channels, bias=False, **(config.lipschitz_options or {}))
        if self.linear.norm != "l2":
            raise InputError(
                f"--strategy {config.lipschitz_strategy} bounds its layers in {self.linear.norm}, and --scope "
                "certified needs bounds in l2: choose orthogonal, spectral_norm, geometric_mean or jacobian_norm."
            )

    def maps(self) -> PointwiseMaps:
        """The matrix and the bound: kept ones in eval mode where there are any, else of the weights as they are."""
        kept = None if self.training else self.constant_maps()
        return self.eval_maps() if kept is None else kept

    def eval_maps(self) -> PointwiseMaps:
        layer = self.linear
        matrix = layer.effective_weight()
        # A learned constant may lie far above the norm, and steps divided by it would hardly move.
        is_attained = layer.limits_norm and not layer.learns_constant
        bound = layer.constant() * (1 + ROUNDING_MARGIN) if is_attained else layer.computed_bound(matrix).float()
        return PointwiseMaps(matrix, bound)

    def exact_matrix(self) -> torch.Tensor:
        """The float32 matrix that `forward` multiplies by, as float64, for its norm; differentiable."""
        return self.maps().matrix.double()

    def norm(self) -> torch.Tensor:
        """The largest singular value of that matrix, a float64 scalar."""
        return finite_norm(self.exact_matrix(), "l2")

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Multiply the channels of `hidden_states` `(batch, in_channels, height, width)`."""
        return multiply_pixels(self.maps().matrix, hidden_states)
