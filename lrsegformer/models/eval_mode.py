"""Eval mode for a while, and running statistics that nothing writes over."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Set eval mode, then every module back to the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def copied_statistics(model: torch.nn.Module) -> Iterator[None]:
    """
    Let BatchNorm read copies of its running statistics, then its own again.

    A backward pass through eval mode needs the statistics as they were; a later forward pass in training mode, before
    it, moves those of the model in place.
    """
    kept = [
        (module, name, module._buffers[name])
        for module in model.modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
        for name in ("running_mean", "running_var")
        if module._buffers[name] is not None
    ]
    for module, name, statistic in kept:
        module._buffers[name] = statistic.clone()
    try:
        yield
    finally:
        for module, name, statistic in kept:
            module._buffers[name] = statistic
