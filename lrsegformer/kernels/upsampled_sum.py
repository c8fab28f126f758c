"""A product at every pixel of the finest maps plus coarser maps upsampled to them, and its gradients."""

from collections.abc import Iterator, Sequence

import torch

from lrsegformer.kernels.bilinear import BLOCK_COLUMNS, Band, bands, interpolation_matrices, upsampling_transposed
from lrsegformer.kernels.chunks import works_in_chunks
from lrsegformer.kernels.transforms import under_torch_func

# Elements of the sum worked on at a time: what stays in the cache of a CPU.
CHUNK_ELEMENTS = 2**19


def upsampled_sum(matrix: torch.Tensor, finest: torch.Tensor, *coarser: torch.Tensor) -> torch.Tensor:
    """
    `matrix @ finest + sum_i upsample(coarser[i])` on the grid of `finest`.

    Args:
        matrix (`torch.Tensor` of shape `(channels, finest_channels)`): multiplies every pixel of `finest`.
        finest (`torch.Tensor` of shape `(batch, finest_channels, height, width)`).
        coarser (`torch.Tensor` of shape `(batch, channels, height_i, width_i)`): one or more, all of one dtype.

    Returns:
        `torch.Tensor` of shape `(batch, channels, height, width)`, contiguous, and no view: it may be overwritten.
    """
    if under_torch_func():
        return _sum_of_products(matrix, finest, coarser)
    # Without gradients the function of autograd is left out: torch.compile cannot trace it there.
    if torch.is_grad_enabled():
        return UpsampledSum.apply(matrix, finest, *coarser)
    return UpsampledSum.forward(matrix, finest, *coarser)


class UpsampledSum(torch.autograd.Function):
    """
    [`upsampled_sum`], each upsampling as products with two interpolation matrices.

    One accumulator takes the place of the product, an upsampled copy and a sum for each map, and the backward pass is
    the same products transposed. On a CPU both go through a few channels at a time, which stay in its cache, and in
    blocks that leave out most of the matrices' zeros: less than half the time of `F.interpolate` and its gradient.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: torch.Tensor, finest: torch.Tensor, *coarser: torch.Tensor) -> torch.Tensor:
        if works_in_chunks(matrix, finest, *coarser):
            return _sum_in_chunks(matrix, finest, coarser)
        return _sum_of_products(matrix, finest, coarser)

    @staticmethod
    def setup_context(ctx, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        matrix, finest, *coarser = inputs
        ctx.save_for_backward(matrix, finest)
        ctx.sizes = [tuple(maps.shape[2:]) for maps in coarser]

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        matrix, finest = ctx.saved_tensors
        batch, channels, *_ = finest.shape
        # No `flatten`, which a gradient of many cotangents at once does not have.
        flat, pixels = gradient.reshape(batch, matrix.shape[0], -1), finest.reshape(batch, channels, -1)
        of_matrix = torch.bmm(flat, pixels.transpose(1, 2)).sum(dim=0)
        of_finest = torch.bmm(matrix.T.expand(batch, -1, -1), flat).view(finest.shape)
        if not torch.is_grad_enabled() and works_in_chunks(gradient):
            return of_matrix, of_finest, *_transposed_in_chunks(gradient.contiguous(), ctx.sizes)
        return of_matrix, of_finest, *(upsampling_transposed(gradient, size) for size in ctx.sizes)


def _sum_of_products(matrix: torch.Tensor, finest: torch.Tensor, coarser: Sequence[torch.Tensor]) -> torch.Tensor:
    batch, _, *size = finest.shape
    channels = matrix.shape[0]
    total = None
    for maps in coarser:
        by_rows, by_columns = interpolation_matrices(maps.shape[2:], size, maps)
        by_rows, wide = by_rows.expand(batch * channels, -1, -1), (maps @ by_columns.T).flatten(0, 1)
        total = torch.bmm(by_rows, wide) if total is None else total.baddbmm_(by_rows, wide)
    # A result that autograd takes for a view could not be overwritten.
    if torch.jit.is_tracing():  # It would take the sizes of the example for those of every input.
        total = total.view(batch, channels, *size).clone()
    else:
        total = torch.ops.aten._unsafe_view(total, (batch, channels, *size))
    total.flatten(2).baddbmm_(matrix.expand(batch, -1, -1), finest.flatten(2))
    return total


def _sum_in_chunks(matrix: torch.Tensor, finest: torch.Tensor, coarser: Sequence[torch.Tensor]) -> torch.Tensor:
    batch, _, *size = finest.shape
    total = finest.new_empty(batch, matrix.shape[0], *size)
    blocks = [_blocks(maps.shape[2:], size, maps.dtype) for maps in coarser]
    for image, channels in _chunks(total):
        part = total[image, channels]
        torch.mm(matrix[channels], finest[image].flatten(1), out=part.flatten(1))
        for maps, (by_rows, by_columns) in zip(coarser, blocks, strict=True):
            narrow = maps[image, channels]
            wide = narrow.new_empty(*narrow.shape[:2], size[1])
            flat, flat_wide = narrow.flatten(0, 1), wide.flatten(0, 1)
            for block in by_columns:
                source = flat[:, block.source_start : block.source_stop]
                torch.mm(source, block.weights.T, out=flat_wide[:, block.start : block.stop])
            for block in by_rows:
                source = wide[:, block.source_start : block.source_stop]
                part[:, block.start : block.stop].baddbmm_(block.weights.expand(len(part), -1, -1), source)
    return total


def _transposed_in_chunks(gradient: torch.Tensor, sizes: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """The transpose of bilinear upsampling from each of `sizes`, applied to `(batch, channels, height, width)`."""
    batch, channels, *new_size = gradient.shape
    results = [gradient.new_zeros(batch, channels, *size) for size in sizes]
    blocks = [_blocks(size, new_size, gradient.dtype) for size in sizes]
    for image, channels in _chunks(gradient):
        wide = gradient[image, channels]
        for result, (by_rows, by_columns) in zip(results, blocks, strict=True):
            narrow = wide.new_zeros(*wide.shape[:2], result.shape[3])
            flat, flat_wide = narrow.flatten(0, 1), wide.flatten(0, 1)
            for block in by_columns:
                target = flat[:, block.source_start : block.source_stop]
                target.addmm_(flat_wide[:, block.start : block.stop], block.weights)
            part = result[image, channels]
            for block in by_rows:
                target = part[:, block.source_start : block.source_stop]
                target.baddbmm_(block.weights.T.expand(len(part), -1, -1), narrow[:, block.start : block.stop])
    return results


def _chunks(maps: torch.Tensor) -> Iterator[tuple[int, slice]]:
    """Images and ranges of channels."""
    batch, channels, height, width = maps.shape
    count = max(1, CHUNK_ELEMENTS // (height * width))
    for image in range(batch):
        for first in range(0, channels, count):
            yield image, slice(first, first + count)


def _blocks(
    size: Sequence[int], new_size: Sequence[int], dtype: torch.dtype
) -> tuple[tuple[Band, ...], tuple[Band, ...]]:
    """Blocks of the interpolation matrices along rows and columns."""
    return tuple(bands(old, new, BLOCK_COLUMNS, dtype) for old, new in zip(size, new_size, strict=True))
