"""What a model's constraint bounds, layer by layer and for the head."""

from typing import TYPE_CHECKING, Any

import torch

from lrsegformer.certification.head import (
    ClassifierNorms,
    DecodeHeadNorms,
    bounded_norm,
    finite_norm,
    head_classifier,
    head_dtype,
    head_norms,
)
from lrsegformer.errors import InputError
from lrsegformer.layers.base import LipschitzConstraint
from lrsegformer.layers.norms import NORMS

if TYPE_CHECKING:
    from lrsegformer.certification.head import Model

# The norms in which layer norms compose through upsampling and over the four scales (docs/lipschitz_constraints.md).
NORM_NAMES = {
    "per_pixel_l2": "per-pixel l2: sqrt(sum over scales of max over pixels of |x_i(p)|_2^2)",
    "linf": "linf",
    "per_pixel_l1": "per-pixel l1: sum over scales of max over pixels of |x_i(p)|_1",
}
NOTES = {
    "segmentation": "From the features of all stages to the logits before upsampling, in eval mode; not from the "
    "image.",
    "classification": "The classifier, on the mean of the last stage's positions.",
    "baseline": "Baseline: no layer is constrained, and the head has no bound that training keeps. Its norms are true "
    "of these weights in eval mode; nothing limits them.",
    "projections": "Scope 'projections': only the four projections are constrained. The fuse convolution, BatchNorm "
    "and the classifier are free, so the constraint does not bound the head. Its norms are true of these weights in "
    "eval mode; nothing limits them.",
    "not limited": "True of these weights, but nothing limits it during training.",
}


@torch.no_grad()
def lipschitz_report(model: "Model", dtype: torch.dtype | None = None) -> dict[str, Any]:
    """See [`~lrsegformer.models.modeling_lrsegformer.LipschitzHeadMixin.lipschitz_report`]."""
    dtype = head_dtype(model) if dtype is None else dtype
    if not dtype.is_floating_point:
        raise InputError(f"lipschitz_report needs a floating-point dtype, not {dtype}.")
    rows = [
        _layer_row(name, layer, model.row_scale_of(layer), dtype) for name, layer in model.constrained_layers().items()
    ]
    return {
        "strategy": model.config.lipschitz_strategy,
        "scope": model.config.lipschitz_scope if rows else None,
        "dtype": str(dtype).removeprefix("torch."),
        "layers": rows,
        "head": _head_report(model, dtype),
    }


def _layer_row(
    name: str, layer: LipschitzConstraint, row_scale: torch.Tensor | None, dtype: torch.dtype
) -> dict[str, Any]:
    weight = layer.effective_weight(row_scale).to(dtype)
    norms = {norm: finite_norm(weight, norm) for norm in NORMS}
    bound = layer.lipschitz_bound(row_scale, dtype=dtype).item()
    return {
        "name": name,
        "norm": layer.norm,
        "bound": bound,
        "exact": norms[layer.norm],
        "share": norms[layer.norm] / bound,
        "operator_norms": norms,
        "guaranteed": True,
        "limited": layer.limits_norm,
    }


def _head_report(model: "Model", dtype: torch.dtype) -> dict[str, Any]:
    norms = head_norms(model, dtype)
    name = bounded_norm(model, norms)
    if name is None:
        note = NOTES["baseline" if model.config.lipschitz_strategy is None else "projections"]
        report = {"norm": None, "bound": None, "product_of_bounds": None, "guaranteed": False, "note": note}
        return {**report, "norms": _norm_table(norms, limited=None)}
    classifier = head_classifier(model)
    note = NOTES["segmentation" if hasattr(model, "decode_head") else "classification"]
    return {
        "norm": NORM_NAMES.get(name, name),
        "bound": norms.bound(name),
        "product_of_bounds": _product_of_bounds(model),
        "guaranteed": True,
        "note": note if classifier.limits_norm else f"{note} {NOTES['not limited']}",
        "norms": _norm_table(norms, limited=classifier.norm if classifier.limits_norm else None),
    }


def _norm_table(norms: DecodeHeadNorms | ClassifierNorms, limited: str | None) -> dict[str, dict[str, Any]]:
    """A row a norm; `limited` is the norm of a layer that the constraint limits."""
    return {name: {**norms.row(name), "limited": norm == limited} for name, norm in norms.norms.items()}


def _product_of_bounds(model: "Model") -> float:
    """
    The bound of the head that the constraint limits directly: the product of the layers' guaranteed bounds.

    Bilinear upsampling is an average (norm 1 in the norms per pixel), ReLU and eval-mode dropout have norm 1, centring
    adds a constant. The four scales have inputs of their own, so the largest of their projections' bounds counts. Of
    the float32 (or float64) weights; a cast to a lower precision may lift the head's norm above it by that precision's
    rounding. Proof in docs/lipschitz_constraints.md.
    """
    bounds = {}
    for name, layer in model.constrained_layers().items():
        dtype = torch.promote_types(layer.weight.dtype, torch.float32)
        bounds[name] = layer.lipschitz_bound(model.row_scale_of(layer), dtype=dtype).item()
    if not hasattr(model, "decode_head"):
        return bounds["classifier"]
    projections = max(bound for name, bound in bounds.items() if ".linear_projections." in name)
    return bounds["decode_head.classifier"] * bounds["decode_head.linear_fuse"] * projections
