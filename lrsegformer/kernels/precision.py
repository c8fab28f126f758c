"""The precision that sums and scales are computed in."""

from contextlib import AbstractContextManager, nullcontext

import torch


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` in float32, or in float64 if it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def without_autocast(device_type: str) -> AbstractContextManager:
    """
    Autocast off on that kind of device. Where it is off already nothing is entered: an exported graph would hold the
    entering, a program of `torch.export` with an empty one cannot be loaded again.
    """
    return torch.autocast(device_type, enabled=False) if torch.is_autocast_enabled(device_type) else nullcontext()
