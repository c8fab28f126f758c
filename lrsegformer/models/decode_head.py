"""The decode head: stock SegFormer's function, each scale fused at its own resolution, its linear maps constrained."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

from lrsegformer.layers.base import LipschitzConstraint
from lrsegformer.layers.registry import STRATEGIES
from lrsegformer.models.configuration_lrsegformer import LRSegformerConfig
from lrsegformer.models.normalization import CenteringBatchNorm2d


def plain_matrix(layer: nn.Linear | nn.Conv2d, row_scale: torch.Tensor | None = None) -> torch.Tensor:
    """The `(out, in)` matrix that a constrained or plain layer multiplies by, at least float32."""
    if isinstance(layer, LipschitzConstraint):
        return layer.effective_weight(row_scale)
    return LipschitzConstraint.raw_matrix(layer)


class LRSegformerDecodeHead(SegformerDecodeHead):
    """
    SegFormer's all-MLP decode head with constrained linear maps.

    It computes the stock head's function (where the constraint is inactive) in another order: the fuse convolution
    commutes with bilinear upsampling, because upsampling is linear, acts on every channel alike and has weights that
    sum to 1. So each scale is projected and fused by one matrix, the product of its block of the fuse weight and its
    projection, and the concatenation of all upsampled projections is never built.

    State-dict names and shapes are the stock ones, plus the scalars `c`.
    """

    def __init__(self, config: LRSegformerConfig):
        super().__init__(config)
        if config.lipschitz_strategy is None:
            return
        linear_class = STRATEGIES[config.lipschitz_strategy]
        options = config.lipschitz_options or {}
        width = config.decoder_hidden_size
        for projection, channels in zip(self.linear_projections, config.hidden_sizes, strict=True):
            projection.proj = linear_class(channels, width, **options)
        if config.lipschitz_scope == "head":
            # Registered after batch_norm: initialisation walks in this order, and fuse starts from the scale of the
            # norm.
            del self.linear_fuse
            self.batch_norm = CenteringBatchNorm2d(width)
            conv_class = linear_class.conv1x1_class
            self.linear_fuse = conv_class(width * config.num_encoder_blocks, width, bias=False, **options)
            self.classifier = conv_class(width, config.num_labels, **options)

    def fuse_row_scale(self) -> torch.Tensor | None:
        """The norm's scale where the constraint of the fuse convolution includes it, else `None`."""
        return self.batch_norm.row_scale() if isinstance(self.batch_norm, CenteringBatchNorm2d) else None

    def folded_maps(self) -> tuple[list[torch.Tensor], torch.Tensor]:
        """
        The linear part of the head from features to the normalisation.

        Returns:
            The matrices `(decoder_hidden_size, hidden_sizes[i])`, one a scale, and the summed bias
            `(decoder_hidden_size,)`: what the fuse convolution yields is `sum_i upsample(M_i x_i) + bias`.
        """
        fuse = plain_matrix(self.linear_fuse, self.fuse_row_scale())
        # The stock head concatenates the coarsest scale first.
        blocks = fuse.chunk(len(self.linear_projections), dim=1)[::-1]
        with torch.autocast(device_type=fuse.device.type, enabled=False):
            matrices, bias = [], torch.zeros((), device=fuse.device, dtype=fuse.dtype)
            for block, projection in zip(blocks, self.linear_projections, strict=True):
                matrices.append(block @ plain_matrix(projection.proj))
                bias = bias + block @ projection.proj.bias.to(block.dtype)
        return matrices, bias

    def fuse(self, encoder_hidden_states: Sequence[torch.Tensor]) -> torch.Tensor:
        """Fuse the stage features `(batch, hidden_sizes[i], height_i, width_i)` on the finest grid."""
        features = [self._as_map(hidden_state) for hidden_state in encoder_hidden_states]
        matrices, bias = self.folded_maps()
        batch_size, _, *size = features[0].shape
        fused = None
        for matrix, feature in zip(matrices, features, strict=True):
            # Batched products keep the plain memory format that upsampling works in; others are copied to it.
            matrices_of_batch = matrix.to(feature.dtype).expand(batch_size, -1, -1)
            part = torch.bmm(matrices_of_batch, feature.flatten(2)).view(batch_size, -1, *feature.shape[2:])
            if list(feature.shape[2:]) != size:
                part = nn.functional.interpolate(part, size=size, mode="bilinear", align_corners=False)
            fused = part if fused is None else fused + part
        return fused + bias.to(fused.dtype)[:, None, None]

    def forward(self, encoder_hidden_states: Sequence[torch.Tensor], **kwargs) -> torch.Tensor:
        """Logits `(batch, num_labels, height / 4, width / 4)` from the features of all stages, finest first."""
        hidden_states = self.batch_norm(self.fuse(encoder_hidden_states))
        hidden_states = self.dropout(self.activation(hidden_states))
        return self.classifier(hidden_states)

    def eval_logits(self, encoder_hidden_states: Sequence[torch.Tensor]) -> torch.Tensor:
        """The logits as eval mode computes them, sample by sample and without dropout, in either mode."""
        hidden_states = self.fuse(encoder_hidden_states)
        norm = self.batch_norm
        if isinstance(norm, CenteringBatchNorm2d):
            hidden_states = hidden_states + norm.shift().to(hidden_states.dtype)[:, None, None]
        else:
            hidden_states = nn.functional.batch_norm(
                hidden_states,
                norm.running_mean,
                norm.running_var,
                norm.weight,
                norm.bias,
                training=False,
                eps=norm.eps,
            )
        return self.classifier(self.activation(hidden_states))

    @staticmethod
    def _as_map(hidden_state: torch.Tensor) -> torch.Tensor:
        """A last stage that was left flat (`reshape_last_stage=False`) as a square map."""
        if hidden_state.ndim == 4:
            return hidden_state
        batch_size, length, channels = hidden_state.shape
        side = int(length**0.5)
        return hidden_state.transpose(1, 2).reshape(batch_size, channels, side, side)
