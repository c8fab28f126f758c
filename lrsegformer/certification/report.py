"""What a model's constraint bounds, layer by layer and for the head."""

from typing import TYPE_CHECKING, Any

import torch

from lrsegformer.layers.base import LipschitzConstraint
from lrsegformer.layers.norms import ROUNDING_MARGIN, operator_norm

if TYPE_CHECKING:
    from lrsegformer.models import LRSegformerForImageClassification, LRSegformerForSemanticSegmentation
    from lrsegformer.models.decode_head import LRSegformerDecodeHead

# The norms in which layer norms compose through upsampling and over the four scales (docs/lipschitz_constraints.md).
HEAD_NORMS = {
    "l2": "per-pixel l2: sqrt(sum over scales of max over pixels of |x_i(p)|_2^2)",
    "linf": "linf",
    "l1": "per-pixel l1: sum over scales of max over pixels of |x_i(p)|_1",
}


@torch.no_grad()
def lipschitz_report(
    model: "LRSegformerForSemanticSegmentation | LRSegformerForImageClassification",
) -> dict[str, Any]:
    """See [`~lrsegformer.models.modeling_lrsegformer.LipschitzHeadMixin.lipschitz_report`]."""
    rows = []
    for name, layer in model.constrained_layers().items():
        row_scale = model.row_scale_of(layer)
        rows.append(
            {
                "name": name,
                "norm": layer.norm,
                "bound": layer.lipschitz_bound(row_scale).item(),
                "exact": operator_norm(layer.effective_weight(row_scale), layer.norm).item(),
                "guaranteed": True,
                "limited": layer.limits_norm,
            }
        )
    return {
        "strategy": model.config.lipschitz_strategy,
        "scope": model.config.lipschitz_scope if rows else None,
        "layers": rows,
        "head": _head_report(model),
    }


def _head_report(model: Any) -> dict[str, Any]:
    config = model.config
    if config.lipschitz_strategy is None:
        return _unbounded("Baseline: no layer is constrained, and the head has no bound.")
    if not hasattr(model, "decode_head"):
        classifier: LipschitzConstraint = model.classifier
        return {
            "norm": classifier.norm,
            "bound": classifier.lipschitz_bound().item(),
            "guaranteed": True,
            "note": _limit_note(classifier, "The classifier, on the mean of the last stage's positions."),
        }
    if config.lipschitz_scope == "projections":
        return _unbounded(
            "Scope 'projections': only the four projections are constrained. The fuse convolution, BatchNorm and the "
            "classifier are free, so the constraint does not bound the head."
        )
    return _bounded_head(model.decode_head)


def _unbounded(note: str) -> dict[str, Any]:
    return {"norm": None, "bound": None, "guaranteed": False, "note": note}


def _bounded_head(head: "LRSegformerDecodeHead") -> dict[str, Any]:
    """
    The bound from the stage features to the low-resolution logits, as a product of the layers' bounds.

    Bilinear upsampling is an average (norm 1 in all three norms), ReLU and eval-mode dropout have norm 1, centring
    adds a constant. The four scales have inputs of their own, so the largest of their projections' bounds counts.
    `folded_bound` takes the norm of the product of projections and fuse convolution in place of the product of norms.
    Proof in docs/lipschitz_constraints.md.
    """
    projections = torch.stack([projection.proj.lipschitz_bound() for projection in head.linear_projections])
    norm = head.classifier.norm
    fuse_bound = head.linear_fuse.lipschitz_bound(head.fuse_row_scale())
    classifier_bound = head.classifier.lipschitz_bound()
    matrices, _ = head.folded_maps()
    folded = operator_norm(torch.cat(matrices, dim=1), norm) * (1 + ROUNDING_MARGIN)
    note = "From the features of all stages to the logits before upsampling, in eval mode; not from the image."
    return {
        "norm": HEAD_NORMS[norm],
        "bound": (classifier_bound * fuse_bound * projections.max()).item(),
        "folded_bound": (classifier_bound * folded).item(),
        "guaranteed": True,
        "note": _limit_note(head.classifier, note),
    }


def _limit_note(layer: LipschitzConstraint, note: str) -> str:
    return note if layer.limits_norm else f"{note} True of these weights, but nothing limits it during training."
