"""The graph of a model in eval mode, by `torch.export`: plain matrices, the folded head inside, sizes left open."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from lrsegformer.export.arguments import SMALLEST_SIDE
from lrsegformer.export.checks import next_multiple
from lrsegformer.export.metadata import INPUT
from lrsegformer.export.source import Source

# Of the images that are traced: sides that are no multiples of each other, and not so small that they are special.
TRACED_SIZE = (96, 160)
TRACED_BATCH = 2


class Logits(nn.Module):
    """A model whose only output is its logits, at their own resolution."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Logits of normalised images `(batch, channels, height, width)`."""
        return self.model(pixel_values=pixel_values).logits


@torch.no_grad()
def trace(source: Source, fixed: tuple[int, int] | None = None) -> ExportedProgram:
    """
    The program from `pixel_values` `(batch, channels, height, width)` to logits, the batch free, and height and width
    too unless they are `fixed`: sides of at least 64 pixels, of a certified network multiples of
    [`~lrsegformer.export.source.Source.multiple`].

    The strategy's constraint is multiplied out: the program holds the effective weights, and of the decode head the
    matrices that [`~lrsegformer.models.decode_head.LRSegformerDecodeHead.eval_maps`] makes of its projections, fuse
    map and normalisation.
    """
    height, width = fixed or (next_multiple(side, source.multiple) for side in TRACED_SIZE)
    pixel_values = torch.randn(TRACED_BATCH, source.model.config.num_channels, height, width)
    sizes = {0: Dim("batch", min=1)}
    if fixed is None:
        sizes |= {2: _open_side("height", source.multiple), 3: _open_side("width", source.multiple)}
    return torch.export.export(Logits(source.model), (pixel_values,), dynamic_shapes={INPUT: sizes}, strict=False)


def _open_side(name: str, multiple: int) -> Any:
    smallest = next_multiple(SMALLEST_SIDE, multiple)
    if multiple == 1:
        return Dim(name, min=smallest)
    return multiple * Dim(f"{name}_over_{multiple}", min=smallest // multiple)
