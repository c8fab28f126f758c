"""jacobian_norm: plain weights; the Jacobian of the head is penalised at the data instead."""

import torch

from lrsegformer.choices import JACOBIANS
from lrsegformer.errors import InputError
from lrsegformer.layers.base import LipschitzConstraint, LipschitzLinear
from lrsegformer.layers.conv import LipschitzConv1x1, LipschitzConv2d


class JacobianNormConstraint(LipschitzConstraint):
    """
    The raw weight, unchanged. Its bound is its own largest singular value: true, but nothing limits it.

    The strategy's penalty is not made of constants: the model adds a random-projection estimate of the squared
    Jacobian norm at the data ([`~lrsegformer.models.jacobian.jacobian_penalty`]).

    Args:
        jacobian (`str`, *optional*, defaults to `"head"`):
            Whose Jacobian the model penalises: `"head"` (of the logits with respect to the stage features) or
            `"network"` (with respect to the pixels, which moves the encoder too, for a third to a half more time of a
            step).

    Source: Hoffman, Roberts and Yaida 2019, "Robust Learning with Jacobian Regularization" (arXiv 1908.02729).
    """

    strategy = "jacobian_norm"
    limits_norm = False
    penalized_jacobian = "head"

    def setup(self, device: torch.device | str | None = None, jacobian: str = "head") -> None:
        if jacobian not in JACOBIANS:
            raise InputError(f"jacobian_norm's option jacobian is 'head' or 'network', not {jacobian!r}.")
        self.penalized_jacobian = jacobian

    def constrain(self, matrix: torch.Tensor) -> torch.Tensor:
        return matrix

    def constant_bound(self, row_scale: torch.Tensor | None = None) -> torch.Tensor:
        """The largest singular value of the effective weight times `1 + 1e-5`: guaranteed, not limited."""
        return self.computed_bound(self.effective_weight(row_scale))


class JacobianNormLipschitzConv1x1(JacobianNormConstraint, LipschitzConv1x1):
    __doc__ = JacobianNormConstraint.__doc__


class JacobianNormLipschitzConv2d(JacobianNormConstraint, LipschitzConv2d):
    __doc__ = JacobianNormConstraint.__doc__


class JacobianNormLipschitzLinear(JacobianNormConstraint, LipschitzLinear):
    __doc__ = JacobianNormConstraint.__doc__
    conv1x1_class = JacobianNormLipschitzConv1x1
    conv2d_class = JacobianNormLipschitzConv2d
