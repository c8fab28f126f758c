"""
Test-time protocols of segmentation: how a model is applied to an image that is, or is not, one input.

Each is a function of a callable from pixels `(batch, 3, height, width)` to logits `(batch, num_labels, ...)`. It gives
maps of logits, of any sizes, that [`~lrsegformer.evaluation.prediction.predict_pixels`] turns into classes.

- `whole`: one pass over the whole input. What [`~lrsegformer.LRSegformerTrainer`] scores by.
- `slide`: windows at a fixed stride, the last one of a row or column flush with the edge. Logits, upsampled to the
  window, are added up and divided by the exact number of windows that hold a pixel: the average of logits, as
  mmsegmentation's `slide` mode takes it, by which SegFormer's Cityscapes figures were made.
- `multi_scale_flip`: the image at several sizes, each as it is and mirrored. The softmax of every pass is upsampled to
  the size of the result before the average: probabilities are averaged, not logits, as in mmsegmentation's test-time
  augmentation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lrsegformer.errors import InputError

LogitsOf = Callable[[Tensor], Tensor]

# Of the sides of the input; those that the field reports multi-scale figures with.
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def whole(logits_of: LogitsOf, pixels: Tensor) -> list[Tensor]:
    """One pass over the input `(batch, 3, height, width)`."""
    return [logits_of(pixels)]


def slide(logits_of: LogitsOf, pixels: Tensor, window: int, stride: int) -> list[Tensor]:
    """
    The average of windows.

    Args:
        logits_of (`Callable`): from pixels to logits, at the windows' size or a part of it.
        pixels (`torch.Tensor` of shape `(batch, 3, height, width)`): the input.
        window, stride (`int`): of both directions, in pixels of the input; along a side that is shorter than the
            window the window is the side.

    Returns:
        One map of logits at the size of the input, float32. A window as large as the input gives what [`whole`] gives.

    Raises:
        [`~lrsegformer.errors.InputError`]: a stride that is longer than the window, which would leave pixels out.
    """
    height, width = pixels.shape[-2:]
    rows, columns = (window_spans(length, window, stride) for length in (height, width))
    if len(rows) == len(columns) == 1:
        return whole(logits_of, pixels)
    total: Tensor | None = None
    for top, bottom in rows:
        for left, right in columns:
            logits = logits_of(pixels[..., top:bottom, left:right]).float()
            size = (bottom - top, right - left)
            logits = functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], height, width)
            total[..., top:bottom, left:right] += logits
    counts = _counts(height, rows)[:, None] * _counts(width, columns)
    return [total / counts.to(total)]


def multi_scale_flip(logits_of: LogitsOf, inputs: Sequence[Tensor]) -> list[Tensor]:
    """
    Logits of every input as it is and mirrored, the latter mirrored back.

    Args:
        logits_of (`Callable`): from pixels to logits.
        inputs (sequence of `torch.Tensor`): the same images at several sizes, such as [`SCALES`] times the model's.
    """
    maps: list[Tensor] = []
    for pixels in inputs:
        maps += [logits_of(pixels), logits_of(pixels.flip(-1)).flip(-1)]
    return maps


def window_spans(length: int, window: int, stride: int) -> list[tuple[int, int]]:
    """
    Where windows begin and end along a side; the last one ends with the side.

    Raises:
        [`~lrsegformer.errors.InputError`]: a window or stride below 1, or a stride longer than the window.
    """
    if not 1 <= stride <= window:
        raise InputError(f"--stride {stride} and --window {window}: give a stride from 1 to the window's side")
    if window >= length:
        return [(0, length)]
    starts = [*range(0, length - window, stride), length - window]
    return [(start, start + window) for start in starts]


def _counts(length: int, spans: Sequence[tuple[int, int]]) -> Tensor:
    """Of each place along a side the number of windows that hold it."""
    counts = torch.zeros(length)
    for start, stop in spans:
        counts[start:stop] += 1
    return counts
