"""What a certified network takes over from a stock encoder."""

import torch
from torch import nn

from lrsegformer.layers.base import LipschitzConstraint
from lrsegformer.models.encoder.attention import EnergyAttention
from lrsegformer.models.encoder.certified import CertifiedStage
from lrsegformer.models.encoder.pointwise import PointwiseMap


@torch.no_grad()
def carry_over(model: nn.Module, stock: nn.Module) -> None:
    """
    Start the encoder of a certified model from a stock encoder of the same widths and depths.

    Each matrix is brought to what the strategy allows (its nearest orthonormal one, for example), so that the signal
    keeps its scale, which the stock network leaves to LayerNorm. Taken over are the middle of each patch embedding's
    kernel, as large as a block; the query projection as the matrix of energy attention, or query, key and value; and
    of the Mix-FFN the longest rows of the first linear map, with their depthwise kernels and biases. The second linear
    map, the sequence reduction and the norms have no counterpart.

    Args:
        model: certified; its `segformer` is changed.
        stock: [`~transformers.SegformerModel`] or ours without a constraint.
    """
    for index, (stage, source) in enumerate(zip(model.segformer.stages, stock.stages, strict=True)):
        _carry_embedding(stage, source, torch.tensor(model.config.pixel_std()) if index == 0 else None)
        for block, stock_block in zip(stage.blocks, source.blocks, strict=True):
            attention, stock_attention = block.attention, stock_block.attention
            if isinstance(attention, EnergyAttention):
                _start(attention.matrix, stock_attention.q_proj.weight)
            else:
                _start(attention.query, stock_attention.q_proj.weight)
                _start(attention.key, stock_attention.k_proj.weight)
                _start(attention.value, stock_attention.v_proj.weight)
            steps, convolution = block.mlp.steps, stock_block.mlp.dwconv.dwconv
            pieces = (
                tensor.chunk(len(steps))
                for tensor in (stock_block.mlp.fc1.weight, convolution.weight, convolution.bias)
            )
            for step, matrix, kernel, bias in zip(steps, *pieces, strict=True):
                rows = matrix.norm(dim=1).topk(len(step.bias)).indices
                _start(step.matrix, matrix[rows])
                step.dwconv.weight.copy_(kernel[rows])
                step.bias.copy_(bias[rows])


def _carry_embedding(stage: CertifiedStage, source: nn.Module, divisors: torch.Tensor | None) -> None:
    kernel = source.patch_embeddings.proj.weight
    if divisors is not None:  # The stock kernel multiplies normalised pixels.
        kernel = kernel / divisors.to(kernel)[:, None, None]
    block = stage.patch_embeddings.block
    framed = nn.functional.pad(kernel, [max(0, block - kernel.shape[-1])] * 4)
    first = (framed.shape[-1] - block) // 2
    _start(stage.patch_embeddings.matrix, framed[..., first : first + block, first : first + block].flatten(1))


def _start(matrix: PointwiseMap, weight: torch.Tensor) -> None:
    layer: LipschitzConstraint = matrix.linear
    layer.weight.copy_(weight)
    layer.start_from_weight()
