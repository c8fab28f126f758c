"""Whether what was exported computes what the model computes: logits and classes at three sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from lrsegformer.errors import InputError
from lrsegformer.export.arguments import SMALLEST_SIDE
from lrsegformer.export.source import Source

# Of the largest logit, or of 1 where that is smaller.
TOLERANCE = 1e-4
SEED = 0


class Agreement(NamedTuple):
    """
    An export beside its model, on one batch.

    Attributes:
        shape (`tuple[int, ...]`): of the input.
        difference (`float`): the largest of two logits.
        scale (`float`): the largest logit, at least 1.
        predictions (`int`): pixels, or images in classification.
        other_classes (`int`): predictions whose largest logit is that of another class.
    """

    shape: tuple[int, ...]
    difference: float
    scale: float
    predictions: int
    other_classes: int

    def text(self) -> str:
        """In one line for people."""
        batch, _, height, width = self.shape
        classes = "classes equal" if self.other_classes == 0 else f"{self.other_classes} classes differ"
        return f"{batch} x {width}x{height}: logits within {self.difference:.1e}, {classes} ({self.predictions})"


def check_shapes(source: Source, fixed: tuple[int, int] | None = None) -> list[tuple[int, int, int, int]]:
    """
    The shapes of three batches: the processor's own size, a wide one whose sides divide by nothing, and a tall one;
    of one, two and three images, brought to the multiple that `source` asks for. With a `fixed` height and width,
    three batches of that.
    """
    channels = source.model.config.num_channels
    if fixed is not None:
        return [(batch, channels, *fixed) for batch in (1, 2, 3)]
    side = max(SMALLEST_SIDE, _short_side(source.processor))
    wide, tall = (side + 1, side + side // 2 + 5), (side + side // 4, max(SMALLEST_SIDE, side // 2))
    sizes = [[next_multiple(each, source.multiple) for each in size] for size in ((side, side), wide, tall)]
    return [(batch, channels, *size) for batch, size in enumerate(sizes, start=1)]


def next_multiple(side: int, multiple: int) -> int:
    """The smallest multiple that is no smaller."""
    return -(-side // multiple) * multiple


def compare(
    source: Source, logits_of: Callable[[torch.Tensor], torch.Tensor], what: str, fixed: tuple[int, int] | None = None
) -> list[Agreement]:
    """
    Logits of `logits_of` beside those of `source`, on seeded images at the sizes of [`check_shapes`].

    A prediction may be of another class where two logits are as good as equal, and nowhere else: what the logits may
    differ by decides. How many did is part of what is returned.

    Raises:
        [`~lrsegformer.errors.InputError`]: logits differ by more than [`TOLERANCE`] of the largest.
    """
    generator = torch.Generator().manual_seed(SEED)
    found = []
    for shape in check_shapes(source, fixed):
        pixel_values = torch.randn(shape, generator=generator)
        expected, actual = source.logits(pixel_values), logits_of(pixel_values)
        if actual.shape != expected.shape:
            raise InputError(
                f"{what} gives logits of {tuple(actual.shape)} for an input of {shape}, and the model of "
                f"{tuple(expected.shape)}: nothing was written."
            )
        difference, scale = (actual - expected).abs().max().item(), max(1.0, expected.abs().max().item())
        if not difference <= TOLERANCE * scale:  # Not a number is no agreement, either.
            raise InputError(
                f"{what} does not compute what the model does: logits differ by {difference:.1e} for an input of "
                f"{shape}, {TOLERANCE * scale:.1e} are allowed; nothing was written."
            )
        others = actual.argmax(dim=1) != expected.argmax(dim=1)
        found.append(Agreement(shape, difference, scale, others.numel(), int(others.sum())))
    return found


def _short_side(processor) -> int:
    sizes = dict(processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size)
    sides = [sizes.get(name) for name in ("shortest_edge", "height", "width")]
    return min((side for side in sides if side is not None), default=SMALLEST_SIDE)
