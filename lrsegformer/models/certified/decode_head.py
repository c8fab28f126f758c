"""The certified decode head: scales fused as in the stock one, steps in place of BatchNorm and ReLU, equal rows."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import interpolate

from lrsegformer.certification.calculus import Constants, fused_scales, sequence
from lrsegformer.certification.primitives import non_expansive, upsampling
from lrsegformer.kernels.norm_relu_classifier import multiply_pixels
from lrsegformer.kernels.precision import without_autocast
from lrsegformer.kernels.upsampled_sum import upsampled_sum
from lrsegformer.models.certified.classifier import EqualRowsClassifier
from lrsegformer.models.configuration_lrsegformer import LRSegformerConfig
from lrsegformer.models.encoder.certified import stage_grids
from lrsegformer.models.encoder.mix_ffn import ConvexPotentialStep
from lrsegformer.models.encoder.pointwise import PointwiseMap

# Between the fused features and the classifier.
STEPS = 2


class CertifiedDecodeHead(nn.Module):
    """
    `classifier(steps(sum_i U_i F_i a_i P_i x_i + position))`, the squares of the learned weights `a_i` summing to 1.

    `P_i` projects scale i, `[F_1 .. F_4]` is the fuse map, `U_i` bilinear upsampling. A change that reaches every
    scale with length 1 reaches the fused features with at most `sqrt(sum a_i^2) = 1` at any pixel. Where the
    configuration asks for it, a learned vector is added at each place of the image, relative to its sides, which
    changes no constant.

    Args:
        config ([`LRSegformerConfig`]).
    """

    def __init__(self, config: LRSegformerConfig):
        super().__init__()
        self.config = config
        width, scales = config.decoder_hidden_size, config.num_encoder_blocks
        self.linear_projections = nn.ModuleList(
            PointwiseMap(config, channels, width) for channels in config.hidden_sizes
        )
        self.linear_fuse = PointwiseMap(config, width * scales, width)
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale_logits = nn.Parameter(torch.zeros(scales))
        grid = config.certified_position_grid
        self.positions = None if grid is None else nn.Parameter(torch.zeros(width, *grid))
        self.steps = nn.ModuleList(ConvexPotentialStep(config, width, depthwise=False) for _ in range(STEPS))
        self.classifier = EqualRowsClassifier(config, width)

    def scale_weights(self) -> torch.Tensor:
        """`a_i` `(scales,)`, float32."""
        return self.scale_logits.float().softmax(dim=0).sqrt()

    def forward(self, features: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        """
        Logits `(batch, num_labels, ceil(height / stride), ceil(width / stride))` of images of `size` (height, width),
        stride that of the first stage, from all stages' features.
        """
        return self.classified(self.embedded(features, size))

    def classified(self, embedded: torch.Tensor) -> torch.Tensor:
        """The rows times the features `(batch, decoder_hidden_size, height, width)`, and the bias."""
        return multiply_pixels(self.classifier.rows(), embedded, self.classifier.bias)

    def embedded(self, features: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        """The features that the classifier's rows are multiplied by, `(batch, decoder_hidden_size, ..)`."""
        matrices = self._matrices()
        finest, *coarser = features
        parts = [multiply_pixels(matrix, maps) for matrix, maps in zip(matrices[1:], coarser, strict=True)]
        fused = upsampled_sum(matrices[0].to(finest.dtype), finest, *(part.to(finest.dtype) for part in parts))
        height, width = self._logits_size(size)
        fused = fused[..., :height, :width] + self.bias.to(fused.dtype)[:, None, None]
        if self.positions is not None:
            positions = interpolate(self.positions[None], (height, width), mode="bilinear", align_corners=False)
            fused = fused + positions.to(fused.dtype)
        for step in self.steps:
            fused = step(fused)
        return fused

    def constants(self, scales: Sequence[Constants], size: tuple[int, int]) -> Constants:
        """
        From the image to what [`embedded`] gives, in eval mode.

        Args:
            scales (`Sequence[Constants]`): from the image to each stage's features.
            size (`tuple[int, int]`): height and width of the image.
        """
        return sequence([self.fused_constants(scales, size), *self.step_constants(size)])

    def fused_constants(self, scales: Sequence[Constants], size: tuple[int, int]) -> Constants:
        """From the image to the fused features, positions added."""
        grids = stage_grids(self.config, *size)
        upsampled = [scale.then(upsampling(grid, grids[0])) for scale, grid in zip(scales, grids, strict=True)]
        fuse = self.linear_fuse.exact_matrix().chunk(len(scales), dim=1)
        products = [block @ each.exact_matrix() for block, each in zip(fuse, self.linear_projections, strict=True)]
        fused = fused_scales(upsampled, products, self.scale_weights().double())
        height, width = self._logits_size(size)
        return fused.then(non_expansive(grids[0][0] * grids[0][1], height * width))

    def step_constants(self, size: tuple[int, int]) -> list[Constants]:
        """Of each step between the fused features and the classifier."""
        height, width = self._logits_size(size)
        return [step.constants(height * width) for step in self.steps]

    def _matrices(self) -> list[torch.Tensor]:
        """`a_i F_i P_i` for each scale."""
        fuse = self.linear_fuse.maps().matrix.chunk(len(self.linear_projections), dim=1)
        weights = self.scale_weights()
        with without_autocast(weights.device.type):
            return [
                weight * (block @ projection.maps().matrix)
                for weight, block, projection in zip(weights, fuse, self.linear_projections, strict=True)
            ]

    def _logits_size(self, size: tuple[int, int]) -> tuple[int, int]:
        stride = self.config.strides[0]
        return (size[0] + stride - 1) // stride, (size[1] + stride - 1) // stride
