"""Normalisation, ReLU, dropout and classifier as one step of autograd that keeps nothing but its input and a mask."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from lrsegformer.kernels.chunks import works_in_chunks
from lrsegformer.kernels.precision import at_least_float32

# Dropout probabilities are rounded to multiples of 1 / LEVELS: one 16-bit random number decides on an element.
LEVELS = 2**16
# Elements worked on at a time: what stays in the cache of a CPU.
CHUNK_ELEMENTS = 2**19
# Rows of a chunk begin at whole cache lines of the image's rows.
ALIGNED_PIXELS = 64


class _BatchStatistics(NamedTuple):
    """Mean and 1 / deviation of a batch, `(channels, 1)`, and what was added to the variance."""

    mean: torch.Tensor
    inverse_deviation: torch.Tensor
    eps: float


def multiply_pixels(matrix: torch.Tensor, maps: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """
    A 1x1 convolution of `maps` `(batch, channels, height, width)` by a matrix `(out_channels, channels)`, in the
    precision of the maps: as a product it takes half the time that `F.conv2d` does on a CPU.
    """
    matrices, pixels = matrix.to(maps.dtype).expand(maps.shape[0], -1, -1), maps.flatten(2)
    if bias is None:
        product = torch.bmm(matrices, pixels)
    else:
        product = torch.baddbmm(bias.to(maps.dtype)[:, None], matrices, pixels)
    return product.view(maps.shape[0], -1, *maps.shape[2:])


def classify(
    maps: torch.Tensor,
    probability: float,
    classifier: torch.Tensor,
    bias: torch.Tensor,
    norm: nn.BatchNorm2d | None = None,
) -> torch.Tensor:
    """
    `F.conv2d(F.dropout(F.relu(norm(maps)), probability), classifier, bias)` in training mode.

    On the CPU some pixels at a time go through all of it and stay in the cache, and the backward pass computes the
    classifier's input again. Drawing a Bernoulli number for each element would take longer than everything else here,
    so the mask is made of 64-bit random integers, four elements each: the probability is rounded to a multiple of
    2^-16 (and the kept elements are scaled by exactly one over what is kept on average).

    Args:
        maps (`torch.Tensor` of shape `(batch, channels, height, width)`): any floating dtype.
        probability (`float`): of an element to be dropped, in [0, 1).
        classifier (`torch.Tensor` of shape `(num_labels, channels)`), bias (`torch.Tensor` of shape `(num_labels,)`):
            any floating dtype; the product is in that of the maps.
        norm (`nn.BatchNorm2d`, *optional*): applied first; its running statistics follow as in its own `forward`.
    """
    chunked = works_in_chunks(maps)
    statistics = _batch_statistics(maps, norm) if chunked and norm is not None else None
    if norm is not None and statistics is None:
        maps, norm = norm(maps), None
    if not chunked:
        return multiply_pixels(classifier, functional.dropout(functional.relu(maps), probability), bias)
    scale_and_shift = (None, None) if norm is None else (norm.weight, norm.bias)
    level, dtype = round(probability * LEVELS), maps.dtype
    classifier, bias = classifier.to(dtype), bias.to(dtype)
    with torch.autocast("cpu", enabled=False):
        return _Classify.apply(maps.contiguous(), classifier, bias, *scale_and_shift, level, statistics)[0]


def _batch_statistics(maps: torch.Tensor, norm: nn.BatchNorm2d) -> _BatchStatistics | None:
    """
    What a plain norm in training mode divides by, which its running statistics follow; `None` for a norm that is
    left to compute for itself: frozen, synchronised, without a momentum, or of another dtype than the maps.
    """
    plain = type(norm) is nn.BatchNorm2d and norm.training and norm.affine and norm.track_running_stats
    several = maps.numel() > maps.shape[1]
    if not (plain and several) or norm.momentum is None or norm.weight.dtype != maps.dtype:
        return None
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        mean, variance = torch.batch_norm_update_stats(maps, norm.running_mean, norm.running_var, norm.momentum)
        return _BatchStatistics(mean[:, None], torch.rsqrt(variance + norm.eps)[:, None], norm.eps)


class _Classify(torch.autograd.Function):
    @staticmethod
    def forward(
        maps: torch.Tensor,
        classifier: torch.Tensor,
        bias: torch.Tensor,
        scale: torch.Tensor | None,
        shift: torch.Tensor | None,
        level: int,
        statistics: _BatchStatistics | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The logits, and which elements dropout keeps."""
        batch, channels, *size = maps.shape
        logits = maps.new_empty(batch, len(classifier), *size)
        kept = None if level == 0 else torch.empty(maps.shape, dtype=torch.bool)
        for image, pixels in _chunks(maps):
            at = image, slice(None), pixels
            part = None if kept is None else kept.flatten(2)[at]
            if part is not None:
                words = torch.empty((part.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
                torch.ge(words.view(torch.int16)[: part.numel()].view(part.shape), level - LEVELS // 2, out=part)
            hidden, _ = _classifier_input(maps.flatten(2)[at], scale, shift, statistics, part, level)
            torch.addmm(bias[:, None], classifier, hidden, out=logits.flatten(2)[at])
        return logits, kept

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple[torch.Tensor, torch.Tensor | None]) -> None:
        maps, classifier, bias, scale, shift, ctx.level, ctx.statistics = inputs
        kept = output[1]
        if kept is not None:
            ctx.mark_non_differentiable(kept)
        ctx.save_for_backward(maps, classifier, bias, scale, shift, kept)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor, _) -> tuple:
        if torch.is_grad_enabled() or not works_in_chunks(gradient):
            return _differentiable_gradients(ctx, gradient)
        maps, classifier, _, scale, shift, kept = ctx.saved_tensors
        gradient, statistics = gradient.contiguous(), ctx.statistics
        of_maps = torch.empty_like(maps)
        # Summed in at least float32, over many chunks.
        of_classifier = torch.zeros_like(at_least_float32(classifier))
        of_scale, of_shift = (None, None) if statistics is None else (torch.zeros_like(scale), torch.zeros_like(shift))
        for image, pixels in _chunks(maps):
            at = image, slice(None), pixels
            part_kept = None if kept is None else kept.flatten(2)[at]
            hidden, normalised = _classifier_input(maps.flatten(2)[at], scale, shift, statistics, part_kept, ctx.level)
            of_logits = gradient.flatten(2)[at]
            of_classifier.add_(torch.mm(of_logits, hidden.T))
            part = torch.mm(classifier.T, of_logits, out=of_maps.flatten(2)[at])
            torch.ops.aten.threshold_backward.grad_input(part, hidden, 0, grad_input=part)
            if kept is not None:
                part.mul_(_scale_of_kept(ctx.level))
            if statistics is not None:
                of_shift.add_(part.sum(dim=1))
                of_scale.add_(normalised.mul_(part).sum(dim=1))
        if statistics is not None:
            _through_normalisation_(of_maps, maps, scale, of_scale, of_shift, statistics)
        of_classifier = of_classifier.to(classifier.dtype)
        return of_maps, of_classifier, gradient.sum(dim=(0, 2, 3)), of_scale, of_shift, None, None


def _chunks(maps: torch.Tensor) -> Iterator[tuple[int, slice]]:
    """Images and ranges of pixels."""
    batch, channels, height, width = maps.shape
    count = max(1, CHUNK_ELEMENTS // channels)
    count = count // ALIGNED_PIXELS * ALIGNED_PIXELS or count
    for image in range(batch):
        for first in range(0, height * width, count):
            yield image, slice(first, first + count)


def _scale_of_kept(level: int) -> float:
    return LEVELS / (LEVELS - level)


def _classifier_input(
    maps: torch.Tensor,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    statistics: _BatchStatistics | None,
    kept: torch.Tensor | None,
    level: int,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The classifier's input at some pixels, `(channels, pixels)`, and the normalised maps, both new."""
    if statistics is None:
        hidden, normalised = maps.clamp_min(0), None
    else:
        normalised = maps.sub(statistics.mean).mul_(statistics.inverse_deviation)
        hidden = torch.addcmul(shift[:, None], normalised, scale[:, None]).clamp_min_(0)
    if kept is not None:
        hidden.mul_(kept).mul_(_scale_of_kept(level))
    return hidden, normalised


def _through_normalisation_(
    gradient: torch.Tensor,
    maps: torch.Tensor,
    scale: torch.Tensor,
    of_scale: torch.Tensor,
    of_shift: torch.Tensor,
    statistics: _BatchStatistics,
) -> None:
    """
    Turn the gradient of the normalised maps into that of the maps, of which mean and deviation are functions:
    `scale / deviation (g - mean(g) - x mean(g x))` with x the maps without mean and deviation.
    """
    count = maps.numel() // maps.shape[1]
    factor = scale[:, None] * statistics.inverse_deviation
    of_mean = -factor * of_shift[:, None] / count
    of_deviation = -factor * statistics.inverse_deviation * of_scale[:, None] / count
    for image, pixels in _chunks(maps):
        at = image, slice(None), pixels
        centred = maps.flatten(2)[at].sub(statistics.mean)
        gradient.flatten(2)[at].mul_(factor).add_(of_mean).addcmul_(centred, of_deviation)


def _differentiable_gradients(ctx, gradient: torch.Tensor) -> tuple:
    """The gradients by autograd, so that they have gradients themselves, or for many cotangents at once."""
    maps, classifier, bias, scale, shift, kept = inputs = ctx.saved_tensors
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        hidden = maps
        if ctx.statistics is not None:
            hidden = functional.batch_norm(maps, None, None, scale, shift, training=True, eps=ctx.statistics.eps)
        hidden = functional.relu(hidden)
        if kept is not None:
            hidden = hidden * kept * _scale_of_kept(ctx.level)
        logits = multiply_pixels(classifier, hidden, bias)
    wanted = [position for position in range(5) if ctx.needs_input_grad[position]]
    sources = [inputs[position] for position in wanted]
    gradients = torch.autograd.grad(logits, sources, gradient, create_graph=create_graph)
    by_position = dict(zip(wanted, gradients, strict=True))
    return *(by_position.get(position) for position in range(5)), None, None
