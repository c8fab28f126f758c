"""The penalty of a network: its layers' learned constants, reduced to one number."""

from collections.abc import Iterable

import torch

from lrsegformer.layers.base import LipschitzConstraint


def constants_penalty(factors: Iterable[Iterable[LipschitzConstraint]], reduction: str) -> torch.Tensor | None:
    """
    Reduce the learned constants of a network to its penalty.

    Layers that follow each other are factors of the network's Lipschitz constant; layers side by side share one
    factor, the geometric mean of their constants. So dividing the decoder's four projections by a number and
    multiplying the fuse convolution by it, which changes nothing, does not change the product either; counted as six
    factors it would fall without end.

    Args:
        factors: groups of parallel constrained layers; layers whose constant is fixed do not count.
        reduction (`str`):
            `"geometric_mean"` of the factors (stays of the size of one constant whatever the depth), `"product"` of
            the factors (Liu et al. 2022, equation 8; orders of magnitude larger), `"mean_log"` (the logarithm of the
            geometric mean; negative once the constants are below 1), or `"sum"` of all constants.

    Returns:
        `torch.Tensor` or `None`: a differentiable scalar; `None` where no layer learns its constant.
    """
    groups = [[layer.constant() for layer in group if layer.learns_constant] for group in factors]
    groups = [torch.stack(group).float() for group in groups if group]
    if not groups:
        return None
    if reduction == "sum":
        return torch.cat(groups).sum()
    logarithms = torch.stack([group.log().mean() for group in groups])
    if reduction == "geometric_mean":
        return logarithms.mean().exp()
    if reduction == "product":
        return logarithms.sum().exp()
    if reduction == "mean_log":
        return logarithms.mean()
    raise ValueError(f"Unknown penalty reduction {reduction!r}.")
