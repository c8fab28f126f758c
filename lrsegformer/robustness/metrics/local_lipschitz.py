"""How steep a model is at the data: an estimate from below, which bounds nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lrsegformer.errors import InputError
from lrsegformer.models.jacobian import random_signs, sample_seeds


def local_lipschitz_estimate(
    function: Callable[[Tensor], Tensor], inputs: Tensor, iterations: int = 20, radius: float = 0.1, seed: int = 0
) -> Tensor:
    """
    Estimate the l2 Lipschitz constant near each sample: the largest slope that a power iteration finds.

    The slopes are `|f(x + r v) - f(x - r v)| / |2 r v|` over unit vectors v. The first v is random signs; each next
    one is `J(x)^T (f(x + r v) - f(x - r v))`, normalised, so that for small r the slopes rise to the largest singular
    value of the Jacobian J. Every one of them is the slope between two actual points: up to the rounding of f the
    estimate never exceeds the Lipschitz constant of the map, and says nothing about how far below it is. Certificates
    need a guaranteed bound instead.

    Args:
        function: maps `(batch, ...)` to `(batch, ...)`, each sample by itself, as a model in eval mode does;
            differentiable once.
        inputs (`torch.Tensor` of shape `(batch, ...)`): for images the pixels in [0, 1]; the points may leave this
            range by `radius`.
        iterations (`int`, *optional*, defaults to 20): number of slopes, of three forward passes and a backward each.
        radius (`float`, *optional*, defaults to 0.1): l2 distance r of the two points from the sample, above 0.
        seed (`int`, *optional*, defaults to 0): of the first direction, which depends on it and on the sample alone.

    Returns:
        `torch.Tensor` of shape `(batch,)`, at least float32: for the low-resolution logits of segmentation the slope
        of the whole map.

    Raises:
        [`~lrsegformer.errors.InputError`]: `iterations` or `radius` is out of range.
    """
    if iterations < 1 or not radius > 0:
        raise InputError(f"{iterations} iterations at radius {radius}: give at least 1, and a radius above 0")
    inputs = inputs.detach()
    direction = _unit(random_signs(sample_seeds(inputs) + seed, inputs.shape[1:]).to(inputs))
    estimate = inputs.new_zeros(len(inputs), dtype=torch.promote_types(inputs.dtype, torch.float32))
    for iteration in range(iterations):
        with torch.no_grad():
            ahead, behind = inputs + radius * direction, inputs - radius * direction
            difference = function(ahead) - function(behind)
            # The distance of the points as they are stored, not of those that were meant.
            estimate = torch.maximum(estimate, _lengths(difference) / _lengths(ahead - behind))
        if iteration + 1 < iterations:
            direction = _pulled_back(function, inputs, _unit(difference), direction)
    return estimate


def _pulled_back(function: Callable[[Tensor], Tensor], inputs: Tensor, cotangent: Tensor, fallback: Tensor) -> Tensor:
    """The unit vector along `J^T cotangent` of each sample, or its fallback where that is zero."""
    points = inputs.clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad((function(points) * cotangent).sum(), points)
    is_flat = _lengths(gradient) == 0
    return torch.where(is_flat.view(-1, *[1] * (inputs.ndim - 1)), fallback, _unit(gradient))


def _lengths(samples: Tensor) -> Tensor:
    return torch.linalg.vector_norm(samples.flatten(1), dim=1, dtype=torch.promote_types(samples.dtype, torch.float32))


def _unit(samples: Tensor) -> Tensor:
    lengths = _lengths(samples).clamp_min(torch.finfo(torch.float32).tiny).to(samples.dtype)
    return samples / lengths.view(-1, *[1] * (samples.ndim - 1))
