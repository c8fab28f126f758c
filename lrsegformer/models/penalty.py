"""The penalty of a network: its layers' learned constants, reduced to one number."""

from collections.abc import Iterable

import torch

from lrsegformer.layers.base import LipschitzConstraint


def constants_penalty(layers: Iterable[LipschitzConstraint], reduction: str) -> torch.Tensor | None:
    """
    Reduce the learned constants of `layers` to the penalty of the network.

    Args:
        layers: the constrained layers; those whose constant is fixed do not count.
        reduction (`str`):
            `"geometric_mean"` (stays of the size of one constant whatever the depth), `"product"` (Liu et al. 2022,
            equation 8: bounds the composition, and is orders of magnitude larger), `"sum"`, or `"mean_log"` (the
            logarithm of the geometric mean; negative once the constants are below 1).

    Returns:
        `torch.Tensor` or `None`: a differentiable scalar; `None` where no layer learns its constant.
    """
    constants = [layer.constant() for layer in layers if layer.learns_constant]
    if not constants:
        return None
    stacked = torch.stack(constants).float()
    if reduction == "geometric_mean":
        return stacked.log().mean().exp()
    if reduction == "product":
        return stacked.prod()
    if reduction == "sum":
        return stacked.sum()
    if reduction == "mean_log":
        return stacked.log().mean()
    raise ValueError(f"Unknown penalty reduction {reduction!r}.")
