"""Eval mode for a while, and running statistics that nothing writes over."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import torch

# Mean and variance of each channel.
Statistics = tuple[torch.Tensor, torch.Tensor]
NONE: Mapping[torch.nn.Module, Statistics] = MappingProxyType({})


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
def copied_statistics(model: torch.nn.Module, of_batch: Mapping[torch.nn.Module, Statistics] = NONE) -> Iterator[None]:
    """
    Let BatchNorm read copies of its running statistics, or those of a batch, then its own again.

    A backward pass through eval mode needs the statistics as they were; a later forward pass in training mode, before
    it, moves those of the model in place.

    Args:
        model (`torch.nn.Module`): whose norms are meant.
        of_batch (`dict`, *optional*): by norm the `(mean, variance)` that it reads in place of its own; a gradient
            flows into them.
    """
    kept = [
        (module, (module._buffers["running_mean"], module._buffers["running_var"]))
        for module in model.modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module._buffers["running_mean"] is not None
    ]
    for module, statistics in kept:
        _set_statistics(module, of_batch.get(module) or tuple(statistic.clone() for statistic in statistics))
    try:
        yield
    finally:
        for module, statistics in kept:
            _set_statistics(module, statistics)


def _set_statistics(module: torch.nn.Module, statistics: Statistics) -> None:
    module._buffers["running_mean"], module._buffers["running_var"] = statistics
