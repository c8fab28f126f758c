"""The decode head: stock SegFormer's function, each scale fused at its own resolution, its linear maps constrained."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

from lrsegformer._compat import active_module, is_adapted
from lrsegformer.errors import InputError
from lrsegformer.kernels.bilinear import interpolation_matrices
from lrsegformer.kernels.norm_relu_classifier import classify, multiply_pixels
from lrsegformer.kernels.precision import at_least_float32, without_autocast
from lrsegformer.kernels.upsampled_sum import upsampled_sum
from lrsegformer.layers.base import ADVICE_ON_ADAPTERS, LipschitzConstraint
from lrsegformer.layers.merged_maps import MergedMapsMixin
from lrsegformer.layers.registry import STRATEGIES
from lrsegformer.models.configuration_lrsegformer import LRSegformerConfig
from lrsegformer.models.eval_mode import Statistics
from lrsegformer.models.normalization import CenteringBatchNorm2d


class DecodeHeadMaps(NamedTuple):
    """
    The decode head in eval mode as one linear map a scale, a ReLU, and the classifier.

    Attributes:
        matrices (list of `torch.Tensor` of shape `(decoder_hidden_size, hidden_sizes[i])`): normalisation included.
        bias (`torch.Tensor` of shape `(decoder_hidden_size,)`).
        classifier (`torch.Tensor` of shape `(num_labels, decoder_hidden_size)`), classifier_bias (`torch.Tensor`).
    """

    matrices: list[torch.Tensor]
    bias: torch.Tensor
    classifier: torch.Tensor
    classifier_bias: torch.Tensor


class DecodeHeadLayers(NamedTuple):
    """The layers that compute now: of those among peft's modules_to_save the copies of the active adapter."""

    projections: list[nn.Module]
    fuse: nn.Module
    norm: nn.Module
    classifier: nn.Module


def plain_matrix(layer: nn.Module, row_scale: torch.Tensor | None = None) -> torch.Tensor:
    """
    The `(out, in)` matrix that a constrained or plain layer multiplies by, at least float32; of a layer among peft's
    modules_to_save that of the active copy.

    Raises:
        [`~lrsegformer.errors.InputError`]: for a layer with an adapter beside it, which its own matrix does not have.
    """
    layer = active_module(layer)
    if isinstance(layer, LipschitzConstraint):
        return layer.effective_weight(row_scale)
    refuse_adapter(layer)
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        raise InputError(
            f"the head multiplies its linear maps out and cannot take a {type(layer).__name__} among them, whose own "
            f"forward pass would be left out: {ADVICE_ON_ADAPTERS}"
        )
    return LipschitzConstraint.raw_matrix(layer)


def refuse_adapter(layer: nn.Module) -> None:
    """
    Refuse a layer of the head with an active adapter of peft (LoRA, for example).

    The adapter's update would be added outside the constraint, so that the layer's bound would not hold; and the
    decode head multiplies its maps out, which would pass by the adapter.
    """
    if is_adapted(layer):
        raise InputError(
            f"an adapter ({type(layer).__name__} of peft) sits on the head's layer "
            f"{type(layer.get_base_layer()).__name__}, outside its constraint, and the bound would not hold: "
            f"{ADVICE_ON_ADAPTERS}"
        )


class LRSegformerDecodeHead(MergedMapsMixin, SegformerDecodeHead):
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
        if config.constrains_whole_head:
            # Registered after batch_norm: initialisation walks in this order, and fuse starts from the scale of the
            # norm.
            del self.linear_fuse
            self.batch_norm = CenteringBatchNorm2d(width)
            conv_class = linear_class.conv1x1_class
            self.linear_fuse = conv_class(width * config.num_encoder_blocks, width, bias=False, **options)
            self.classifier = conv_class(width, config.num_labels, **options)

    def active_layers(self) -> DecodeHeadLayers:
        """The layers that compute now. What they are called in the head, they may not be: peft wraps them."""
        projections = [active_module(active_module(each).proj) for each in self.linear_projections]
        return DecodeHeadLayers(projections, *map(active_module, (self.linear_fuse, self.batch_norm, self.classifier)))

    def fuse_row_scale(self) -> torch.Tensor | None:
        """The norm's scale where the constraint of the fuse convolution includes it, else `None`."""
        norm = active_module(self.batch_norm)
        return norm.row_scale() if isinstance(norm, CenteringBatchNorm2d) else None

    def folded_maps(self) -> tuple[list[torch.Tensor], torch.Tensor]:
        """
        The linear part of the head from features to the normalisation.

        Returns:
            The matrices `(decoder_hidden_size, hidden_sizes[i])`, one a scale, and the summed bias
            `(decoder_hidden_size,)`: what the fuse convolution yields is `sum_i upsample(M_i x_i) + bias`.
        """
        layers = self.active_layers()
        fuse = plain_matrix(layers.fuse, self.fuse_row_scale())
        # The stock head concatenates the coarsest scale first.
        blocks = fuse.chunk(len(layers.projections), dim=1)[::-1]
        with without_autocast(fuse.device.type):
            matrices, bias = [], torch.zeros((), device=fuse.device, dtype=fuse.dtype)
            for block, projection in zip(blocks, layers.projections, strict=True):
                matrices.append(block @ plain_matrix(projection))
                bias = bias + block @ projection.bias.to(block.dtype)
        return matrices, bias

    def fuse(
        self,
        encoder_hidden_states: Sequence[torch.Tensor],
        linear_part: tuple[Sequence[torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """
        Fuse the stage features `(batch, hidden_sizes[i], height_i, width_i)` on the finest grid, by [`folded_maps`] or
        by another linear part of that form.
        """
        matrices, bias = self.folded_maps() if linear_part is None else linear_part
        finest, *coarser = encoder_hidden_states
        parts = []
        for matrix, feature in zip(matrices[1:], coarser, strict=True):
            # Upsampling leaves a constant as it is, so the bias is added where the map is smallest.
            parts.append(multiply_pixels(matrix, feature, bias if feature is coarser[-1] else None))
        if not parts:
            return multiply_pixels(matrices[0], finest, bias)
        dtype = parts[0].dtype
        return upsampled_sum(matrices[0].to(dtype), finest.to(dtype), *parts)

    def forward(
        self, encoder_hidden_states: Sequence[torch.Tensor], return_fused: bool = False, **kwargs
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """
        Logits `(batch, num_labels, height / 4, width / 4)` from the features of all stages, finest first; with
        `return_fused` also the input of the normalisation.
        """
        if not self.training and not return_fused:
            maps = self.constant_maps() or self.eval_maps()
            hidden_states = self.fuse(encoder_hidden_states, (maps.matrices, maps.bias)).relu_()
            return multiply_pixels(maps.classifier, hidden_states, maps.classifier_bias)
        probability = self.dropout.p if self.training else 0.0
        *_, norm, classifier = self.active_layers()
        if isinstance(norm, CenteringBatchNorm2d):
            matrices, bias = self.folded_maps()
            mean = self._mean_of_fused(encoder_hidden_states, matrices, bias) if norm.training else None
            shift, norm = norm.centring_shift(mean), None
            # The shift goes where the bias goes, so that centring needs no pass over the fused features.
            maps = self.fuse(encoder_hidden_states, (matrices, bias + shift))
            fused = maps.detach() - shift.detach()[:, None, None] if return_fused else None
        else:
            fused = maps = self.fuse(encoder_hidden_states)
        logits = classify(maps, probability, plain_matrix(classifier), classifier.bias, norm)
        return (logits, fused) if return_fused else logits

    def _mean_of_fused(
        self, encoder_hidden_states: Sequence[torch.Tensor], matrices: Sequence[torch.Tensor], bias: torch.Tensor
    ) -> torch.Tensor:
        """
        The mean over batch and pixels of what [`fuse`] gives, `(decoder_hidden_size,)`, from the features' own means.

        The mean of an upsampled map is a weighted mean of the map, each pixel weighing as much as the upsampled pixels
        take from it.
        """
        new_size = encoder_hidden_states[0].shape[2:]
        mean = bias
        with without_autocast(bias.device.type):
            for matrix, feature in zip(matrices, encoder_hidden_states, strict=True):
                by_rows, by_columns = interpolation_matrices(feature.shape[2:], new_size, bias)
                weights = torch.outer(by_rows.mean(dim=0), by_columns.mean(dim=0)).flatten()
                mean = mean + matrix @ (feature.to(bias.dtype).mean(dim=0).flatten(1) @ weights)
        return mean

    def batch_statistics(
        self, encoder_hidden_states: Sequence[torch.Tensor], fused: torch.Tensor | None = None
    ) -> dict[nn.Module, Statistics]:
        """
        What the norm's `running_mean` and `running_var` would be if they were those of this batch, differentiable, by
        the norm; nothing where it is frozen. `fused` is what [`fuse`] gives, if it is known.
        """
        norm = active_module(self.batch_norm)
        if not norm.training:
            return {}
        if isinstance(norm, CenteringBatchNorm2d):
            mean = self._mean_of_fused(encoder_hidden_states, *self.folded_maps())
            return {norm: (mean / norm.row_scale(), norm.running_var.clone())}
        fused = self.fuse(encoder_hidden_states) if fused is None else fused
        variance, mean = torch.var_mean(at_least_float32(fused), dim=(0, 2, 3), correction=0)
        return {norm: (mean, variance)}

    def eval_maps(self) -> DecodeHeadMaps:
        """The head in eval mode, from the weights as they are now; differentiable."""
        *_, norm, classifier = self.active_layers()
        matrices, bias = self.folded_maps()
        scale, shift = self.eval_affine()
        if not isinstance(norm, CenteringBatchNorm2d):
            matrices = [matrix * scale[:, None] for matrix in matrices]
        return DecodeHeadMaps(matrices, bias * scale + shift, plain_matrix(classifier), classifier.bias)

    def eval_affine(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and shift `(decoder_hidden_size,)`, at least float32, of the fused features in eval mode."""
        norm = active_module(self.batch_norm)
        if isinstance(norm, CenteringBatchNorm2d):
            shift = norm.shift()
            return torch.ones_like(shift), shift
        weight, bias, mean, variance = map(
            at_least_float32, (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        )
        scale = weight * torch.rsqrt(variance + norm.eps)
        return scale, bias - scale * mean
