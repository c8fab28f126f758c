"""What a constraint bounds, layer by layer and for the head."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from lrsegformer.certification.head import HeadParts
from lrsegformer.certification.parts import Constrained
from lrsegformer.errors import InputError
from lrsegformer.layers.norms import NORMS

# The norms in which layer norms compose through upsampling and over the four scales (docs/lipschitz_constraints.md).
NORM_NAMES = {
    "per_pixel_l2": "per-pixel l2: sqrt(sum over scales of max over pixels of |x_i(p)|_2^2)",
    "linf": "linf",
    "per_pixel_l1": "per-pixel l1: sum over scales of max over pixels of |x_i(p)|_1",
}
NOTES = {
    "baseline": "Baseline: no layer is constrained, and the head has no bound that training keeps. Its norms are true "
    "of these weights in eval mode; nothing limits them.",
    "projections": "Scope 'projections': only the four projections are constrained. The fuse convolution, BatchNorm "
    "and the classifier are free, so the constraint does not bound the head. Its norms are true of these weights in "
    "eval mode; nothing limits them.",
    "network": "Scope 'network': every linear map and convolution is bounded. From the pixels to the logits there is "
    "no bound, because LayerNorm and dot-product attention have none.",
    "not limited": "True of these weights, but nothing limits it during training.",
}


def build_report(
    strategy: str | None, scope: str, dtype: torch.dtype, layers: Sequence[Constrained], head: HeadParts
) -> dict[str, Any]:
    """
    The report of [`~lrsegformer.models.lipschitz_head.LipschitzHeadMixin.lipschitz_report`].

    Args:
        strategy (`str`, *optional*), scope (`str`): the model's.
        dtype (`torch.dtype`): the precision in which the head computes; that of `head`'s matrices before float64.
        layers (`Sequence[Constrained]`): all constrained layers.
        head ([`~lrsegformer.certification.head.HeadParts`]): the head.

    Raises:
        [`~lrsegformer.errors.InputError`]: for a `dtype` that is not a floating-point one.
    """
    if not dtype.is_floating_point:
        raise InputError(f"lipschitz_report needs a floating-point dtype, not {dtype}.")
    report = {
        "strategy": strategy,
        "scope": scope if layers else None,
        "dtype": str(dtype).removeprefix("torch."),
        "layers": [layer_row(part, dtype) for part in layers],
        "head": _head_report(strategy, head),
    }
    if layers and scope == "network":
        report["network"] = {"bound": None, "guaranteed": False, "note": NOTES["network"]}
    return report


def layer_row(part: Constrained, dtype: torch.dtype) -> dict[str, Any]:
    """The row of one layer."""
    layer = part.layer
    weight = layer.effective_weight(part.row_scale).to(dtype)
    finite = bool(torch.isfinite(weight).all())
    norms = {norm: layer.map_norm(weight, norm).item() if finite else math.inf for norm in NORMS}
    bound = layer.lipschitz_bound(part.row_scale, dtype=dtype).item()
    return {
        "name": part.name,
        "norm": layer.norm,
        "bound": bound,
        "exact": norms[layer.norm] if layer.norm_is_exact(layer.norm) else None,
        "share": norms[layer.norm] / bound if bound else 1.0,  # a map of 0 has all of its bound of 0
        "operator_norms": norms,
        "bounded_norms": [norm for norm in NORMS if not layer.norm_is_exact(norm)],
        "guaranteed": True,
        "limited": layer.limits_norm,
    }


def _head_report(strategy: str | None, head: HeadParts) -> dict[str, Any]:
    norm = head.bounded_norm()
    if norm is None:
        note = NOTES["baseline" if strategy is None else "projections"]
        report = {"norm": None, "bound": None, "product_of_bounds": None, "guaranteed": False, "note": note}
        return {**report, "norms": _norm_table(head, limited=None)}
    is_limited = head.last_layer().layer.limits_norm
    return {
        "norm": NORM_NAMES.get(norm.name, norm.name),
        "bound": head.bound(norm),
        # What the constraint limits directly. A cast to a lower precision may lift the head's norm above it by that
        # precision's rounding.
        "product_of_bounds": head.constrained.constant(norm).item(),
        "guaranteed": True,
        "note": head.reach if is_limited else f"{head.reach} {NOTES['not limited']}",
        "norms": _norm_table(head, limited=norm.channels if is_limited else None),
    }


def _norm_table(head: HeadParts, limited: str | None) -> dict[str, dict[str, Any]]:
    """A row a norm; `limited` is the norm of a layer that the constraint limits."""
    return {norm.name: {**head.row(norm), "limited": norm.channels == limited} for norm in head.norms}
