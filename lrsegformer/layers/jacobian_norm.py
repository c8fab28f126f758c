"""jacobian_norm: plain weights; the Jacobian of the head is penalised at the data instead."""

import torch

from lrsegformer.layers.base import LipschitzConstraint, LipschitzConv1x1, LipschitzLinear
from lrsegformer.layers.norms import ROUNDING_MARGIN, l2_norm


class JacobianNormConstraint(LipschitzConstraint):
    """
    The raw weight, unchanged. Its bound is its own largest singular value: true, but nothing limits it.

    The strategy's penalty is not made of constants: the model adds a random-projection estimate of the squared
    Jacobian norm of its head at the data ([`~lrsegformer.models.jacobian.jacobian_penalty`]).

    Source: Hoffman, Roberts and Yaida 2019, "Robust Learning with Jacobian Regularization" (arXiv 1908.02729).
    """

    strategy = "jacobian_norm"
    limits_norm = False

    def constrain(self, matrix: torch.Tensor) -> torch.Tensor:
        return matrix

    def lipschitz_bound(self, row_scale: torch.Tensor | None = None) -> torch.Tensor:
        """The largest singular value of the effective weight times `1 + 1e-5`: guaranteed, not limited."""
        return l2_norm(self.effective_weight(row_scale)) * (1 + ROUNDING_MARGIN)


class JacobianNormLipschitzConv1x1(JacobianNormConstraint, LipschitzConv1x1):
    __doc__ = JacobianNormConstraint.__doc__


class JacobianNormLipschitzLinear(JacobianNormConstraint, LipschitzLinear):
    __doc__ = JacobianNormConstraint.__doc__
    conv1x1_class = JacobianNormLipschitzConv1x1
