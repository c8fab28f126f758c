"""The precision that sums and scales are computed in."""

import torch


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` in float32, or in float64 if it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
