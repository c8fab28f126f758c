"""The certified encoder: SegFormer's stages with embedding, attention and Mix-FFN that expand nothing."""

from itertools import accumulate
from operator import mul

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.segformer.modeling_segformer import SegformerDropPath

from lrsegformer.certification.calculus import Constants, sequence
from lrsegformer.certification.primitives import non_expansive
from lrsegformer.models.configuration_lrsegformer import LRSegformerConfig
from lrsegformer.models.encoder.attention import ATTENTIONS
from lrsegformer.models.encoder.embedding import BlockEmbedding, pad_to_multiple
from lrsegformer.models.encoder.mix_ffn import CertifiedMixFFN


class CertifiedLayer(GradientCheckpointingLayer):
    """
    A block: attention and Mix-FFN, each with stochastic depth on what it adds.

    There is no norm in front of the branches: subtracting the mean over channels is a matrix, which the branches' own
    matrices take in, and dividing by the deviation is what has no Lipschitz constant.
    """

    def __init__(self, config: LRSegformerConfig, stage: int, drop_path: float):
        super().__init__()
        channels = config.hidden_sizes[stage]
        attention = ATTENTIONS[config.certified_attention]
        self.attention = attention(config, channels, config.num_attention_heads[stage], config.sr_ratios[stage])
        self.mlp = CertifiedMixFFN(config, channels, config.mlp_ratios[stage])
        self.drop_path = SegformerDropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        for part in (self.attention, self.mlp):
            output = part(hidden_states)
            if self.training and not isinstance(self.drop_path, nn.Identity):
                output = hidden_states + self.drop_path(output - hidden_states)
            hidden_states = output
        return hidden_states

    def constants(self, pixels: int) -> Constants:
        """In eval mode, on maps of this many pixels."""
        return self.attention.constants(pixels).then(self.mlp.constants(pixels))


class CentringNorm(nn.Module):
    """
    The mean over channels subtracted and a bias added: what is left of LayerNorm without the division.

    A projection, of norm 1 in both norms of maps.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`hidden_states` `(batch, channels, height, width)`."""
        return (
            hidden_states - hidden_states.mean(dim=1, keepdim=True) + self.bias.to(hidden_states.dtype)[:, None, None]
        )


class CertifiedStage(nn.Module):
    """
    One stage: block embedding, blocks, centring norm. The first undoes the processor's division and pads.

    Args:
        config ([`LRSegformerConfig`]), stage (`int`).
        drop_paths (`list[float]`): of the stage's blocks.
    """

    def __init__(self, config: LRSegformerConfig, stage: int, drop_paths: list[float]):
        super().__init__()
        before = config.num_channels if stage == 0 else config.hidden_sizes[stage - 1]
        self.is_first = stage == 0
        self.multiple = total_stride(config)
        self.pixel_std = config.pixel_std()
        self.patch_embeddings = BlockEmbedding(config, before, config.hidden_sizes[stage], config.strides[stage])
        self.blocks = nn.ModuleList(CertifiedLayer(config, stage, drop_path) for drop_path in drop_paths)
        self.layer_norm = CentringNorm(config.hidden_sizes[stage])

    def forward(self, hidden_states: torch.Tensor, **kwargs) -> torch.Tensor:
        """The stage's features `(batch, channels, height, width)`; of the first stage from normalised pixels."""
        if self.is_first:
            # Times the deviations: pixels on a scale of 0 to 1 again, less their mean, so that the factor is 1.
            std = torch.tensor(self.pixel_std, dtype=torch.float32, device=hidden_states.device)
            pixels = hidden_states.to(self.patch_embeddings.matrix.linear.weight.dtype) * std[:, None, None]
            hidden_states = pad_to_multiple(pixels, self.multiple)
        hidden_states = self.patch_embeddings(hidden_states)
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return self.layer_norm(hidden_states)

    def constants(self, pixels: int) -> Constants:
        """In eval mode, on maps of this many pixels (after padding), for the first stage of images in [0, 1]."""
        after = pixels // self.patch_embeddings.block**2
        blocks = [block.constants(after) for block in self.blocks]
        return sequence([self.patch_embeddings.constants(pixels), *blocks, non_expansive(after)])


def certified_stages(config: LRSegformerConfig) -> nn.ModuleList:
    """The stages of a certified encoder, stochastic depth growing with the depth as in the stock one."""
    count = sum(config.depths)
    rates = [config.drop_path_rate * index / max(1, count - 1) for index in range(count)]
    stages, start = [], 0
    for stage, depth in enumerate(config.depths):
        stages.append(CertifiedStage(config, stage, rates[start : start + depth]))
        start += depth
    return nn.ModuleList(stages)


def total_stride(config: LRSegformerConfig) -> int:
    """What the sides of an image are padded to a multiple of: every stage's map divides into its blocks of keys."""
    stride, multiple = 1, 1
    for block, reduction in zip(config.strides, config.sr_ratios, strict=True):
        stride *= block
        multiple = max(multiple, stride * reduction)
    return multiple


def padded_sides(config: LRSegformerConfig, height: int, width: int) -> tuple[int, int]:
    """Height and width of an image after padding."""
    multiple = total_stride(config)
    return height + -height % multiple, width + -width % multiple


def stage_grids(config: LRSegformerConfig, height: int, width: int) -> list[tuple[int, int]]:
    """Height and width of each stage's map of tokens, for an image of this size."""
    height, width = padded_sides(config, height, width)
    strides = accumulate(config.strides, mul)
    return [(height // stride, width // stride) for stride in strides]
