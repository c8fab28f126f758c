"""The heads of the models as certification reads them: parts with their matrices, from the weights as they are now."""

from collections.abc import Sequence
from itertools import accumulate
from operator import mul

import torch

from lrsegformer.certification.head import HeadParts
from lrsegformer.certification.parts import (
    MAP_NORMS,
    RELU,
    VECTOR_NORMS,
    Chain,
    Constrained,
    Linear,
    Part,
    SideBySide,
    UpsampledSum,
    Upsampling,
)
from lrsegformer.layers.base import LipschitzConstraint
from lrsegformer.models.decode_head import LRSegformerDecodeHead, plain_matrix
from lrsegformer.models.normalization import CenteringBatchNorm2d


def decode_head_parts(head: LRSegformerDecodeHead, dtype: torch.dtype) -> HeadParts:
    """
    A decode head in eval mode, constrained or not.

    Args:
        dtype (`torch.dtype`):
            The precision in which the head computes. It folds fuse convolution and projections in float32 (float64 if
            they are) and casts the product, so the matrices are the cast ones; those of its layers are cast only where
            the head casts them alone.
    """
    scale, fuse_scale = _scale_after(head), head.fuse_row_scale()
    upsamplings = [Upsampling(factor) for factor in accumulate(head.config.strides[1:], mul, initial=1)]
    folded, _ = head.folded_maps()
    # A plain BatchNorm multiplies the outputs of the cast matrices.
    maps = [Linear(f"stage_{stage}", scale * matrix.to(dtype).double()) for stage, matrix in enumerate(folded)]
    names = [f"linear_projections.{stage}.proj" for stage in range(len(folded))]
    layers = head.active_layers()
    classifier = Linear("classifier", plain_matrix(layers.classifier).to(dtype).double())
    constrained = None
    if isinstance(layers.classifier, LipschitzConstraint):
        bounded = [Constrained(name, layer) for name, layer in zip(names, layers.projections, strict=True)]
        fuse = Constrained("linear_fuse", layers.fuse, fuse_scale)
        constrained = _layer_by_layer(bounded, upsamplings, fuse, Constrained("classifier", layers.classifier))
    projections = zip(names, layers.projections, strict=True)
    matrices = [Linear(name, plain_matrix(layer).double()) for name, layer in projections]
    fuse = Linear("linear_fuse", scale * plain_matrix(layers.fuse, fuse_scale).double())
    return HeadParts(
        reach="From the features of all stages to the logits before upsampling, in eval mode; not from the image.",
        norms=MAP_NORMS,
        to_relu=UpsampledSum("to_relu", list(zip(maps, upsamplings, strict=True))),
        classifier=classifier,
        layers=_layer_by_layer(matrices, upsamplings, fuse, classifier),
        constrained=constrained,
    )


def classifier_parts(classifier: torch.nn.Linear, dtype: torch.dtype) -> HeadParts:
    """A classifier on the mean over the last stage's positions; `dtype` as in [`decode_head_parts`]."""
    linear = Linear("classifier", plain_matrix(classifier).to(dtype).double())
    is_constrained = isinstance(classifier, LipschitzConstraint)
    return HeadParts(
        reach="The classifier, on the mean of the last stage's positions.",
        norms=VECTOR_NORMS,
        to_relu=None,
        classifier=linear,
        layers=Chain("head", [linear]),
        constrained=Chain("head", [Constrained("classifier", classifier)]) if is_constrained else None,
    )


def _layer_by_layer(
    projections: Sequence[Part], upsamplings: Sequence[Upsampling], fuse: Part, classifier: Part
) -> Chain:
    """The stock head's order, in which every scale is upsampled before it is fused."""
    branches = [Chain(part.name, [part, up]) for part, up in zip(projections, upsamplings, strict=True)]
    return Chain("head", [SideBySide("linear_projections", branches), fuse, RELU, classifier])


def _scale_after(head: LRSegformerDecodeHead) -> torch.Tensor:
    """Factors `(channels, 1)`, float64, by which a plain BatchNorm in eval mode multiplies what the head has fused."""
    norm = head.active_layers().norm
    if isinstance(norm, CenteringBatchNorm2d):
        return torch.ones((), dtype=torch.float64, device=norm.weight.device)
    return (norm.weight.double() * torch.rsqrt(norm.running_var.double() + norm.eps))[:, None]
