"""Patch embedding without overlap: blocks of pixels become channels, and an orthonormal map keeps the best of them."""

import math

import torch
from torch import nn
from torch.nn.functional import pad, pixel_unshuffle
from transformers import initialization as init

from lrsegformer.certification.calculus import Constants
from lrsegformer.certification.primitives import pointwise, space_to_depth
from lrsegformer.kernels.norm_relu_classifier import multiply_pixels
from lrsegformer.models.configuration_lrsegformer import LRSegformerConfig
from lrsegformer.models.encoder.pointwise import PointwiseMap


class BlockEmbedding(nn.Module):
    """
    Blocks of `block` x `block` pixels as channels, times a matrix.

    Nothing overlaps, so that the l2 norm of the whole is that of the matrix: 1 where its rows are orthonormal, and an
    input in their span keeps its length. An overlapping convolution of the same gain shrinks most inputs.

    Args:
        config ([`LRSegformerConfig`]), in_channels (`int`), out_channels (`int`), block (`int`).
    """

    def __init__(self, config: LRSegformerConfig, in_channels: int, out_channels: int, block: int):
        super().__init__()
        self.block = block
        self.matrix = PointwiseMap(config, in_channels * block**2, out_channels)
        # Here and not with the matrix: transformers initialises modules that hold a parameter of their own.
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """`(batch, in_channels, height, width)`, sides multiples of the block, to `(.., height / block, ..)`."""
        return multiply_pixels(self.matrix.maps().matrix, pixel_unshuffle(maps, self.block), self.bias)

    def constants(self, pixels: int) -> Constants:
        """On maps of this many pixels."""
        after = pixels // self.block**2
        return space_to_depth(self.block, pixels).then(pointwise(self.matrix.norm(), after))

    @torch.no_grad()
    def start_from_frequencies(self) -> None:
        """
        Set the matrix to cosine transforms of the blocks, lowest frequencies of all channels first.

        Images have most of their energy there. Random rows would keep `out / in` of it at every scale.
        """
        layer = self.matrix.linear
        init.copy_(layer.weight, cosine_rows(*layer.weight.shape, self.block).to(layer.weight))
        layer.start_from_weight()


def cosine_rows(rows: int, columns: int, block: int) -> torch.Tensor:
    """
    `(rows, columns)`: orthonormal cosine transforms of blocks of `columns / block^2` channels, by frequency.

    With more rows than columns, those beyond are orthogonal columns' complements: zeros plus a small random part,
    which an orthonormal factor makes unit columns of.
    """
    positions = (torch.arange(block, dtype=torch.float64) + 0.5) / block
    frequencies = torch.arange(block, dtype=torch.float64)
    waves = torch.cos(math.pi * frequencies[:, None] * positions) * math.sqrt(2 / block)
    waves[0] /= math.sqrt(2)
    order = sorted((down**2 + across**2, down, across) for down in range(block) for across in range(block))
    channels = columns // block**2
    patterns = torch.stack([torch.outer(waves[down], waves[across]).flatten() for _, down, across in order])
    # Channels vary faster than frequencies among the rows; in the columns they come first, as in pixel_unshuffle.
    table = torch.einsum("fp,cd->fcdp", patterns, torch.eye(channels, dtype=torch.float64)).reshape(columns, columns)
    if rows <= columns:
        return table[:rows]
    return torch.cat([table, 1e-3 * torch.randn(rows - columns, columns, dtype=torch.float64) / math.sqrt(columns)])


def pad_to_multiple(pixel_values: torch.Tensor, multiple: int) -> torch.Tensor:
    """Zeros below and at the right, so that both sides are multiples of `multiple`."""
    height, width = pixel_values.shape[-2:]
    # Written so that in an exported graph, too, the new sides are known to be multiples.
    below, right = (multiple * ((side + multiple - 1) // multiple) - side for side in (height, width))
    return pad(pixel_values, (0, right, 0, below))
